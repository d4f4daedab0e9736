"""Where panels and legends of figures go, in the width that is asked for."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import LogFormatter, LogFormatterSciNotation, MaxNLocator
from matplotlib.transforms import Bbox

from ridgeline.analysis.figures.style import Results, asked_width, pt
from ridgeline.models.errors import InputError

#: marks the texts of contour lines, which may be left out
LEVEL = "level"
_WIDEST = 8.2  # inches of a figure in a width of its own: a page with small margins
_LEAST = 2.0  # inches in which a panel with labels can be read
_LOW = 1.0  # inches; the least height of a panel that has a label


def subplots(
    rows: int = 1, columns: int = 1, *, figsize: tuple[float, float], least: float = _LEAST,
    across: int | None = None, squeeze: bool = True, **options: Any,
) -> tuple[Figure, Any]:  # fmt: skip
    """As matplotlib's, laid out without overlaps, in the width that is asked for.

    Where `columns` panels of `least` inches do not fit into it, or are more than `across`, they go
    on below, `rows` at a time. The array of axes stays one of `rows` and `columns`. Without a width
    that is asked for, panels that a page cannot hold beside each other go on below, too.
    """
    width = asked_width()
    if width is None and across is None and figsize[0] > _WIDEST:
        across = math.ceil(columns / math.ceil(figsize[0] / _WIDEST))
    if width is None and across is not None and columns > across:
        width = figsize[0] / columns * across
    if width is None:
        return plt.subplots(rows, columns, figsize=figsize, squeeze=squeeze, layout="constrained",
                            **options)  # fmt: skip
    fit = min(fitting(columns, figsize[0] / columns, least), across or columns)
    bands = -(-columns // fit)
    height = figsize[1] * bands * _stretch(figsize[0] / columns, width / fit, bands)
    heights = np.tile(options.pop("height_ratios", None) or [1] * rows, bands)
    widths = options.pop("width_ratios", None) if bands == 1 else None
    figure = plt.figure(figsize=(width, height), layout="constrained")
    cells = figure.add_gridspec(bands * rows, fit, height_ratios=heights, width_ratios=widths)
    grid = np.empty((rows, columns), dtype=object)
    share = {axis: options.pop(f"share{axis}", False) for axis in "xy"}
    for row, column in np.ndindex(rows, columns):
        first = {"row": (row, 0), "col": (0, column), True: (0, 0), "all": (0, 0)}
        shared = {f"share{a}": grid[first[s]] for a, s in share.items() if s}
        band, place = divmod(column, fit)
        grid[row, column] = axes = figure.add_subplot(
            cells[band * rows + row, place], **shared, **options.get("subplot_kw") or {}
        )
        if share["y"] in ("row", True, "all") and place:
            axes.tick_params(labelleft=False)
        if share["x"] in ("col", True, "all") and row + 1 < rows:
            axes.tick_params(labelbottom=False)
    if squeeze:
        return figure, grid.item() if grid.size == 1 else grid.squeeze()
    return figure, grid


def over_epochs(*panels: Axes) -> None:
    """Call x axes epochs, and give them whole numbers as ticks."""
    for axes in panels:
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def fitting(columns: int, each: float, least: float = _LEAST) -> int:
    """How many of `columns` panels, each so wide by itself, stand beside each other."""
    width = asked_width()
    if width is None:
        return columns
    return min(columns, max(1, int(width / pt(min(each, least)) + 1e-9)))


def alike_by(results: Results, dim: str) -> list[dict[str, xr.Dataset]]:
    """Results in groups that have the same names along `dim`."""
    groups: dict[tuple[str, ...], dict[str, xr.Dataset]] = {}
    for label, ds in results.items():
        groups.setdefault(tuple(map(str, ds[dim].values)), {})[label] = ds
    return list(groups.values())


def panels_for(groups: Sequence[object], axes: Axes | None, figsize: tuple[float, float]) -> list:
    """A panel of a new figure per group, one below the other with one y axis; or the given axes.

    Raises InputError for axes that several groups do not fit into.
    """
    if axes is None:
        grid = subplots(1, len(groups), figsize=(figsize[0] * len(groups), figsize[1]), across=1,
                        squeeze=False, sharey=True)[1]  # fmt: skip
        return list(grid[0])
    if len(groups) > 1:
        raise InputError("networks that differ in their layers need a panel each: draw them "
                         "without axes")  # fmt: skip
    return [axes]


def sized(width: float, height: float) -> tuple[float, float]:
    """A size in inches, brought to the width that is asked for."""
    asked = asked_width()
    return (width, height) if asked is None else (asked, height * _stretch(width, asked))


def _stretch(before: float, after: float, bands: int = 1) -> float:
    """By how much a height changes with its width: less, so that its text keeps its room."""
    return float(np.clip(after / before, 0.75, 1.25 if bands == 1 else 1.0))


def make_room(figure: Figure) -> None:
    """Let a figure grow whose panels are lower than their labels, and labels of ticks part.

    Panels that were moved below the first one get its label of the shared y axis. Titles and labels
    that are wider than the place of their panel are broken.
    """
    plain_logs(figure)
    _mark_single_points(figure)
    whole: dict[Text, str] = {}
    for _ in range(2):  # the layout changes where the first ones are broken
        figure.draw_without_rendering()
        wrap_names(figure, whole)
    panels = [p for p in figure.axes if p.get_subplotspec() and p.name != "3d"]
    for panel in panels:  # one that begins a later line of panels lacks what the first one says
        if panel.get_subplotspec().is_first_col() and not panel.get_ylabel():
            kin = panel.get_shared_y_axes().get_siblings(panel)
            panel.set_ylabel(next(filter(None, (p.get_ylabel() for p in kin)), ""))
    lack = [max(p.yaxis.label.get_window_extent().height, figure.dpi * _LOW) - p.bbox.height
            for p in panels if p.get_ylabel() and p.get_aspect() == "auto"]  # fmt: skip
    rows = max((p.get_subplotspec().get_gridspec().nrows for p in panels), default=1)
    bars = [p.yaxis.label.get_window_extent().height for p in figure.axes if p not in panels]
    lack += [(height - 0.95 * figure.bbox.height) / rows for height in bars]
    if max(lack, default=0) > 1:
        figure.set_figheight(figure.get_figheight() + rows * max(lack) / figure.dpi)
        figure.draw_without_rendering()
    for axes in figure.axes:
        if axes.name != "3d" and axes.axison:
            spread(axes)
        thin([text for text in axes.texts if text.get_gid() == LEVEL and text.get_visible()])


def _mark_single_points(figure: Figure) -> None:
    """Give lines of one point a marker: without one they are not seen."""
    for line in (line for axes in figure.axes for line in axes.lines):
        if len(line.get_xdata()) == 1 and line.get_marker() in ("", "None", None):
            line.set_marker("o")


def wrap_names(figure: Figure, whole: dict[Text, str]) -> None:
    """Break titles and labels that reach beyond the middle of the gap beside their panel.

    `whole` keeps what they said before.
    """
    boxes = [axes.bbox for axes in figure.axes]
    for axes in figure.axes:
        if axes.get_subplotspec() is None or axes.name == "3d" or not axes.axison:
            continue
        own, middle = axes.bbox, (axes.bbox.x0 + axes.bbox.x1) / 2
        row = [box for box in boxes if box.y0 < own.y1 and own.y0 < box.y1]
        left = max((box.x1 for box in row if box.x1 <= own.x0), default=-own.x0)
        right = min((box.x0 for box in row if box.x0 >= own.x1),
                    default=2 * figure.bbox.width - own.x1)  # fmt: skip
        room = 2 * min(middle - (left + own.x0) / 2, (right + own.x1) / 2 - middle)
        for text in (axes.title, axes.xaxis.label):
            _wrap(text, text.get_window_extent().width, 0.95 * room, whole)
        if axes.get_aspect() != "auto":  # others can grow
            text = axes.yaxis.label
            _wrap(text, text.get_window_extent().height, own.height, whole)


def _wrap(text: Text, length: float, room: float, whole: dict[Text, str]) -> None:
    """Break a text where its longest line is longer than there is room for."""
    lines = text.get_text().splitlines()
    if lines and length > room > 0:
        letters = max(int(max(map(len, lines)) * 0.95 * room / length), 8)
        said = whole.setdefault(text, text.get_text()).splitlines()
        text.set_text("\n".join(broken(line, letters) for line in said))


def broken(text: str, letters: int) -> str:
    r"""A text in lines of so many letters, broken at spaces and behind underscores, never a word.

    A name with its value stays together, "ε = 0.1", and a unit, "[filter norm]".

    >>> broken("the loss of at_all_run_2 at ε = 0.1", 12)
    'the loss of\nat_all_run_2\nat ε = 0.1'
    """
    lines = [""]
    text = re.sub(r"\[[^]]*\]", lambda unit: unit[0].replace(" ", "\xa0"), text)
    for word in text.replace(" = ", "\xa0=\xa0").split(" "):
        for number, part in enumerate(re.findall("[^_]*_+|[^_]+", word)):
            gap = "" if number or not lines[-1] else " "
            if lines[-1] and len(lines[-1] + gap + part) > letters:
                lines.append(part)
            else:
                lines[-1] += gap + part
    return "\n".join(lines).replace("\xa0", " ")


class _Plain(LogFormatter):
    """Numbers as they are read, where matplotlib labels a logarithmic axis."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:.4g}" if super().__call__(x, pos) else ""


