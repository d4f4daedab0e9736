"""Pictures of results for a page: the package's own figures, and perturbations, as data links."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from ridgeline.analysis.figures import FIGURES, draw
from ridgeline.analysis.figures.layout import subplots
from ridgeline.analysis.figures.style import PAGE, style
from ridgeline.analysis.look import Look
from ridgeline.analysis.page.plots import PLOTS
from ridgeline.analysis.page.sources import Source
from ridgeline.models.errors import InputError

_LARGE = 400_000  # bytes of an SVG above which a PNG is smaller and as good
_SHOWN = 6  # examples whose perturbations are shown
_DPI = 192  # of a PNG: two pixels for one of a page
_WIDE = 420  # pixels of a page, above which phones are shown a narrow picture
_HOUSE, _PHONE = Look(), Look(width="column")
#: variables of accuracies that the interactive plot does not show
_CLOSER = ("masking_value", "search_accuracy", "bin_accuracy", "class_accuracy",
           "transfer_accuracy")  # fmt: skip


@dataclass(frozen=True)
class Picture:
    """A picture as a data link, its width in pixels of a page, and one for phones if it is wide.

    A result that cannot be drawn gives its reason as the caption, and empty links.
    """

    caption: str
    link: str = ""
    width: int = 0
    narrow: str = ""

    @property
    def wide(self) -> bool:
        """Whether it takes the whole width of a page."""
        return self.width > _WIDE


def pictures(kind: str, sources: Sequence[Source]) -> Iterator[Picture]:
    """The pictures of results of one kind.

    Results are drawn together where their drawing can; each by itself where it cannot.
    """
    if kind == "adversaries":
        for source in sources:
            yield _picture(f"{source.name}: perturbations of {_SHOWN} images.",
                           lambda look, s=source: _perturbations(s, look))  # fmt: skip
    if kind in FIGURES and kind not in PLOTS:
        yield from _together(sources)
    if kind == "robustness":
        closer = [s for s in sources if any(name in s.result for name in _CLOSER)]
        if closer:
            yield from _together(closer)
    if kind == "spectrum":
        yield from _together(sources, "First filters of every network.", against="filters")


def _together(sources: Sequence[Source], caption: str = "", **options: str) -> Iterator[Picture]:
    """One picture of results of a kind, or one of each if they have none together."""
    held = {_plain(s.name): s.result for s in sources}
    try:
        yield _picture(caption or f"{', '.join(s.name for s in sources)}.",
                       lambda look: draw(held, **vars(look), **options))  # fmt: skip
    except InputError as error:
        if len(sources) == 1:
            yield Picture(f"{sources[0].name} cannot be drawn: {error}")
        else:
            for source in sources:
                yield from _together([source], caption, **options)


def _picture(caption: str, figure: Callable[[Look], Figure]) -> Picture:
    link, width = _link(figure(Look()))
    narrow = _link(figure(_PHONE), _PHONE)[0] if width > _WIDE else ""
    return Picture(caption, link, width, narrow)


def _plain(name: str) -> str:
    """A name that matplotlib does not take for mathematics."""
    return name.replace("$", r"\$")


def _perturbations(source: Source, look: Look) -> Figure:
    """Two rows: perturbations of the first draw, as grey and in colour, on one scale."""
    images = source.result["perturbation"].isel(draw=0, example=slice(_SHOWN)).values
    labels = source.result["label"].values[:_SHOWN]
    scale = float(np.abs(images).max()) or 1.0
    with style(look):
        figure, axes = subplots(1, len(images), figsize=(PAGE, PAGE / _SHOWN + 0.3), least=1.0,
                                squeeze=False)  # fmt: skip
        for panel, image, label in zip(axes.flat, images, labels, strict=True):
            shown = np.moveaxis(image / scale / 2 + 0.5, 0, -1)
            grey = shown.shape[-1] == 1
            panel.imshow(shown[..., 0] if grey else shown, cmap="gray", vmin=0, vmax=1)
            panel.set(xticks=[], yticks=[], title=f"class {label}")
    return figure


def _link(figure: Figure, look: Look = _HOUSE) -> tuple[str, int]:
    """A figure as a data link, and closed: SVG, or PNG where that is smaller. Then its width."""
    file = io.BytesIO()
    with style(look):
        figure.savefig(file, format="svg", metadata={"Date": None})
        form = "svg+xml"
        inches = float(re.search(rb'<svg[^>]* width="([0-9.]+)pt"', file.getvalue())[1]) / 72
        if file.tell() > _LARGE:
            file, form = io.BytesIO(), "png"
            figure.savefig(file, format="png", dpi=_DPI)
    plt.close(figure)
    data = base64.b64encode(file.getvalue()).decode()
    return f"data:image/{form};base64,{data}", round(inches * _DPI / 2)
