"""Drawings along one coordinate: 1-D scans and connecting curves."""

from __future__ import annotations

import math

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ridgeline.analysis.figures.layout import subplots
from ridgeline.analysis.figures.legends import legend
from ridgeline.analysis.figures.style import COLUMN, Results, pt, tone_of


def mark_missing(axes: Axes, x: xr.DataArray, y: xr.DataArray) -> None:
    """Grey around the places x (N,) where y is not finite, or not computed yet."""
    places = x.values.astype(float)
    edges = np.concatenate([places[:1], (places[1:] + places[:-1]) / 2, places[-1:]])
    text = "no finite loss"
    for n in np.flatnonzero(~np.isfinite(y.values)):
        new = text not in axes.get_legend_handles_labels()[1]
        axes.axvspan(edges[n], edges[n + 1], color="0.8", lw=0, zorder=0, label=text * new)


def axis_label(ds: xr.Dataset, axis: str) -> str:
    """The name of a coordinate, with its unit if it has one."""
    units = ds[axis].attrs.get("units", "")
    name = ds[axis].attrs.get("long_name", axis)
    return f"{name} [{units}]" if units else name


def loss_label(results: Results) -> str:
    """The label of an axis of losses, with their unit if they have one."""
    units = {ds["loss"].attrs.get("units", "nat") for ds in results.values()} - {""}
    return f"loss [{', '.join(sorted(units))}]" if units else "loss"


def draw_lines(results: Results, axes: Axes | None = None) -> Figure:
    """Loss along one direction with a band of one standard error; accuracy dashed, on the right."""
    axes = axes or subplots(figsize=(COLUMN, 2.6))[1]
    right = None
    for label, ds in results.items():
        axis = ds["loss"].dims[1]
        for step, eps in enumerate(ds["eps"].values):
            here = ds.sel(eps=eps)
            color = tone_of(results, label, step)
            text = f"{label}, ε = {eps:.3g}".removeprefix(", ")
            axes.plot(here[axis], here["loss"], color=color, label=text)
            mark_missing(axes, here[axis], here["loss"])
            low, high = here["loss"] - here["loss_se"], here["loss"] + here["loss_se"]
            axes.fill_between(here[axis], low, high, color=color, alpha=0.2, lw=0)
            if "accuracy" in here and here["accuracy"].notnull().any():
                right = right or axes.twinx()
                right.plot(here[axis], 100 * here["accuracy"], "--", color=color, lw=0.8)
        axes.set_xlabel(axis_label(ds, axis))
    axes.axvline(0, color="0.7", lw=0.6, zorder=0)
    axes.set(ylabel=loss_label(results), yscale="log")
    if right is not None:
        right.set(ylabel="accuracy [%] (dashed)", ylim=(0, 100))
        right.spines["right"].set_visible(True)
    legend(axes)
    return axes.figure


def draw_curve(results: Results, axes: Axes | None = None) -> Figure:
    """Loss along connecting curves (solid) and straight lines (dashed) with their barriers.

    Dots are the ends; where the barrier is above 0 a bar shows where it is and how high. Networks
    that a chain goes through (`checkpoint_t`) have their names above it.
    """
    axes = axes or subplots(figsize=(COLUMN, 2.8))[1]
    for label, ds in results.items():
        step = 0
        for eps in ds["eps"].values if "eps" in ds.dims else [None]:
            level = ds if eps is None else ds.sel(eps=eps)
            for subset in level["subset"].values:
                color = tone_of(results, label, step)
                step += 1
                what = f"{label} {subset}" + ("" if eps is None else f", ε = {float(eps):.3g}")
                chain = "chain" if "checkpoint_t" in ds.coords else "curve"
                for path, line, name in (("curve", "-", chain), ("line", "--", "line")):
                    _draw_path(axes, level.sel(path=path, subset=subset), line, color,
                               f"{what.strip()}, {name}")  # fmt: skip
                ends = level["loss"].sel(path="curve", subset=subset).isel(t=[0, -1])
                axes.plot(ends["t"], ends, "o", color=color)
    if any(line.get_linestyle() == ":" for line in axes.lines):
        axes.plot([], [], ":", color="0.3", lw=0.8, label="barrier, above the chord of the ends")
    chained = next((ds for ds in results.values() if "checkpoint_t" in ds.coords), None)
    for t, name in [] if chained is None else zip(
        chained["checkpoint_t"].values, chained["checkpoint"].values, strict=True
    ):  # fmt: skip
        axes.axvline(t, color="0.8", lw=0.6, zorder=0)
        axes.annotate(str(name), (t, 1.01), xycoords=("data", "axes fraction"), ha="center",
                      va="bottom", fontsize=pt(6))  # fmt: skip
    axes.set(xlabel="t along the path", ylabel=loss_label(results))
    legend(axes)
    return axes.figure


def _draw_path(axes: Axes, here: xr.Dataset, line: str, color: tuple, what: str) -> None:
    """One path: its loss with a band, and the bar of its barrier."""
    barrier = float(here["barrier"])
    error = float(here["barrier_se"]) if "barrier_se" in here else np.nan
    known = math.isfinite(error)
    digits = max(0, -math.floor(math.log10(error))) if known and error > 0 else 3
    height = f"{barrier:.{digits}f}" + (f" ± {error:.{digits}f}" if known else "")
    axes.plot(here["t"], here["loss"], line, color=color, label=f"{what}: barrier {height}")
    mark_missing(axes, here["t"], here["loss"])
    low, high = here["loss"] - here["loss_se"], here["loss"] + here["loss_se"]
    axes.fill_between(here["t"], low, high, color=color, alpha=0.15, lw=0)
    if "barrier_at" in here and barrier > 0:
        at = float(here["barrier_at"])
        top = float(here["loss"].sel(t=at))
        axes.plot([at, at], [top - barrier, top], ":", color=color, lw=0.8)
