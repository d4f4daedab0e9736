"""Drawings over many networks: pairwise matrices with dendrograms, and how measures rank them."""

from __future__ import annotations

import numpy as np
import scipy  # its parts are loaded when used
from matplotlib.figure import Figure

from ridgeline.analysis.figures.layout import legend_of, subplots
from ridgeline.analysis.figures.style import COLUMN, PAGE, PALETTE, SURFACE, Results
from ridgeline.analysis.sharpness.pairs import MATRICES, dendrogram_of
from ridgeline.models.errors import InputError

_WORDS = {"distance": "distance of weights", "cosine": "cosine of perturbations",
          "barrier": "barrier [nat]", "cka": "linear CKA, mean over layers"}  # fmt: skip


def draw_pairs(results: Results) -> Figure:
    """A matrix for every measure that all pairs have, its networks in the order of the dendrogram.

    The dendrogram (average linkage) stands above. Raises InputError for several results at once,
    and where no measure has a number for every pair.
    """
    if len(results) != 1:
        raise InputError("pairs are drawn one result at a time")
    (ds,) = results.values()
    shown = [n for n in MATRICES if np.isfinite(ds[n].values).all()]
    if not shown:
        raise InputError("no measure has a number for every pair")
    labels = [str(n) for n in ds["network_a"].values]
    figure, grid = subplots(
        2, len(shown), figsize=(max(COLUMN, 1.9 * len(shown)), 3.0),
        squeeze=False, height_ratios=[1, 3],
    )  # fmt: skip
    for name, (top, bottom) in zip(shown, grid.T, strict=True):
        values = ds[name].values
        tree = dendrogram_of(values, MATRICES[name])
        drawn = scipy.cluster.hierarchy.dendrogram(
            tree, ax=top, color_threshold=0, above_threshold_color="0.3", no_labels=True
        )
        top.set_axis_off()
        top.set_title(_WORDS[name])
        order = drawn["leaves"]
        image = bottom.imshow(values[np.ix_(order, order)], cmap=SURFACE, aspect="auto")
        places = range(len(labels))
        bottom.set_xticks(places, [labels[n] for n in order], rotation=60, ha="right")
        bottom.set_yticks(places, [labels[n] for n in order])
        figure.colorbar(image, ax=bottom, location="bottom", pad=0.02)
    return figure


def draw_ranking(results: Results) -> Figure:
    """Kendall's tau of every measure with the gap, with bootstrap intervals; a panel per logits."""
    if len(results) != 1:
        raise InputError("a ranking is drawn one result at a time")
    (ds,) = results.values()
    names, ways = ([str(v) for v in ds[d].values] for d in ("measure", "logits"))
    figure, grid = subplots(
        1, len(ways), figsize=(COLUMN * 1.2 if len(ways) == 1 else PAGE, 0.9 + 0.22 * len(names)),
        squeeze=False, sharex=True, sharey=True,
    )  # fmt: skip
    for axes, way in zip(grid.flat, ways, strict=True):
        for n, loss in enumerate(ds["loss"].values):
            row = ds.sel(logits=way, loss=loss)
            tau = row["tau"].values
            bars = np.abs([tau - row["tau_low"].values, row["tau_high"].values - tau])
            places = np.arange(len(names)) + 0.3 * (n - (ds.sizes["loss"] - 1) / 2)
            axes.errorbar(tau, places, xerr=bars, fmt="o", color=PALETTE[n], elinewidth=0.8,
                          label=f"{loss} loss")  # fmt: skip
        axes.axvline(0, color="0.7", lw=0.7, zorder=0)
        axes.set(xlabel=f"Kendall's tau with the gap, {way} logits", xlim=(-1.05, 1.05),
                 xticks=[-1, -0.5, 0, 0.5, 1], ylim=(len(names) - 0.5, -0.5))  # fmt: skip
        axes.grid(axis="y", lw=0.3, color="0.85")
    grid[0, 0].set_yticks(range(len(names)), [n.replace("_", " ") for n in names])
    handles, labels = grid[0, 0].get_legend_handles_labels()
    legend_of(figure, handles, labels, "upper", 2)
    return figure
