"""Drawings over many networks: pairwise matrices with dendrograms, and how measures rank them."""

from __future__ import annotations

import numpy as np
import scipy  # its parts are loaded when used
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ridgeline.analysis.figures.layout import subplots
from ridgeline.analysis.figures.legends import legend_of
from ridgeline.analysis.figures.sharpness import measure_label
from ridgeline.analysis.figures.style import COLUMN, PAGE, PALETTE, SURFACE, Results, pt
from ridgeline.analysis.sharpness.pairs import MATRICES, dendrogram_of
from ridgeline.models.errors import InputError, unknown

_WORDS = {"distance": "distance of weights", "cosine": "cosine of perturbations",
          "barrier": "barrier [nat]", "cka": "linear CKA, mean over layers"}  # fmt: skip
_APART = {"distance": "distance", "cosine": "1 - cosine", "barrier": "barrier [nat]",
          "cka": "1 - CKA"}  # fmt: skip
_NUMBERED = 6  # networks whose numbers fit into the cells


def draw_pairs(results: Results, view: str | None = None) -> Figure:
    """A dendrogram of the networks, and a matrix for every measure that all pairs have.

    All matrices are in the order of the dendrogram (average linkage). It is of the measure that
    `view` names, else of the first one. Colours span the pairs of two networks; a network beside
    itself stays white. Columns have the numbers of the rows. With up to six networks the values
    stand in the cells.

    Raises InputError for several results at once, for a measure that is not there, and where no
    measure has a number for every pair.
    """
    if len(results) != 1:
        raise InputError("pairs are drawn one result at a time")
    (ds,) = results.values()
    shown = [n for n in MATRICES if np.isfinite(ds[n].values).all()]
    if not shown:
        raise InputError("no measure has a number for every pair")
    leader = view or shown[0]
    if leader not in shown:
        raise unknown("--view", leader, shown)
    labels = [str(n) for n in ds["network_a"].values]
    height = max(2.1, 0.9 + 0.16 * len(labels))  # a line of text for every network
    figure, grid = subplots(
        1, 1 + len(shown), figsize=(2.2 * (1 + len(shown)), height), across=3, least=1.5,
        squeeze=False, sharey="row",
    )  # fmt: skip
    tree, *panels = grid[0]
    drawn = scipy.cluster.hierarchy.dendrogram(
        dendrogram_of(ds[leader].values, MATRICES[leader]), ax=tree, orientation="right",
        color_threshold=0, above_threshold_color="0.3", no_labels=True,
    )  # fmt: skip
    order = drawn["leaves"]
    size = 10 * len(labels)  # scipy puts the leaves at 5, 15, ...
    names = [f"{labels[n]}  {place}" for place, n in enumerate(order, 1)]
    tree.set(title="average linkage", xlabel=_APART[leader], xlim=(0, None))
    tree.spines["left"].set_visible(False)
    for axes, name in zip(panels, shown, strict=True):
        values = np.ma.masked_array(ds[name].values[np.ix_(order, order)], np.eye(len(labels)))
        image = axes.imshow(values, cmap=SURFACE, aspect="auto", origin="lower",
                            extent=(0, size, 0, size))  # fmt: skip
        axes.set_title(_WORDS[name])
        axes.set_xticks(np.arange(5, size, 10), range(1, len(names) + 1))
        if len(labels) <= _NUMBERED:
            _write_numbers(axes, values, image.norm)
        figure.colorbar(image, ax=axes, pad=0.02).locator = MaxNLocator(4)
    for axes in grid[0]:
        axes.set_yticks(np.arange(5, size, 10), names)
        axes.tick_params(axis="y", length=0)
    tree.set_ylim(size, 0)
    return figure


def _write_numbers(axes: Axes, values: np.ma.MaskedArray, norm: Normalize) -> None:
    """The numbers of a matrix in its cells, in three digits."""
    largest = float(np.abs(values).max()) or 1.0
    digits = int(np.clip(2 - np.floor(np.log10(largest)), 0, 3))
    form = f".{digits}f" if largest >= 0.001 else ".1g"
    for i, j in zip(*np.nonzero(~np.ma.getmaskarray(values)), strict=True):
        light = norm(values[i, j]) > 0.6
        axes.text(10 * j + 5, 10 * i + 5, f"{values[i, j]:{form}}", ha="center",
                  va="center", fontsize=pt(5), color="black" if light else "white")  # fmt: skip


def draw_ranking(results: Results) -> Figure:
    """Kendall's tau of every measure with the gap, with bootstrap intervals; a panel per logits."""
    if len(results) != 1:
        raise InputError("a ranking is drawn one result at a time")
    (ds,) = results.values()
    names, ways = ([str(v) for v in ds[d].values] for d in ("measure", "logits"))
    figure, grid = subplots(
        1, len(ways), figsize=(COLUMN * 1.2 if len(ways) == 1 else PAGE, 1.4 + 0.22 * len(names)),
        squeeze=False, sharex=True, sharey=True, least=1.6,
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
        axes.set_title(f"{way} logits", fontsize=pt(7))
        axes.set(xlabel="Kendall's tau", xlim=(-1.05, 1.05), xticks=[-1, 0, 1],
                 ylim=(len(names) - 0.5, -0.5))  # fmt: skip
        axes.grid(axis="y", lw=0.3, color="0.85")
    grid[0, 0].set_yticks(range(len(names)), [measure_label(n) for n in names])
    handles, labels = grid[0, 0].get_legend_handles_labels()
    legend_of(figure, handles, labels, "upper", 2)
    return figure
