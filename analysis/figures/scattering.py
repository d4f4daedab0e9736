"""Drawing of scattered gradients: similarity of perturbations and gradients against distance."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ridgeline.analysis.figures.layout import subplots
from ridgeline.analysis.figures.legends import legend, legend_of
from ridgeline.analysis.figures.lines import mark_missing
from ridgeline.analysis.figures.style import COLUMN, PAGE, PALETTE, Results
from ridgeline.analysis.perturbation_pairs import MEASURES
from ridgeline.models.errors import InputError, unknown

_PARTS = {"total": "-", "frozen": "--", "moving": ":"}
_PART_NAMES = {"total": "total", "frozen": "images frozen", "moving": "images moving"}
_SHORT = {
    "cosine": "cosine of perturbations",
    "sign_cosine": "cosine of signs",
    "flipped": "pixels with flipped sign",
    "zero": "unperturbed pixels",
}


def draw_scattering(
    results: Results, axes: Axes | None = None, *, measure: str = "cosine"
) -> Figure:
    """Similarity of perturbations over the gradient scatter, both against the distance moved.

    A column of two panels per result and budget, a colour per direction. Above, `measure` under the
    same attack seed; dashed the noise floor (two seeds at theta), grey random signs. Bands are one
    standard error, the grey one the standard deviation of one image. Below, the scatter, its two
    parts, the fitted line where it was fitted, and what two attack seeds scatter at theta. `axes`
    takes the upper panel of the last budget alone. Raises InputError for an unknown measure and
    for results without a distance above 0.
    """
    if measure not in MEASURES:
        raise unknown("--measure", measure, MEASURES)
    moved = {label: ds.sel(distance=ds["distance"] > 0) for label, ds in results.items()}
    columns = [(label, ds.sel(eps=eps)) for label, ds in moved.items() for eps in ds["eps"]]
    if not all(ds.sizes["distance"] for ds in moved.values()):
        raise InputError("the result holds no distance above 0 to draw")
    names = list(dict.fromkeys(str(n) for ds in moved.values() for n in ds["direction"].values))
    colors = {name: PALETTE[n % len(PALETTE)] for n, name in enumerate(names)}
    if axes is not None:
        _draw_similarity(columns[-1][1], axes, measure, colors)
        axes.set_xlabel(_distance_label())
        legend(axes)
        return axes.figure
    width = COLUMN if len(columns) < 2 else PAGE / 2 * len(columns)
    figure, grid = subplots(
        2, len(columns), figsize=(width, 5.0), squeeze=False,
        sharex=True, sharey="row",
    )  # fmt: skip
    for (label, ds), (top, bottom) in zip(columns, grid.T, strict=True):
        _draw_similarity(ds, top, measure, colors)
        _draw_scatter(ds, bottom, colors)
        top.set_title(", ".join(filter(None, [label, f"ε = {float(ds['eps']):.3g}"])))
        bottom.set_xlabel(_distance_label())
    unit = columns[0][1]["scatter"].attrs.get("units", "")
    grid[0, 0].set_ylabel(_SHORT[measure])
    grid[1, 0].set_ylabel("change of the gradient" + f" [{unit}]" * bool(unit))
    for handles, place in zip(_legends(grid, colors), ("upper", "lower"), strict=True):
        legend_of(
            figure, list(handles.values()), list(handles), place, 2 if len(columns) < 2 else 4,
            columnspacing=1.2, handlelength=2.2,
        )  # fmt: skip
    return figure


def _distance_label() -> str:
    return r"distance moved / $\|\theta\|$"


def _legends(grid: np.ndarray, colors: dict) -> tuple[dict[str, Artist], dict[str, Artist]]:
    """Every label once: directions, and what the lines mean."""
    found: dict[str, Artist] = {}
    for axes in grid.flat:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    directions = {n: h for n, h in found.items() if n in colors}
    return directions, {n: h for n, h in found.items() if n not in colors}


def _draw_similarity(ds: xr.Dataset, axes: Axes, measure: str, colors: dict) -> None:
    """One budget's similarity of every direction, with noise floor and null."""
    axes.set_xscale("log")
    x = ds["relative_distance"]
    null, spread = float(ds.get(f"null_{measure}", np.nan)), float(ds.get(f"null_{measure}_sd", 0))
    axes.axhline(null, color="0.6", lw=0.8, zorder=0)
    axes.axhspan(null - spread, null + spread, color="0.6", alpha=0.3, lw=0, zorder=0,
                 label="random signs")  # fmt: skip
    floor, error = float(ds[f"floor_{measure}"]), float(ds[f"floor_{measure}_se"])
    if np.isfinite(floor):
        axes.axhspan(floor - error, floor + error, color="black", alpha=0.15, lw=0, zorder=1)
        axes.axhline(floor, color="black", ls="--", lw=0.9, zorder=1, label="two attack seeds at θ")
    for name in ds["direction"].values:
        here = ds.sel(direction=name, pair="same_seed")
        y, e = here[measure], here[f"{measure}_se"]
        axes.plot(x, y, color=colors[str(name)], marker="o", label=str(name))
        axes.fill_between(x, y - e, y + e, color=colors[str(name)], alpha=0.2, lw=0)
        if float(ds["eps"]):
            mark_missing(axes, x, y)
    if not float(ds["eps"]):
        axes.text(0.5, 0.5, "nothing is perturbed", transform=axes.transAxes, ha="center")


def _draw_scatter(ds: xr.Dataset, axes: Axes, colors: dict) -> None:
    """One budget's change of the gradient along every direction, with its parts and the fit."""
    axes.set(xscale="log", yscale="log")
    x, steps = ds["relative_distance"].values, ds["distance"].values
    for name in ds["direction"].values:
        color, here = colors[str(name)], ds.sel(direction=name)
        for part, look in _PARTS.items():
            y = here["scatter"].sel(part=part)
            axes.plot(x, y.where(y > 0), look, color=color, lw=1.2 if part == "total" else 0.9)
        mark_missing(axes, ds["relative_distance"], here["scatter"].sel(part="total"))
        total = here.sel(part="total")
        used = steps <= float(ds["fit_to"])
        fitted = float(total["intercept"]) + float(total["slope"]) * steps[used]
        axes.plot(x[used], np.where(fitted > 0, fitted, np.nan), color=color, lw=4, alpha=0.25,
                  zorder=0)  # fmt: skip
    for part, look in _PARTS.items():
        axes.plot([], [], look, color="0.3", lw=1.2, label=_PART_NAMES[part])
    axes.plot([], [], color="0.3", lw=4, alpha=0.25, label="fit: intercept + slope s")
    axes.axhline(float(ds["scatter_floor"]), color="black", ls="--", lw=0.9, zorder=1)
