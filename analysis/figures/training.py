"""Drawings of robust overfitting, of landscapes along runs, of features, of masked weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ridgeline.analysis.figures.layout import over_epochs, subplots
from ridgeline.analysis.figures.legends import legend, legend_of
from ridgeline.analysis.figures.runs import RUN_FIGURES
from ridgeline.analysis.figures.style import COLUMN, PAGE, SURFACE, Results, color_of, line_of, pt
from ridgeline.models.errors import InputError, unknown


def draw_overfitting(results: Results, axes: Axes | None = None) -> Figure:
    """Robust test accuracy by epoch, mean over seeds with their range; best to last of each."""
    del axes
    title = lambda name, label: str(label) if len(results) == 1 else f"{name}: {label}"  # noqa: E731
    rows = [(title(name, label), ds["epoch"], ds.sel(label=label))
            for name, ds in results.items() for label in ds["label"].values]  # fmt: skip
    figure, (curves, ends) = subplots(1, 2, figsize=(PAGE, 3.2), sharey=True, width_ratios=(3, 2))
    for number, (name, epochs, row) in enumerate(rows):
        look, robust = line_of(name, number), row["robust"].values
        alive = np.isfinite(robust).any(0)
        x, y = epochs.values[alive], robust[:, alive]
        curves.plot(x, np.nanmean(y, 0), label=name, **look)
        curves.fill_between(x, np.nanmin(y, 0), np.nanmax(y, 0), color=look["color"], alpha=0.15,
                            lw=0)  # fmt: skip
        for seed in range(row.sizes["seed"]):
            pair = [float(row[f"{w}_by_seed"][seed]) for w in ("best", "last")]
            ends.plot([number - 0.2, number + 0.2], pair, "o-", color=look["color"], ms=2.5, lw=0.8)
    over_epochs(curves)
    curves.set(ylabel="robust test accuracy")
    ends.set_xticks(range(len(rows)), [name for name, _, _ in rows], rotation=60, ha="right",
                    fontsize=pt(6))  # fmt: skip
    ends.set(title="best (left) to last, each seed")
    legend_of(figure, *curves.get_legend_handles_labels(),
                  fontsize=pt(6))  # fmt: skip
    return figure


def draw_trajectory(results: Results, axes: Axes | None = None) -> Figure:
    """Robust accuracy, gradients, distance, curvature, flatness by epoch, a colour per run.

    Accuracy: test solid, training (adversarial images) dotted, the best epoch as a star. Norm of
    the gradient by the weights: of the robust loss solid, of the clean loss dotted. Flatness:
    random directions with circles, steepest with crosses, on a scale linear around 0.
    """
    del axes
    figure, grid = subplots(1, 6, figsize=(2.4 * PAGE, 2.3), across=3, least=1.6)
    accuracy, gradients, distance, curvature, trace, flatness = grid.flat
    for number, (label, ds) in enumerate(results.items()):
        look = line_of(label, number)
        color = look["color"]
        if "robust_test" in ds:
            judged = ds["robust_test"].dropna("every_epoch")
            accuracy.plot(judged["every_epoch"], judged, label=label, **look)
            accuracy.plot(ds["every_epoch"], ds["robust_train"], color=color, lw=0.7, ls=":")
            best = ds["robust_test"].sel(every_epoch=ds["best_epoch"])
            accuracy.plot(ds["best_epoch"], best, "*", color=color, ms=7)
        else:
            accuracy.plot(ds["epoch"], ds["accuracy"], marker="o", label=label, **look)
        if "gradient_norm" in ds:
            gradients.plot(ds["epoch"], ds["gradient_norm"], marker="o", **look)
            gradients.plot(ds["epoch"], ds["clean_gradient_norm"], color=color, lw=0.7, ls=":")
        distance.plot(ds["epoch"], ds["relative_distance"], marker="o", **look)
        curvature.plot(ds["epoch"], ds["lambda_max"], marker="o", **look)
        _banded(trace, ds, "trace", color)
        _banded(flatness, ds, "flatness", color)
        flatness.plot(ds["epoch"], ds["sharpness"], "x:", color=color, lw=0.7)
    accuracy.set(ylabel="robust accuracy", title="training dotted, best epoch: star")
    gradients.set(ylabel="gradient norm [nat]", title="clean loss dotted", yscale="log")
    distance.set(ylabel="relative distance from start")
    curvature.set(ylabel="largest eigenvalue", yscale="log")
    trace.set(ylabel="trace", yscale="log")
    first = next(iter(results.values()))
    flatness.set(ylabel="rise of the robust loss [nat]")
    flatness.set_yscale("symlog", linthresh=0.01)
    flatness.set_title(f"random, {first.attrs['radius']:g} of each filter (circles)\n"
                       f"steepest, {first.attrs['ascent']:g} (crosses)",
                       fontsize=pt(6))  # fmt: skip
    legend_of(figure, *accuracy.get_legend_handles_labels(),
                  fontsize=pt(7))  # fmt: skip
    over_epochs(*grid.flat)
    return figure


def _banded(axes: Axes, ds: xr.Dataset, name: str, color) -> None:
    axes.plot(ds["epoch"], ds[name], "o-", color=color)
    low, high = ds[name] - ds[f"{name}_se"], ds[name] + ds[f"{name}_se"]
    axes.fill_between(ds["epoch"], low, high, color=color, alpha=0.2, lw=0)


def _named(text: str) -> str:
    """The network, or the kind of images, of `layer, NAME`."""
    return Path(text.removeprefix("layer, ")).stem


def draw_cka(results: Results, axes: Axes | None = None) -> Figure:
    """CKA of every layer with every other, a heat map per result, and the diagonals together."""
    del axes
    diagonals = {label: ds for label, ds in results.items() if "diagonal" in ds}
    low = min(0.0, *(float(ds["cka"].min()) for ds in results.values()))  # unbiased: may be below
    columns = len(results) + bool(diagonals)
    figure, grid = subplots(1, columns, figsize=(2.6 * columns, 2.7),
                                squeeze=False)  # fmt: skip
    for place, (label, ds) in zip(grid[0], results.items(), strict=False):
        image = place.imshow(ds["cka"].T, vmin=low, vmax=1, origin="lower", cmap=SURFACE)
        title = f"{label}, mean diagonal {float(ds['mean_diagonal']):.4f}" if "diagonal" in ds \
            else label  # fmt: skip
        for axis, side, which in ((place.xaxis, "layer_a", "first"),
                                  (place.yaxis, "layer_b", "second")):  # fmt: skip
            axis.set_label_text(f"layer ({_named(ds.attrs[which])})" if which in ds.attrs
                                else "layer")  # fmt: skip
            _name_layers(axis, ds[side].values)
        place.set(title=title)
    figure.colorbar(image, ax=grid[0, len(results) - 1], label="linear CKA", shrink=0.8)
    if diagonals:
        for number, (label, ds) in enumerate(diagonals.items()):
            grid[0, -1].errorbar(range(ds.sizes["layer"]), ds["diagonal"], ds["diagonal_se"],
                                 fmt="o-", capsize=1.5, label=label,
                                 color=color_of(label, number))  # fmt: skip
        grid[0, -1].set(xlabel="layer", ylabel="CKA of equal layers", ylim=(None, 1.02))
        _name_layers(grid[0, -1].xaxis, next(iter(diagonals.values()))["layer"].values)
        legend(grid[0, -1])
    return figure


def _name_layers(axis: Axis, names: np.ndarray) -> None:
    """Ticks at the layers: their names where these are few, else their numbers."""
    if len(names) > 8:
        axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        return
    turned = {"rotation": 45, "ha": "right"} if axis.axis_name == "x" else {}
    axis.set_ticks(range(len(names)), [str(n) for n in names], **turned)


def draw_weights(metrics: Mapping[str, list[dict]], what: str) -> Figure:
    """A per-tensor quantity of the metrics (updated, changed, overlap, prominence) over epochs.

    One map per run, tensors in the order of the network. Raises InputError if the metrics do not
    hold it for every run.
    """
    held = {key for lines in metrics.values() for line in lines for key, value in line.items()
            if isinstance(value, dict)}  # fmt: skip
    if not held:
        raise InputError(f"these metrics hold nothing per tensor to draw against {what!r}; they "
                         f"can be drawn against {', '.join(RUN_FIGURES)}")  # fmt: skip
    if what not in held:
        raise unknown("--against for these metrics", what, {*held, *RUN_FIGURES})
    figure, grid = subplots(1, len(metrics), squeeze=False, sharey=True,
                                figsize=(COLUMN + 2.2 * (len(metrics) - 1), 3.8))  # fmt: skip
    tables = {}
    for label, lines in metrics.items():
        rows = [line for line in lines if line.get(what)]
        if not rows:
            raise InputError(f"{label}: the metrics hold no {what}")
        if any(line[what].keys() != rows[0][what].keys() for line in rows):
            raise InputError(f"{label}: the metrics hold {what} of other tensors in other epochs")
        values = np.ma.masked_invalid(np.array([list(line[what].values()) for line in rows]).T)
        if what == "prominence":
            values = np.ma.masked_less_equal(values, 0)
        if values.mask.all():
            raise InputError(f"{label}: the metrics hold no {what} that can be drawn")
        tables[label] = (rows, values)
    low = min(v.min() for _, v in tables.values())
    high = max(v.max() for _, v in tables.values())
    norm = "log" if what == "prominence" else None
    limits = {"vmin": low, "vmax": high} if what == "prominence" else {"vmin": 0, "vmax": 1}
    for place, (label, (rows, values)) in zip(grid[0], tables.items(), strict=True):
        edges = (rows[0]["epoch"] - 0.5, rows[-1]["epoch"] + 0.5, len(values) - 0.5, -0.5)
        image = place.imshow(values, aspect="auto", cmap=SURFACE, extent=edges, norm=norm, **limits)
        place.set(title=label)
        over_epochs(place)
        names = [n.removesuffix(".weight") for n in rows[0][what]]
        place.set_yticks(range(len(names)), names, fontsize=pt(4))
    figure.colorbar(image, ax=grid, label=what, shrink=0.8)
    return figure