def plain_logs(figure: Figure) -> None:
    """Label logarithmic axes within 0.001 to 100000 by plain numbers, 20 and not 2 x 10^1."""
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            own = type(axis.get_major_formatter()) is LogFormatterSciNotation
            if axis.get_scale() == "log" and own and low >= 1e-3 and high <= 1e5:
                axis.set_major_formatter(_Plain())
                axis.set_minor_formatter(_Plain(minor_thresholds=(1.5, 0.4)))


def spread(axes: Axes) -> None:
    """Leave out the labels of ticks that run into one nearer to the axis's 0, or to its middle."""
    for axis in (axes.xaxis, axes.yaxis):
        low, high = sorted(axis.get_view_interval())
        ticks = [t for t in axis.get_major_ticks() if t.label1.get_text()
                 and low <= t.get_loc() <= high]  # fmt: skip
        middle = min(ticks, key=lambda t: abs(t.get_loc()), default=None)
        taken: list[Bbox] = []
        for tick in sorted(ticks, key=lambda t: abs(ticks.index(t) - ticks.index(middle))):
            for label in (tick.label1, tick.label2):
                box = label.get_window_extent()
                if label.get_rotation() % 90 or not label.get_visible() or not box.width:
                    continue
                if any(box.overlaps(other) for other in taken):
                    label.set_visible(False)
                taken.append(box)


def thin(texts: Sequence[Text]) -> None:
    """Leave out texts that lie on one before them, or reach beyond their panel."""
    for text in texts[:1]:
        text.axes.figure.draw_without_rendering()
    taken: list[Bbox] = []
    for text in texts:
        box = text.get_window_extent()
        panel = text.axes.bbox
        inside = panel.x0 <= box.x0 and panel.y0 <= box.y0 and box.x1 <= panel.x1
        if not (inside and box.y1 <= panel.y1) or any(box.overlaps(other) for other in taken):
            text.set_visible(False)
        else:
            taken.append(box)


def unpile(texts: Sequence[Text]) -> None:
    """Move texts that stand beside their points upwards until none lies on another.

    Texts that reach beyond the right end of their panel go to the other side of their points.
    """
    taken: list[Bbox] = []
    for text in texts:
        text.axes.figure.draw_without_rendering()
        if text.get_window_extent().x1 > text.axes.bbox.x1:
            text.set(ha="right", x=-text.get_position()[0])
        for _ in texts:
            box = text.get_window_extent()
            if not any(box.overlaps(other) for other in taken):
                break
            x, y = text.get_position()
            text.set_position((x, y + 72 * box.height / text.axes.figure.dpi))
        taken.append(text.get_window_extent())
