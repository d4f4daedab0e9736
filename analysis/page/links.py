"""Figures of matplotlib as data links."""

from __future__ import annotations

import base64
import io
import re

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from ridgeline.analysis.figures.style import style
from ridgeline.analysis.look import Look

HOUSE = Look()
_LARGE = 400_000  # bytes of an SVG above which a PNG is smaller and as good
_DPI = 192  # of a PNG: two pixels for one of a page


def link(figure: Figure, look: Look = HOUSE) -> tuple[str, int]:
    """A figure as a data link, and closed: SVG, or PNG where that is smaller. Then its width."""
    file = io.BytesIO()
    with style(look):
        figure.savefig(file, format="svg", metadata={"Date": None})
    inches = float(re.search(rb'<svg[^>]* width="([0-9.]+)pt"', file.getvalue())[1]) / 72
    if file.tell() > _LARGE:
        return png(figure, look), round(inches * _DPI / 2)
    plt.close(figure)
    return _data(file, "svg+xml"), round(inches * _DPI / 2)


def png(figure: Figure, look: Look = HOUSE) -> str:
    """A figure as a data link of pixels, and closed."""
    file = io.BytesIO()
    with style(look):
        figure.savefig(file, format="png", dpi=_DPI)
    plt.close(figure)
    return _data(file, "png")


def _data(file: io.BytesIO, form: str) -> str:
    return f"data:image/{form};base64,{base64.b64encode(file.getvalue()).decode()}"
