"""The accuracy of networks by the budget they were trained at and the one they are probed at."""

from __future__ import annotations

import matplotlib.pyplot as plt
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ridgeline.analysis.budget_matrix import rows_of
from ridgeline.analysis.figures.layout import subplots
from ridgeline.analysis.figures.style import PAGE, Results, pt


def draw_budgets(results: Results, axes: Axes | None = None) -> Figure:
    """Accuracy in percent, networks by training budget down and probe budgets across.

    A panel per result, one below the other; `axes` takes the first. A frame marks the cell of each
    network whose probe budget is its training budget.
    """
    if axes is not None:
        _draw_table(next(iter(results.values())), axes)
        return axes.figure
    heights = [1.6 + 0.3 * len(rows_of(ds)) for ds in results.values()]
    figure, grid = subplots(1, len(heights), figsize=(PAGE * 0.7 * len(heights), max(heights)),
                            across=1, squeeze=False)  # fmt: skip
    for place, (label, ds) in zip(grid[0], results.items(), strict=True):
        _draw_table(ds, place)
        place.set_title(label if len(results) > 1 else "")
    return figure


def _draw_table(ds: xr.Dataset, axes: Axes) -> None:
    rows, levels = rows_of(ds), ds["eps"].values
    table = 100 * ds["accuracy"].values[[place for place, _ in rows]]
    image = axes.imshow(table, vmin=0, vmax=100, cmap="viridis", aspect="auto")
    for row, (place, _) in enumerate(rows):
        for column, eps in enumerate(levels):
            value = table[row, column]
            color = "black" if value > 60 else "white"
            axes.text(column, row, f"{value:.1f}", ha="center", va="center", fontsize=pt(6),
                      color=color)  # fmt: skip
            same_norm = float(ds["trained_order"][place]) == ds.attrs["probe_order"]
            if same_norm and abs(eps - float(ds["trained_eps"][place])) < 1e-9:
                box = plt.Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, ec="red", lw=1.2,
                                    clip_on=False, zorder=3)  # fmt: skip
                axes.add_patch(box)
    axes.set_xticks(range(len(levels)), ["clean" if e == 0 else f"{e:.4g}" for e in levels])
    axes.set_yticks(range(len(rows)), [label for _, label in rows], fontsize=pt(6))
    axes.set(xlabel="budget of the attack [0,1]; red: that of training")
    axes.figure.colorbar(image, ax=axes, label="accuracy [%]")
