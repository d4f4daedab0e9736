"""Interactive plots of scans: lines, surfaces in space and their contours."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import xarray as xr
from matplotlib.colors import LogNorm

from ridgeline.analysis.figures.layout import subplots
from ridgeline.analysis.figures.lines import axis_label, loss_label
from ridgeline.analysis.figures.style import COLUMN, style
from ridgeline.analysis.figures.surfaces import draw_space
from ridgeline.analysis.page.links import HOUSE, png
from ridgeline.analysis.page.sources import Source
from ridgeline.analysis.page.traces import (
    Plot,
    axes,
    line,
    looks,
    names,
    numbers,
    safe,
    square,
)

#: from where surfaces are seen at first, and what is in the middle then
_CAMERA = {"eye": {"x": 1.6, "y": -1.85, "z": 0.95}, "center": {"x": 0, "y": 0, "z": -0.2}}
_FEWEST, _MOST = 4, 7  # round values along an axis of losses
_ROOM = 0.12  # of an axis in space, beyond its ends
_HOVER = "%{{x:.3g}}, %{{y:.3g}}: loss %{{{0}:.4g}}<extra></extra>"


def scans(sources: Sequence[Source]) -> Iterator[Plot]:
    """Lines of all 1-D scans in one plot; a surface and a contour per 2-D scan and budget."""
    loose = [s for s in sources if s.result["loss"].ndim == 2]
    if loose:
        yield from _lines(loose)
    planes = [s for s in sources if s.result["loss"].ndim == 3]
    values = np.concatenate([s.result["loss"].values.ravel() for s in planes] or [np.zeros(0)])
    values = values[np.isfinite(values) & (values > 0)]
    if not values.size:
        return
    low, high = float(values.min()), float(values.max())
    high = max(high, low * 1.01)
    for source in planes:
        for eps in source.result["eps"].values:
            yield from _plane(source, float(eps), low, high)


def _lines(sources: Sequence[Source]) -> Iterator[Plot]:
    cells = [(s, s.result.sel(eps=eps), next(d for d in s.result["loss"].dims if d != "eps"))
             for s in sources for eps in s.result["eps"].values]  # fmt: skip
    labels = list(dict.fromkeys(axis_label(s.result, axis) for s, _, axis in cells))
    yield Plot(
        "Loss along a direction; 0 is the network itself. Bars are standard errors.",
        [line(s.result[axis], here["loss"], f"{s.name}, ε = {float(here['eps']):g}", number,
              here["loss_se"]) for number, (s, here, axis) in
         zip(looks([s.rank for s, _, _ in cells]), cells, strict=True)],
        axes(labels[0] if len(labels) == 1 else "coordinate",
             loss_label({s.name: s.result for s in sources})), names(sources),
    )  # fmt: skip


def _plane(source: Source, eps: float, low: float, high: float) -> Iterator[Plot]:
    """A surface and the contours of one scan at one budget; losses from `low` to `high`."""
    ds = source.result
    one, two = (d for d in ds["loss"].dims if d != "eps")
    heights = ds["loss"].sel(eps=eps).transpose(two, one).values
    heights = np.where(np.isfinite(heights) & (heights > 0), heights, np.nan)
    shared = {"x": numbers(ds[one]), "y": numbers(ds[two]), "colorscale": "Viridis"}
    labels = [axis_label(ds, a) for a in (one, two)]
    plain = [safe(label.partition(" [")[0]) for label in labels]  # units stand at the contours
    logs, losses = numbers(np.log10(heights)), numbers(heights)
    bottom, top = (float(v) for v in np.log10([low, high]))
    ticks, loss = round_losses(low, high), loss_label({"": ds})
    marks = {"tickvals": [math.log10(v) for v in ticks], "ticktext": [f"{v:g}" for v in ticks]}
    bar = {"title": {"text": f"{loss}, log scale", "side": "right"}, "thickness": 12, **marks}
    about = (names([source]), f"ε = {eps:g}")
    name = f"{source.name}, ε = {eps:g}"
    lost = int(np.isnan(heights).sum())
    holes = f" Holes: {lost} of {heights.size} losses are not finite, or not above 0." * bool(lost)
    yield Plot(
        f"{name}: the loss as a surface; drag to turn it. Height and colour have one range for "
        f"all scans of this page.{holes}",
        [{"type": "surface", "z": logs, "customdata": losses, "cmin": bottom, "cmax": top,
          "colorbar": bar | {"len": 0.8}, "hovertemplate": _HOVER.format("customdata"), **shared}],
        {"scene": {"camera": _CAMERA, "aspectmode": "manual",
                   "aspectratio": {"x": 1, "y": 1, "z": 0.8},
                   "zaxis": {"range": _wider(bottom, top), "title": {"text": loss},
                             **marks},
                   "xaxis": {"title": {"text": plain[0]}, "nticks": 5,
                             "range": _wider(*ds[one].values[[0, -1]])},
                   "yaxis": {"title": {"text": plain[1]}, "nticks": 5,
                             "range": _wider(*ds[two].values[[0, -1]])}}},
        *about, _still(ds, eps, low, high),
    )  # fmt: skip
    yield Plot(
        f"{name}: contours of the same scan, the cross is the network.{holes}",
        [{"type": "contour", "z": logs, "customdata": losses, "zmin": bottom, "zmax": top,
          "colorbar": bar, "hovertemplate": _HOVER.format("customdata"),
          "contours": {"start": bottom, "end": top, "size": (top - bottom) / 15}, **shared},
         {"type": "scatter", "mode": "markers", "x": [0], "y": [0], "hoverinfo": "skip",
          "marker": {"symbol": "cross-thin", "size": 10,
                     "line": {"width": 2, "color": "#fff"}}}],
        square(*labels), *about,
    )  # fmt: skip


def _wider(low: float, high: float) -> list[float]:
    """A range with room at its ends, so that labels of two axes do not meet in a corner."""
    room = _ROOM * (float(high) - float(low))
    return [float(low) - room, float(high) + room]


def _still(ds: xr.Dataset, eps: float, low: float, high: float) -> str:
    """The surface as a picture, for paper."""
    with style(HOUSE):
        figure, place = subplots(figsize=(COLUMN + 0.4, 3.1), subplot_kw={"projection": "3d"})
        whole = ds.assign(loss=ds["loss"].where(np.isfinite(ds["loss"])))
        draw_space(whole, place, eps=eps, norm=LogNorm(low, high))
        ticks = round_losses(low, high)
        for axis in (place.zaxis, figure.axes[-1].yaxis):  # of the surface, and its colour bar
            axis.set_ticks(np.log10(ticks), [f"{v:g}" for v in ticks])
    return png(figure)


def round_losses(low: float, high: float) -> list[float]:
    """Round values from `low` to `high`, both above 0, for a log axis: few, and none too near.

    Powers of ten, or with 3, or with 2 and 5 between them; even steps where the range is narrow.

    >>> round_losses(0.07, 12), round_losses(0.9, 1.26)
    ([0.1, 0.3, 1.0, 3.0, 10.0], [0.9, 1.0, 1.1, 1.2])
    """
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = -(-len(decades) // _MOST)
    tries = [[d for d in decades if d % step == 0] for step in (every + 1, every)]
    values = [[10.0**d for d in some] for some in tries]
    values += [[float(f"{m}e{d}") for d in decades for m in some] for some in ((1, 3), (1, 2, 5))]
    inside = [[v for v in some if low <= v <= high] for some in values]
    for some in inside:
        if _FEWEST <= len(some) <= _MOST:
            return some
    step = 10.0 ** math.floor(math.log10((high - low) / 2))
    for factor in (0.5, 1, 2, 5):
        first, last = math.ceil(low / (step * factor)), math.floor(high / (step * factor))
        if last - first < _MOST:
            break
    return [float(f"{n * step * factor:.6g}") for n in range(first, last + 1) if n > 0]
