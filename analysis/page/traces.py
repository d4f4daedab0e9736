"""What all interactive plots are made of: numbers for JSON, lines, bands, axes, legends."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from ridgeline.analysis.page.sources import Source

#: the colours of matplotlib's figures, in hexadecimal
COLOURS = ("#0173b2", "#de8f05", "#029e73", "#d55e00", "#cc78bc", "#ca9161", "#fbafe4", "#949494")
_SYMBOLS = ("circle", "square", "diamond", "cross")  # one for each time the colours are used up
_DIGITS = 6
_LONG = 18  # characters of a name along an axis


class Entry(NamedTuple):
    """A line of a legend: its name, colour and shape, and the numbers of the traces it stands for.

    `again` is how often the colours were used up before it.
    """

    name: str
    colour: str
    bar: bool
    again: int
    traces: tuple[int, ...]


@dataclass(frozen=True)
class Plot:
    """A plot: what it shows in words, its traces, its layout, the names of its results.

    `part` tells plots of the same results apart that stand by themselves, as those of two budgets.
    `still` is a picture of the same as a data link, for paper and browsers without WebGL.
    """

    caption: str
    data: list[dict]
    layout: dict
    sources: tuple[str, ...] = ()
    part: str = ""
    still: str = ""

    @property
    def spatial(self) -> bool:
        """Whether it is drawn in 3-D."""
        return any(trace["type"] == "surface" for trace in self.data)

    @property
    def legend(self) -> list[Entry]:
        """Traces by name, in their order; those of one group are one entry."""
        groups: dict[str, list[int]] = {}
        for number, trace in enumerate(self.data):
            name = trace.get("legendgroup") or trace.get("name")
            if name:
                groups.setdefault(name, []).append(number)
        return [self._entry(name, numbers) for name, numbers in groups.items()]

    def _entry(self, name: str, numbers: list[int]) -> Entry:
        first = self.data[numbers[0]]
        again = first.get("meta", 0)
        return Entry(html.unescape(name), first["marker"]["color"], first["type"] == "bar", again,
                     tuple(numbers))  # fmt: skip


def names(sources: Sequence[Source]) -> tuple[str, ...]:
    """The names of results."""
    return tuple(s.name for s in sources)


def looks(ranks: Sequence[int]) -> list[int]:
    """A number for each line of a plot, by which `line` gives it its colour.

    The first line of a network has the number of the network, which is the same in all plots of
    a page; further ones have numbers that no other network of the plot has.

    >>> looks([2, 0, 2])
    [2, 0, 1]
    """
    found: list[int] = []
    for rank in ranks:
        used = {*ranks, *found}
        free = next(n for n in range(len(used) + 1) if n not in used)
        found.append(free if rank in found else rank)
    return found


def numbers(values: xr.DataArray | np.ndarray | list) -> list:
    """Values for JSON, rounded to what a screen can show; None where they are not finite."""
    array = np.asarray(values)
    if array.ndim > 1:
        return [numbers(row) for row in array]
    if array.dtype.kind not in "fiub":
        return [safe(v) for v in array]
    return [float(f"{v:.{_DIGITS}g}") if np.isfinite(v) else None for v in array.astype(float)]


def safe(name: object) -> str:
    """A name as plotly shows it: without the tags that it would obey."""
    return html.escape(str(name), quote=False)


def brief(name: object) -> str:
    """A name along an axis: one that is too long has its beginning and its end.

    >>> brief("trades_with_beta_6_and_seed_1"), brief("plain")
    ('trades_wit…_seed_1', 'plain')
    """
    text = str(name)
    if len(text) > _LONG:
        text = f"{text[: _LONG - 8]}…{text[-7:]}"
    return safe(text)


def line(x, y, name: str, number: int, error=None, dash: str = "solid", **more: Any) -> dict:
    """A line with markers in the number-th look, and error bars if it has errors."""
    colour, again = COLOURS[number % len(COLOURS)], number // len(COLOURS)
    marker = {"color": colour, "symbol": _SYMBOLS[again % len(_SYMBOLS)]}
    trace = {
        "type": "scatter", "mode": "lines+markers", "x": numbers(x), "y": numbers(y),
        "name": safe(name), "legendgroup": safe(name), "meta": again,
        "line": {"color": colour, "dash": dash}, "marker": marker,
    }  # fmt: skip
    if error is not None:
        trace["error_y"] = {"type": "data", "array": numbers(error), "thickness": 1, "width": 2}
    return trace | more


def band(x, low, high, name: str, number: int) -> dict:
    """The space between two curves, which belongs to the line of that name."""
    colour = "".join(f"{int(COLOURS[number % len(COLOURS)][i : i + 2], 16)}," for i in (1, 3, 5))
    return {"type": "scatter", "x": numbers(x) + numbers(x)[::-1],
            "y": numbers(low) + numbers(high)[::-1], "fill": "toself", "mode": "lines",
            "line": {"width": 0}, "fillcolor": f"rgba({colour}0.2)", "hoverinfo": "skip",
            "legendgroup": safe(name), "showlegend": False}  # fmt: skip


def axes(x: str, y: str, **more: Any) -> dict:
    """A layout with titles of its axes."""
    return {"xaxis": {"title": {"text": safe(x)}}, "yaxis": {"title": {"text": safe(y)}}, **more}


def square(x: str, y: str, kind: str = "linear") -> dict:
    """Axes of a map whose cells are squares."""
    layout = axes(x, y)
    layout["xaxis"] |= {"type": kind, "constrain": "domain"}
    layout["yaxis"] |= {"type": kind, "constrain": "domain", "scaleanchor": "x"}
    return layout
