"""Drawings that put networks side by side: one point, box or group of bars for each."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from ridgeline.analysis.budget_matrix import norm_of
from ridgeline.analysis.figures.layout import subplots, thin
from ridgeline.analysis.figures.legends import legend_of
from ridgeline.analysis.figures.style import COLUMN, PAGE, Results, color_of, pt
from ridgeline.landscape.result import recipe_of
from ridgeline.models.errors import InputError


def order_of(ds: xr.Dataset) -> str:
    """The norm of a result's attack, l_inf or l_2; "" where no recipe says it."""
    recipe = recipe_of(ds) if "recipe" in ds.attrs else {}
    return norm_of(recipe.get("attack"))


def one_norm(results: Results) -> str:
    """The norm of the attacks of all results; InputError for several, "" where none says it."""
    norms = {label: order for label, ds in results.items() if (order := order_of(ds))}
    if len(set(norms.values())) > 1:
        said = ", ".join(f"{label} {norm}" for label, norm in norms.items())
        raise InputError(f"budgets in several norms cannot be compared: {said}")
    return next(iter(norms.values()), "")


def draw_smallest(results: Results) -> Figure:
    """The smallest perturbations that fool, a box per network (Gowda et al. 2024, figure 8).

    Median, quartiles, and whiskers from 5 to 95 % of the images; above it the share of the images
    for which none was found. Images that are wrong from the start count as 0.
    """
    for label, ds in results.items():
        if "smallest_budget" not in ds:
            raise InputError(f"{label} holds no smallest perturbations: test_ensemble --attack "
                             "name=fmn,... finds them")  # fmt: skip
    norm = one_norm(results)
    found = [ds["smallest_budget"].values for ds in results.values()]
    figure, axes = subplots(figsize=(max(COLUMN, 0.7 * len(found) + 1), 2.6))
    top = max((v[np.isfinite(v)].max(initial=0) for v in found), default=0) or 1
    drawn = [np.where(np.isfinite(v), v, top) for v in found]
    boxes = axes.boxplot(drawn, whis=(5, 95), showfliers=False, patch_artist=True,
                         medianprops={"color": "black"})  # fmt: skip
    for number, (label, box, values) in enumerate(zip(results, boxes["boxes"], found, strict=True)):
        box.set(facecolor=color_of(label, number), alpha=0.6)
        text = f"median {np.median(values):.3g}"
        if lost := np.mean(~np.isfinite(values)):
            text += f"\nnone: {100 * lost:.0f} %"
        axes.annotate(text, (number + 1, 1.01), xycoords=("data", "axes fraction"), ha="center",
                      fontsize=pt(5))  # fmt: skip
    axes.set_xticks(range(1, len(found) + 1), list(results), rotation=30, ha="right")
    axes.set(ylabel=f"smallest {norm} budget that fools [0,1]".replace("  ", " "), ylim=(0, None))
    return figure


def draw_clean_robust(results: Results) -> Figure:
    """Robust accuracy at the largest budget against clean accuracy, a point per network.

    With 95 % intervals; grey lines join equal harmonic means (NRR, Gowda et al. 2024). The budget
    stands on the axis, or where results have several in the legend.
    """
    norm = one_norm(results)
    figure, axes = subplots(figsize=(COLUMN, 2.8))
    largest = {label: float(ds["eps"].max()) for label, ds in results.items()}
    several = len(set(largest.values())) > 1
    for number, (label, ds) in enumerate(results.items()):
        levels = ds.sortby("eps")
        along = levels["eps"].dims[0]  # of the command's results, `condition`
        clean, robust = levels.isel({along: 0}), levels.isel({along: -1})
        if float(clean["eps"]) or not float(robust["eps"]):
            raise InputError(f"{label} needs a clean and a robust accuracy: test_ensemble --attack")
        bars = {}
        for axis, row in (("xerr", clean), ("yerr", robust)):
            mid = float(row["accuracy"])
            bars[axis] = [[mid - float(row["accuracy_low"])], [float(row["accuracy_high"]) - mid]]
        axes.errorbar(float(clean["accuracy"]), float(robust["accuracy"]), fmt="o", capsize=1.5,
                      color=color_of(label, number), **bars,
                      label=f"{label}, ε = {largest[label]:.3g}" if several else label)  # fmt: skip
    x_range, y_range = axes.get_xlim(), axes.get_ylim()
    x, y = np.meshgrid(np.linspace(*x_range, 80).clip(1e-6), np.linspace(*y_range, 80).clip(1e-6))
    lines = axes.contour(x, y, 2 * x * y / (x + y), 6, colors="0.75", linewidths=0.6, zorder=0)
    axes.clabel(lines, fontsize=pt(5))
    axes.plot([], [], color="0.75", lw=0.6, label="equal harmonic mean (NRR)")
    at = "" if several else f" at ε = {max(largest.values()):.3g}"
    axes.set(xlabel="clean accuracy", ylabel=f"robust accuracy{at} {norm}".strip(), xlim=x_range,
             ylim=y_range)  # fmt: skip
    legend_of(figure, *axes.get_legend_handles_labels(), most=3)
    thin(axes.texts)
    return figure


def draw_groups(results: Results) -> Figure:
    """Mean accuracy under every group of corruptions, a colour per network, 95 % intervals."""
    for label, ds in results.items():
        if "group_accuracy" not in ds:
            raise InputError(f"{label} holds no groups of corruptions: run test_corruptions again")
    if len({tuple(tuple(ds[n].values) for n in ("corruption", "severity")) for ds in
            results.values()}) > 1:  # fmt: skip
        raise InputError("these results hold other corruptions or severities, so means by group "
                         "cannot be compared; without --against every cell is drawn")  # fmt: skip
    names = list(dict.fromkeys(str(g) for ds in results.values() for g in ds["group"].values))
    figure, axes = subplots(figsize=(min(PAGE, COLUMN + 0.5 * len(results)), 2.6))
    width = 0.8 / len(results)
    for number, (label, ds) in enumerate(results.items()):
        here = ds.reindex(group=names)
        clean = (float(ds["clean_accuracy"]), float(ds.get("clean_accuracy_se", np.nan)))
        rows = [clean, *zip(here["group_accuracy"].values, here["group_accuracy_se"].values,
                strict=True)]  # fmt: skip
        values, errors = np.array(rows).T
        places = np.arange(len(rows)) + (number - (len(results) - 1) / 2) * width
        axes.bar(places, values, width, yerr=1.96 * errors, label=label, capsize=1.5,
                 color=color_of(label, number), error_kw={"lw": 0.7})  # fmt: skip
    axes.set_xticks(range(len(names) + 1), ["clean", *names])
    axes.set(ylabel="accuracy", ylim=(0, 1))
    legend_of(figure, *axes.get_legend_handles_labels(), most=4)
    return figure
