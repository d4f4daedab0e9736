"""Where legends stand: in a panel above its data, or outside all panels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend

from ridgeline.analysis.figures.layout import broken

_INSIDE: ContextVar[bool] = ContextVar("inside", default=False)
_FREE_ROWS = 2  # rows of a legend that the height of a figure has room for


@contextmanager
def inside() -> Iterator[None]:
    """Legends stand in their panels, whatever they take of them: for pages of several drawings."""
    token = _INSIDE.set(True)
    try:
        yield
    finally:
        _INSIDE.reset(token)


def legend(*panels: Axes) -> None:
    """Legends where they hide nothing: below a panel that is alone, above the data of others.

    One that takes more than a part of its panel stands below all panels.

    Call it when the figure is complete: its layout decides how high a panel is.
    """
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        if not handles:
            continue
        alone = len({p.get_subplotspec() for p in axes.figure.axes} - {None}) < 2
        if not alone and _fits(axes, handles, labels):
            continue
        if _INSIDE.get():
            axes.legend(handles, labels)
        else:
            _below(axes.figure, handles, labels)
    headroom(*(axes for axes in panels if axes.get_legend() is not None))


def _fits(axes: Axes, handles: Sequence[Artist], labels: Sequence[str]) -> bool:
    """Put a legend into a panel, unless it takes more than a part of it."""
    found = axes.legend(handles, labels, ncols=2 if len(labels) > 4 else 1)
    found.set_in_layout(False)  # a panel does not shrink for what stands in it
    axes.figure.draw_without_rendering()
    box = found.get_window_extent()
    if box.width < 0.9 * axes.bbox.width and box.height < 0.45 * axes.bbox.height:
        return True
    found.remove()
    return False


def _below(figure: Figure, handles: Sequence[Artist], labels: Sequence[str]) -> None:
    """One legend below all panels, with what one that is there already says."""
    handles, labels = list(handles), list(labels)
    for old in list(figure.legends):
        held = [t.get_text().replace("_\n", "_").replace("\n", " ") for t in old.get_texts()]
        more = [(h, t) for h, t in zip(old.legend_handles, held, strict=True) if t not in labels]
        handles, labels = [h for h, _ in more] + handles, [t for _, t in more] + labels
        old.remove()
    legend_of(figure, handles, labels)


def legend_of(
    figure: Figure, handles: Sequence[Artist], labels: Sequence[str], where: str = "lower",
    most: int = 5, **look: Any,
) -> None:  # fmt: skip
    """One legend outside all panels, in as many columns up to `most` as fit into the figure.

    Labels that are too long for one column are broken; a figure grows by what a high legend takes.
    """
    if not handles:
        return

    def made(columns: int, texts: Sequence[str]) -> Legend:
        return figure.legend(handles, texts, loc=f"outside {where} center", ncols=columns, **look)

    room = figure.bbox.width * 0.98
    for columns in range(min(len(labels), most), 0, -1):
        found = made(columns, labels)
        extent = found.get_window_extent()
        if extent.width <= room:
            break
        if columns > 1:
            found.remove()
            continue
        letters = max(map(len, labels)) * room / extent.width - 8  # beside them stands the line
        found.remove()
        labels = [broken(text, max(12, int(letters))) for text in labels]
        found = made(1, labels)
        extent = found.get_window_extent()
    rows = -(-sum(1 + text.count("\n") for text in labels) // columns)
    if rows > _FREE_ROWS:
        extra = extent.height / figure.dpi * (1 - _FREE_ROWS / rows)
        figure.set_figheight(figure.get_figheight() + extra)


def headroom(*panels: Axes) -> None:
    """Put the legends of panels at their tops, and raise the y axes until they cover no data.

    Call it when the figure is complete: its layout decides how high a panel is.
    """
    for axes in panels:
        legend, panel = axes.get_legend(), axes.bbox
        legend.set_loc("upper right")
        axes.figure.draw_without_rendering()
        box, scale = legend.get_window_extent(), axes.yaxis.get_transform()
        below = (box.y0 - (panel.y1 - box.y1) - panel.y0) / panel.height  # as much space as above
        (bottom, top), data = axes.get_ylim(), axes.dataLim.ymax
        bottom, top, data = scale.transform([bottom, top, data])
        if data - bottom > below * (top - bottom):
            top = bottom + (data - bottom) / max(below, 0.1)
            axes.set_ylim(top=scale.inverted().transform(top))
