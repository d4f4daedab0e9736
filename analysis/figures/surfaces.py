"""Drawings of surfaces, curves, similarities and distances."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import MaxNLocator, NullLocator
from mpl_toolkits.mplot3d import Axes3D

from ridgeline.analysis.figures.layout import LEVEL, alike_by, panels_for, subplots, thin, unpile
from ridgeline.analysis.figures.legends import legend
from ridgeline.analysis.figures.lines import axis_label, draw_lines, loss_label
from ridgeline.analysis.figures.style import COLUMN, PAGE, SURFACE, Results, color_of, pt
from ridgeline.models.errors import InputError, unknown

_THIN = 3  # sides of a plane that differ more than so many times are not drawn to scale


_EXTEND = {(False, False): "neither", (True, False): "min", (False, True): "max",
           (True, True): "both"}  # fmt: skip


def _short(losses: Iterable[float]) -> list[str]:
    """Losses in two digits, in more where steps between them would look uneven or nothing.

    In whole nats where these are enough.
    """
    losses = list(losses)
    steps = dict.fromkeys(losses, np.inf)  # to the nearest other one
    for a, b in pairwise(sorted(steps)):
        steps[a], steps[b] = min(steps[a], b - a), min(steps[b], b - a)
    for digits in range(2, 7):
        texts = [f"{v:.0f}" if 99.5 <= v < 1e5 and digits < 4 else f"{v:.{digits}g}"
                 for v in losses]  # fmt: skip
        if all(abs(float(t) - v) <= 0.1 * steps[v] for t, v in zip(texts, losses, strict=True)):
            break
    return texts


def draw_surface(
    ds: xr.Dataset,
    axes: Axes,
    *,
    eps: float | None = None,
    norm: Normalize | None = None,
    title: str = "",
    bar: bool = True,
) -> None:
    """Filled contours of the loss over a plane; log colours, the centre marked.

    `bar`: with a colour bar. Both axes have one scale, unless one side is more than three times as
    long as the other.
    """
    loss = _loss_at(ds, eps)
    first, second = loss.dims
    shared = norm or surface_norm([loss])
    norm = LogNorm(shared.vmin, shared.vmax)  # each colour bar needs its own norm object
    levels = np.geomspace(norm.vmin, norm.vmax, 25)
    values = np.ma.masked_invalid(loss.values.T)
    known = values.compressed()
    beyond = bool((known < levels[0]).any()), bool((known > levels[-1]).any())
    filled = axes.contourf(
        ds[first], ds[second], values, levels, norm=norm, cmap=SURFACE, extend=_EXTEND[beyond]
    )  # an arrow of the colour bar means that there is something beyond it
    lines = axes.contour(ds[first], ds[second], values, levels[::4], colors="white", linewidths=0.3)
    texts = axes.clabel(lines, fmt=dict(zip(lines.levels, _short(lines.levels), strict=True)),
                        fontsize=pt(5))  # fmt: skip
    for text in texts:
        text.set_gid(LEVEL)
    if np.ma.is_masked(values):
        axes.set_facecolor("0.8")  # not computed, or not finite: never invented
    axes.plot(0, 0, "+", color="white", ms=6, mew=1.2)
    if "position" in ds:
        _draw_checkpoints(ds, axes)
    sides = sorted(float(np.ptp(ds[axis].values)) for axis in (first, second))
    axes.set_aspect("equal" if sides[1] <= _THIN * sides[0] else "auto")
    xlabel, ylabel = (_explained(ds, n, axis) for n, axis in enumerate((first, second)))
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    if bar:
        _colour_bar(axes, filled, norm, ds)


def draw_space(
    ds: xr.Dataset,
    axes: Axes3D,
    *,
    eps: float | None = None,
    norm: Normalize | None = None,
    title: str = "",
    bar: bool = True,
) -> None:
    """The loss over a plane as a surface in space, log height and colour, contours on the floor.

    The axis of height needs its `bar`, so there always is one.
    """
    del bar
    loss = _loss_at(ds, eps)
    first, second = loss.dims
    norm = norm or surface_norm([loss])
    low, high = np.log10(norm.vmin), np.log10(norm.vmax)
    height = np.log10(loss.values.T.clip(min=norm.vmin))  # NaN stays a hole
    x, y = np.meshgrid(ds[first], ds[second])
    floor = low - 0.5 * (high - low)
    surface = axes.plot_surface(
        x, y, height, cmap=SURFACE, vmin=low, vmax=high, rcount=100, ccount=100, lw=0, alpha=0.9,
    )  # fmt: skip
    if np.isfinite(height).all():
        axes.contour(x, y, height, 12, zdir="z", offset=floor, cmap=SURFACE, vmin=low, vmax=high)
    xlabel, ylabel = (axis_label(ds, n).replace(" [", "\n[") for n in (first, second))
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    axes.set_zlim(floor, high)
    axes.set_box_aspect(None, zoom=0.78)  # labels stand outside the box, which is not measured
    for axis, pad in ((axes.xaxis, 1), (axes.yaxis, 4)):
        axis.labelpad = pt(pad)
        axis.label.set_fontsize(pt(7))
        axis.set_major_locator(MaxNLocator(4))
    axes.tick_params(pad=-2)
    axes.tick_params(axis="z", pad=2)  # four digits would lie on the axis
    ticks = np.linspace(low, high, 4)
    axes.set_zticks(ticks, _short(10**ticks))
    bar = axes.figure.colorbar(surface, ax=axes, shrink=0.6, pad=0.12)
    bar.set_ticks(ticks, labels=_short(10**ticks))
    bar.set_label(f"height and colour: {loss_label({'': ds})}")


def _share_y(axes: Axes, first: Axes) -> None:
    """Leave out the y axis's label and numbers where the row's first panel has the same ones."""
    if (axes.get_ylim(), axes.get_ylabel()) == (first.get_ylim(), first.get_ylabel()):
        axes.set_ylabel("")
        axes.tick_params(labelleft=False)


def _loss_at(ds: xr.Dataset, eps: float | None) -> xr.DataArray:
    """The loss over a plane at a budget; None: at the last one."""
    return ds["loss"].isel(eps=-1) if eps is None else ds["loss"].sel(eps=eps)


#: how a plane is drawn
VIEWS = {"contour": draw_surface, "space": draw_space}


def _draw_checkpoints(ds: xr.Dataset, axes: Axes) -> None:
    """The checkpoints where they lie in the plane, in their order; hollow where they lie off it."""
    x, y = ds["position"].values.T
    axes.plot(x, y, "-", color="white", lw=0.8)
    off = ds["off_plane"].values > 0.1 * np.maximum(ds["from_origin"].values, 1e-300)
    axes.plot(x[~off], y[~off], "o", color="white", ms=2.5)
    axes.plot(x[off], y[off], "o", mfc="none", mec="white", ms=2.5, mew=0.6)
    for name, place in zip(ds["checkpoint"].values if "checkpoint" in ds.coords else (),
                           zip(x, y, strict=True), strict=False):  # fmt: skip
        axes.annotate(str(name), place, color="white", fontsize=pt(6), xytext=(3, 3),
                      textcoords="offset points")  # fmt: skip


def _explained(ds: xr.Dataset, number: int, axis: str) -> str:
    """The label of an axis, with the share of the trajectory that it holds."""
    text = axis_label(ds, axis)
    if "explained" in ds:
        text += f" ({100 * float(ds['explained'][number]):.0f} %)"
    return text


def _colour_bar(axes: Axes, filled: ScalarMappable, norm: LogNorm, ds: xr.Dataset) -> None:
    # within the panel's own frame: it is as high as the panel, whose sides have one scale
    bar = axes.figure.colorbar(filled, cax=axes.inset_axes([1.05, 0.1, 0.05, 0.8]))
    ticks = np.geomspace(norm.vmin, norm.vmax, 5)
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.set_ticks(ticks, labels=_short(ticks))
    bar.set_label(loss_label({"": ds}))


def surface_norm(losses: list[xr.DataArray]) -> LogNorm:
    """Log colour range shared by several surfaces: a colour means the same loss in all."""
    values = np.concatenate([loss.values.ravel() for loss in losses])
    values = values[np.isfinite(values)]
    if not values.size:
        raise InputError("the scan holds no finite loss to draw")
    low = max(values.min(), 1e-3)
    return LogNorm(low, max(values.max(), low * 1.01))


def draw_scan(results: Results, axes: Axes | None = None, view: str = "contour") -> Figure:
    """1-D scans as lines, 2-D scans as filled contours or as a surface in space (`view`).

    One colour range serves all panels, and one bar every row. Raises InputError for scans over
    three axes, which are for ParaView (`export`), for an unknown view, and for a line that is to be
    drawn in space.
    """
    if view not in VIEWS:
        raise unknown("--view", view, VIEWS)
    if any(ds["loss"].ndim > 3 for ds in results.values()):
        raise InputError("a scan over three axes is for ParaView: ridgeline export writes .vts")
    planes = {k: ds for k, ds in results.items() if ds["loss"].ndim == 3}
    if not planes:
        if view != "contour":
            raise InputError(f"--view {view} needs a scan over two axes, this one is a line")
        return draw_lines(results, axes)
    panels = [(k, ds, float(e)) for k, ds in planes.items() for e in ds["eps"]]
    norm = surface_norm([ds["loss"].sel(eps=e) for _, ds, e in panels])
    budgets = max(ds.sizes["eps"] for ds in planes.values())
    columns = 3 if len(planes) > 1 and budgets == 3 else 2  # a row for every plane
    figure, grid = subplots(
        1, len(panels), figsize=(PAGE / columns * len(panels), 2.7 if columns < 3 else 2.2),
        across=columns, squeeze=False,
        subplot_kw={"projection": "3d" if view == "space" else None},
        least=2.0 if view == "space" else 1.6,
    )  # fmt: skip
    for place, (label, ds, eps) in zip(grid[0], panels, strict=True):
        title = f"{label}, $\\epsilon$ = {eps:.3g}".removeprefix(", ")
        last = place.get_subplotspec().is_last_col() or place is grid[0, -1]
        VIEWS[view](ds, place, eps=eps, norm=norm, title=title, bar=last)
        if place.get_subplotspec().is_first_col():
            first = place
        elif view == "contour":
            _share_y(place, first)
        names = [text for text in place.texts if isinstance(text, Annotation)]
        unpile(names)
        thin(names + [text for text in place.texts if text not in names])
    return figure


def draw_similarity(results: Results, axes: Axes | None = None) -> Figure:
    """Mean cosine of perturbations between networks; the diagonal is the noise floor.

    A panel per result and part of the data; `axes` takes the last of them.
    """
    panels = [(label, ds, subset) for label, ds in results.items() for subset in
              ds["subset"].values]  # fmt: skip
    if axes is None:
        _, grid = subplots(1, len(panels), figsize=(COLUMN * len(panels), 2.8), across=2,
                           squeeze=False)  # fmt: skip
        places = list(grid.flat)
    else:
        places, panels = [axes], panels[-1:]
    for place, (label, ds, subset) in zip(places, panels, strict=True):
        here = ds.sel(subset=subset)
        names = [str(n) for n in ds["set_a"].values]
        image = place.imshow(here["cosine"], vmin=-1, vmax=1, cmap="RdBu_r")
        for i in range(len(names)):
            for j in range(len(names)):
                value, error = float(here["cosine"][i, j]), float(here["cosine_se"][i, j])
                text = "n/a" if np.isnan(value) else f"{value:.2f}\n±{error:.3f}"
                color = "white" if abs(value) > 0.6 else "black"
                place.text(j, i, text, ha="center", va="center", fontsize=pt(6), color=color)
        place.set_xticks(range(len(names)), names, rotation=30, ha="right")
        place.set_yticks(range(len(names)), names)
        place.set_title(
            f"{label}: " * (len(results) > 1)
            + f"cosine of perturbations, {subset}\n(independent: ±{float(ds['null']):.2f})"
        )
        place.figure.colorbar(image, ax=place, shrink=0.8)
    return places[0].figure


def draw_distance(results: Results, axes: Axes | None = None) -> Figure:
    """Relative distance per parameter tensor, one line per pair of checkpoints.

    Pairs of networks with the same tensors share a panel.
    """
    alike = alike_by(results, "parameter")
    places = panels_for(alike, axes, (PAGE, 2.4))
    colors = {label: color_of(label, number) for number, label in enumerate(results)}
    for place, group in zip(places, alike, strict=True):
        for label, ds in group.items():
            total = float(ds["total_distance"])
            place.plot(ds["relative"], "o-", label=f"{label}: total distance {total:.3g}",
                       color=colors[label])  # fmt: skip
        place.set_xticks(range(ds.sizes["parameter"]), ds["parameter"].values, rotation=60,
                         ha="right", rotation_mode="anchor")  # fmt: skip
        place.set(ylabel="||a - b|| / ||a||", xlabel="parameter")
    legend(*places)
    return places[0].figure
