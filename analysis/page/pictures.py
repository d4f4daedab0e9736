"""Pictures of results for a page: the package's own figures, and perturbations, as data links."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from ridgeline.analysis.figures import FIGURES, draw
from ridgeline.analysis.figures.frequency import draw_filters
from ridgeline.analysis.figures.style import PAGE, style
from ridgeline.analysis.page.plots import PLOTS
from ridgeline.analysis.page.sources import Source
from ridgeline.models.errors import InputError

_LARGE = 400_000  # bytes of an SVG above which a PNG is smaller and as good
_SHOWN = 6  # examples whose perturbations are shown


def pictures(kind: str, sources: Sequence[Source]) -> Iterator[tuple[str, str]]:
    """Caption and data link of every picture of results of one kind.

    A result that cannot be drawn gives its reason as the caption, and an empty link.
    """
    if kind == "adversaries":
        for source in sources:
            yield f"{source.name}: perturbations of {_SHOWN} images.", _link(_perturbations(source))
    if kind in FIGURES and kind not in PLOTS:
        for source in sources:
            try:
                figure = draw({_plain(source.name): source.result})
            except InputError as error:
                yield f"{source.name} cannot be drawn: {error}", ""
                continue
            yield f"{source.name}.", _link(figure)
    if kind == "spectrum":
        with style():
            figure = draw_filters({_plain(s.name): s.result for s in sources})
        yield "First filters of every network.", _link(figure)


def _plain(name: str) -> str:
    """A name that matplotlib does not take for mathematics."""
    return name.replace("$", r"\$")


def _perturbations(source: Source) -> Figure:
    """Two rows: perturbations of the first draw, as grey and in colour, on one scale."""
    images = source.result["perturbation"].isel(draw=0, example=slice(_SHOWN)).values
    labels = source.result["label"].values[:_SHOWN]
    scale = float(np.abs(images).max()) or 1.0
    with style():
        figure, axes = plt.subplots(
            1, len(images), figsize=(PAGE, PAGE / _SHOWN + 0.3), layout="constrained",
            squeeze=False,
        )  # fmt: skip
        for panel, image, label in zip(axes.flat, images, labels, strict=True):
            shown = np.moveaxis(image / scale / 2 + 0.5, 0, -1)
            grey = shown.shape[-1] == 1
            panel.imshow(shown[..., 0] if grey else shown, cmap="gray", vmin=0, vmax=1)
            panel.set(xticks=[], yticks=[], title=f"class {label}")
    return figure


def _link(figure: Figure) -> str:
    """A figure as a data link, and closed: SVG, or PNG where that is smaller."""
    file = io.BytesIO()
    with style():
        figure.savefig(file, format="svg", metadata={"Date": None})
        form = "svg+xml"
        if file.tell() > _LARGE:
            file, form = io.BytesIO(), "png"
            figure.savefig(file, format="png")
    plt.close(figure)
    return f"data:image/{form};base64,{base64.b64encode(file.getvalue()).decode()}"
