"""Drawings of robust accuracies: security curves, and how far the accuracies can be trusted."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ridgeline.analysis.figures.comparisons import draw_clean_robust, draw_smallest, one_norm
from ridgeline.analysis.figures.layout import subplots
from ridgeline.analysis.figures.legends import legend, legend_of
from ridgeline.analysis.figures.style import COLUMN, PAGE, Results, color_of, pt
from ridgeline.analysis.masking import FLAT, LEVEL, SURVIVE
from ridgeline.models.errors import unknown

#: limit of every sign of masked gradients: p-values warn below it, shares above it
_TESTS = ("not_monotone", "black_box", "steps")
_LIMITS = {**dict.fromkeys(_TESTS, LEVEL), "flat": FLAT, "unbounded": SURVIVE}
_ROOM = 0.6  # of a category, for the points of all results beside each other


def draw_robustness(results: Results, axes: Axes | None = None, *, against: str = "eps") -> Figure:
    """What `against` names of ROBUSTNESS: security curves, trade-offs, smallest perturbations."""
    if against not in ROBUSTNESS:
        raise unknown("--against for robustness", against, ROBUSTNESS)
    return draw_security(results, axes) if against == "eps" else ROBUSTNESS[against](results)


def draw_security(results: Results, axes: Axes | None = None) -> Figure:
    """Accuracy with its 95 % interval against the budget of the attack, a line per result.

    With the security curve of a minimum-norm attack dashed, and the accuracies under PGD that were
    tried for masked gradients as triangles. Then a panel for all else that `--also` found: signs of
    masked gradients, stronger searches, transfer, calibration, classes. `axes` takes the first.
    """
    if axes is not None:
        _draw_budgets(results, axes)
        legend(axes)
        return axes.figure
    panels = [(_draw_budgets, results), *_panels(results)]
    count = len(panels)
    figure, grid = subplots(
        1, count, figsize=(PAGE / min(count, 3) * count if count > 1 else COLUMN, 2.4), across=3,
        squeeze=False, least=1.6,
    )  # fmt: skip
    for place, (drawing, held) in zip(grid[0], panels, strict=True):
        drawing(held, place)
    if count == 1:
        legend(grid[0, 0])
    else:
        legend_of(figure, *grid[0, 0].get_legend_handles_labels())
    return figure


def _panels(results: Results) -> Iterator[tuple[Callable[[Results, Axes], None], Results]]:
    """The drawings beside the first, each with the results that hold what it shows."""
    for name, drawing in (
        ("masking_value", _draw_masking), ("search_accuracy", _draw_searches),
        ("bin_accuracy", _draw_reliability), ("class_accuracy", _draw_classes),
    ):  # fmt: skip
        if any(name in ds for ds in results.values()):
            yield drawing, results
    for label, ds in results.items():
        if "transfer_accuracy" in ds:
            yield _draw_transfer, {label: ds}


def _coloured(results: Results, name: str) -> Iterator[tuple[xr.Dataset, tuple, float]]:
    """Results that hold a variable, each with its colour and its place beside the others."""
    for number, (label, ds) in enumerate(results.items()):
        if name in ds:
            shift = _ROOM * ((number + 0.5) / len(results) - 0.5)
            yield ds, color_of(label, number), shift


def _draw_budgets(results: Results, axes: Axes) -> None:
    norm = one_norm(results)
    for number, (label, ds) in enumerate(results.items()):
        color = color_of(label, number)
        levels = ds.sortby("eps")
        axes.plot(levels["eps"], levels["accuracy"], "o-", color=color, label=label)
        axes.fill_between(levels["eps"], levels["accuracy_low"], levels["accuracy_high"],
                          color=color, alpha=0.2, lw=0)  # fmt: skip
        if "security" in ds:
            axes.plot(ds["radius"], ds["security"], color=color, lw=0.8, ls="--")
            axes.fill_between(ds["radius"], ds["security_low"], ds["security_high"], color=color,
                              alpha=0.1, lw=0)  # fmt: skip
        if "ladder_accuracy" in ds:
            axes.plot(ds["ladder"], ds["ladder_accuracy"], "^:", color=color, lw=0.8)
    unit = "[0,1]" if norm != "l_2" else "in units of [0,1]"
    axes.set(xlabel=f"{norm} budget of the attack {unit}".strip(), ylabel="accuracy", ylim=(0, 1))


def _draw_masking(results: Results, axes: Axes) -> None:
    """Signs of masked gradients; one that warns is a cross, the limit of each is a grey line."""
    names = list(_LIMITS)
    for ds, color, shift in _coloured(results, "masking_value"):
        here = ds.reindex(sign=names)
        warns = ds["masking_warning"].astype(bool).reindex(sign=names, fill_value=False).values
        rows, values = np.arange(len(names)) + shift, here["masking_value"].values
        looks = {False: {"marker": "o", "mfc": "white"}, True: {"marker": "X", "ms": 6}}
        for warned, look in looks.items():
            at = warns == warned
            if at.any():  # without a point it would take room in the corner of the figure
                axes.plot(values[at], rows[at], ls="", color=color, clip_on=False, **look)
    for row, limit in enumerate(_LIMITS.values()):
        axes.plot([limit, limit], [row - 0.4, row + 0.4], color="0.5", lw=0.8)
    words = [n.replace("_", " ") + " (p)" * (n in _TESTS) for n in names]
    axes.set_yticks(range(len(names)), words)
    axes.set_xscale("symlog", linthresh=1e-3, linscale=0.5)
    axes.set_xticks([0, 1e-2, 1], ["0", "0.01", "1"])
    axes.minorticks_off()
    axes.set(ylim=(len(names) - 0.5, -0.5), xlim=(0, 1), xlabel="p-value (p), or share of images",
             title="masked gradients (grey: limit, cross: warns)")  # fmt: skip


def _draw_searches(results: Results, axes: Axes) -> None:
    """Accuracy under the attack and under stronger ones, with its 95 % interval."""
    names = list(dict.fromkeys(str(n) for ds in results.values() if "search" in ds
                               for n in ds["search"].values))  # fmt: skip
    for ds, color, shift in _coloured(results, "search_accuracy"):
        here = ds[[f"search_accuracy{w}" for w in ("", "_low", "_high")]].reindex(search=names)
        middle = here["search_accuracy"].values
        bars = [middle - here["search_accuracy_low"].values,
                here["search_accuracy_high"].values - middle]  # fmt: skip
        axes.errorbar(np.arange(len(names)) + shift, middle, np.maximum(bars, 0), fmt="o",
                      capsize=1.5, color=color)  # fmt: skip
    axes.set_xticks(range(len(names)), [n.replace("_x", " ×") for n in names], rotation=30,
                    ha="right", rotation_mode="anchor")  # fmt: skip
    axes.set(ylabel="accuracy", ylim=(0, 1), title="stronger searches")


def _draw_reliability(results: Results, axes: Axes) -> None:
    """Accuracy against confidence, bin by bin: clean solid, attacked dotted; ideal the diagonal."""
    axes.plot([0, 1], [0, 1], color="0.6", lw=0.8)
    for ds, color, _ in _coloured(results, "bin_accuracy"):
        for row in range(ds.sizes["condition"]):
            here = ds.isel(condition=row)
            kept = here["bin_count"].values > 0
            axes.plot(here["bin_confidence"].values[kept], here["bin_accuracy"].values[kept], "o",
                      ls=":" if row else "-", color=color, ms=2.5, lw=0.8)  # fmt: skip
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1),
             title="calibration (attacked dotted)")  # fmt: skip


def _draw_classes(results: Results, axes: Axes) -> None:
    """Accuracy of every class with its 95 % interval: clean hollow, attacked filled."""
    for ds, color, shift in _coloured(results, "class_accuracy"):
        count = ds.sizes["condition"]
        for row in range(count):
            here = ds.isel(condition=row)
            middle = here["class_accuracy"].values
            bars = [middle - here["class_accuracy_low"].values,
                    here["class_accuracy_high"].values - middle]  # fmt: skip
            beside = shift + _ROOM / len(results) * ((row + 0.5) / count - 0.5)
            axes.errorbar(ds["class"].values + beside, middle, np.maximum(bars, 0), fmt="o", ms=2,
                          lw=0.6, color=color, mfc=color if row else "white")  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set(xlabel="class", ylabel="accuracy", ylim=(-0.04, 1.04), title="classes (clean hollow)")


def _draw_transfer(results: Results, axes: Axes) -> None:
    """Accuracy of each network across on the images made for each network down."""
    ((label, ds),) = results.items()
    table = ds["transfer_accuracy"].transpose("source", "target").values
    axes.imshow(table, vmin=0, vmax=1, cmap="viridis", aspect="auto")
    for (row, column), value in np.ndenumerate(table):
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=pt(6),
                  color="black" if value > 0.6 else "white")  # fmt: skip
    axes.set_xticks(range(table.shape[1]), ds["target"].values)
    axes.set_yticks(range(table.shape[0]), ds["source"].values)
    axes.set(xlabel="target", ylabel="source", title=f"{label}: accuracy by transfer")


#: what results of test_ensemble can be drawn against
ROBUSTNESS = {"eps": draw_security, "clean": draw_clean_robust, "smallest": draw_smallest}
