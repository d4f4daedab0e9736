"""Drawings of surfaces, curves, similarities and distances."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from ridgeline.analysis.figures.style import COLUMN, PAGE, PALETTE, SURFACE, Results
from ridgeline.models.errors import InputError


def draw_surface(
    ds: xr.Dataset,
    axes: Axes,
    *,
    eps: float | None = None,
    norm: Normalize | None = None,
    title: str = "",
) -> None:
    """Filled contours of the loss over a plane; log colours, the centre marked, equal aspect."""
    loss = ds["loss"].isel(eps=-1) if eps is None else ds["loss"].sel(eps=eps)
    first, second = loss.dims
    shared = norm or surface_norm([loss])
    norm = LogNorm(shared.vmin, shared.vmax)  # each colour bar needs its own norm object
    levels = np.geomspace(norm.vmin, norm.vmax, 25)
    values = np.ma.masked_invalid(loss.values.T)
    filled = axes.contourf(
        ds[first], ds[second], values, levels, norm=norm, cmap=SURFACE, extend="both"
    )
    axes.contour(ds[first], ds[second], values, levels[::3], colors="white", linewidths=0.3)
    if np.ma.is_masked(values):
        axes.set_facecolor("0.8")  # not computed, or not finite: never invented
    axes.plot(0, 0, "+", color="white", ms=6, mew=1.2)
    axes.set_aspect("equal")
    axes.set(xlabel=_axis_label(ds, first), ylabel=_axis_label(ds, second), title=title)
    bar = axes.figure.colorbar(filled, ax=axes, shrink=0.8)
    ticks = np.geomspace(norm.vmin, norm.vmax, 5)
    bar.ax.yaxis.set_major_locator(FixedLocator(ticks))
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.2g}"))
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.set_label("loss [nat]")


def surface_norm(losses: list[xr.DataArray]) -> LogNorm:
    """Log colour range shared by several surfaces: a colour means the same loss in all."""
    values = np.concatenate([loss.values.ravel() for loss in losses])
    values = values[np.isfinite(values)]
    if not values.size:
        raise InputError("the scan holds no finite loss to draw")
    low = max(values.min(), 1e-3)
    return LogNorm(low, max(values.max(), low * 1.01))


def mark_missing(axes: Axes, x: xr.DataArray, y: xr.DataArray) -> None:
    """Grey around the places x (N,) where y is not finite, or not computed yet."""
    places = x.values.astype(float)
    edges = np.concatenate([places[:1], (places[1:] + places[:-1]) / 2, places[-1:]])
    text = "no finite loss"
    for n in np.flatnonzero(~np.isfinite(y.values)):
        new = text not in axes.get_legend_handles_labels()[1]
        axes.axvspan(edges[n], edges[n + 1], color="0.8", lw=0, zorder=0, label=text * new)


def _axis_label(ds: xr.Dataset, axis: str) -> str:
    units = ds[axis].attrs.get("units", "")
    name = ds[axis].attrs.get("long_name", axis)
    return f"{name} [{units}]" if units else name


def draw_scan(results: Results, axes: Axes | None = None) -> Figure:
    """1-D scans as lines with bands of one standard error, 2-D scans as surfaces."""
    planes = {k: ds for k, ds in results.items() if ds["loss"].ndim == 3}
    if not planes:
        return _draw_lines(results, axes)
    panels = [(k, ds, float(e)) for k, ds in planes.items() for e in ds["eps"]]
    norm = surface_norm([ds["loss"].sel(eps=e) for _, ds, e in panels])
    budgets = max(ds.sizes["eps"] for ds in planes.values())
    columns = min(3, budgets if len(planes) > 1 and budgets > 1 else len(panels))
    rows = -(-len(panels) // columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(PAGE / 2 * columns, 2.7 * rows), layout="constrained", squeeze=False
    )
    for place, (label, ds, eps) in zip(grid.flat, panels, strict=False):
        draw_surface(ds, place, eps=eps, norm=norm, title=f"{label}, $\\epsilon$ = {eps:.3g}")
    for place in list(grid.flat)[len(panels) :]:
        place.axis("off")
    return figure


def _draw_lines(results: Results, axes: Axes | None) -> Figure:
    axes = axes or plt.subplots(figsize=(COLUMN, 2.4), layout="constrained")[1]
    number = 0
    for label, ds in results.items():
        axis = ds["loss"].dims[1]
        for eps in ds["eps"].values:
            here = ds.sel(eps=eps)
            color = PALETTE[number % len(PALETTE)]
            number += 1
            axes.plot(here[axis], here["loss"], color=color, label=f"{label}, ε = {eps:.3g}")
            mark_missing(axes, here[axis], here["loss"])
            low, high = here["loss"] - here["loss_se"], here["loss"] + here["loss_se"]
            axes.fill_between(here[axis], low, high, color=color, alpha=0.2, lw=0)
        axes.set_xlabel(_axis_label(ds, axis))
    axes.axvline(0, color="0.7", lw=0.6, zorder=0)
    units = {ds["loss"].attrs.get("units", "nat") for ds in results.values()} - {""}
    axes.set(ylabel=f"loss [{', '.join(sorted(units))}]" if units else "loss", yscale="log")
    axes.legend()
    return axes.figure


def draw_curve(results: Results, axes: Axes | None = None) -> Figure:
    """Loss along connecting curves (solid) and straight lines (dashed), ends and barrier marked."""
    axes = axes or plt.subplots(figsize=(COLUMN, 2.4), layout="constrained")[1]
    number = 0
    for label, ds in results.items():
        for subset in ds["subset"].values:
            color = PALETTE[number % len(PALETTE)]
            number += 1
            for path, line in (("curve", "-"), ("line", "--")):
                here = ds.sel(path=path, subset=subset)
                text = f"{label} {path}, {subset}, barrier {float(here['barrier']):.2g}"
                axes.plot(here["t"], here["loss"], line, color=color, label=text.strip())
                mark_missing(axes, here["t"], here["loss"])
                low, high = here["loss"] - here["loss_se"], here["loss"] + here["loss_se"]
                axes.fill_between(here["t"], low, high, color=color, alpha=0.15, lw=0)
            ends = ds["loss"].sel(path="curve", subset=subset).isel(t=[0, -1])
            axes.plot(ends["t"], ends, "o", color=color)
    axes.set(xlabel="t along the path", ylabel="loss [nat]")
    axes.legend()
    return axes.figure


def draw_similarity(results: Results, axes: Axes | None = None) -> Figure:
    """Mean cosine of perturbations between networks; the diagonal is the noise floor."""
    ds = next(iter(results.values()))
    subsets = ds["subset"].values
    if axes is None:
        _, grid = plt.subplots(
            1, len(subsets), figsize=(COLUMN * len(subsets), 2.8), layout="constrained",
            squeeze=False,
        )  # fmt: skip
        places = list(grid.flat)
    else:
        places, subsets = [axes], subsets[-1:]
    for place, subset in zip(places, subsets, strict=True):
        here = ds.sel(subset=subset)
        names = [str(n) for n in ds["set_a"].values]
        image = place.imshow(here["cosine"], vmin=-1, vmax=1, cmap="RdBu_r")
        for i in range(len(names)):
            for j in range(len(names)):
                value, error = float(here["cosine"][i, j]), float(here["cosine_se"][i, j])
                text = "n/a" if np.isnan(value) else f"{value:.2f}\n±{error:.3f}"
                color = "white" if abs(value) > 0.6 else "black"
                place.text(j, i, text, ha="center", va="center", fontsize=6, color=color)
        place.set_xticks(range(len(names)), names, rotation=30, ha="right")
        place.set_yticks(range(len(names)), names)
        place.set_title(
            f"cosine of perturbations, {subset}\n(independent: ±{float(ds['null']):.2f})"
        )
        place.figure.colorbar(image, ax=place, shrink=0.8)
    return places[0].figure


def draw_distance(results: Results, axes: Axes | None = None) -> Figure:
    """Relative distance per parameter tensor, one line per pair of checkpoints."""
    axes = axes or plt.subplots(figsize=(PAGE, 2.4), layout="constrained")[1]
    for label, ds in results.items():
        total = float(ds["total_distance"])
        axes.plot(ds["relative"], "o-", label=f"{label}: total distance {total:.3g}")
    axes.set_xticks(range(ds.sizes["parameter"]), ds["parameter"].values, rotation=60, ha="right")
    axes.set(ylabel="||a - b|| / ||a||", xlabel="parameter")
    axes.legend()
    return axes.figure


def draw_training(metrics: Mapping[str, list[dict]], axes: Axes | None = None) -> Figure:
    """Training loss per epoch of several runs, with the level of chance, ln of their classes.

    Runs of data sets with different numbers of classes have no such level in common.
    """
    axes = axes or plt.subplots(figsize=(COLUMN, 2.4), layout="constrained")[1]
    for label, lines in metrics.items():
        axes.plot([m["epoch"] for m in lines], [m["train_loss"] for m in lines], label=label)
    classes = {m.get("classes") for lines in metrics.values() for m in lines}
    if len(classes) == 1 and (count := classes.pop()):
        axes.axhline(np.log(count), color="0.6", ls="--", lw=0.8, label=f"chance, ln {count}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="epoch", ylabel="training loss [nat]")
    axes.legend()
    return axes.figure
