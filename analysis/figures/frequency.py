"""Drawings of a network's frequencies: sensitivity maps, filtered accuracy, filter pictures."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.text import Text

from ridgeline.analysis.figures.comparisons import draw_groups
from ridgeline.analysis.figures.layout import (
    alike_by,
    over_epochs,
    panels_for,
    sized,
    subplots,
    unpile,
)
from ridgeline.analysis.figures.legends import legend
from ridgeline.analysis.figures.magnitudes import draw_magnitudes, draw_radii, draw_rings
from ridgeline.analysis.figures.style import COLUMN, SURFACE, Results, color_of, pt
from ridgeline.analysis.training.metrics import runs_by_epoch
from ridgeline.models.dct import dct_basis
from ridgeline.models.errors import InputError, unknown

AGAINST = ("layer", "epoch", "filters", "magnitude", "radius", "kernels", "basis")


def draw_fourier(results: Results, axes: Axes | None = None, *, against: str = "cutoff") -> Figure:
    """A heat map of error rates per network on one colour scale, and the pass curves together.

    `against` radius: error rates by distance from DC instead.
    """
    if against not in ("cutoff", "radius"):
        raise unknown("--against for Fourier maps", against, ("cutoff", "radius"))
    if against == "radius":
        return draw_rings(results, axes)
    del axes
    figure, grid = subplots(
        1, len(results) + 1, figsize=(2.3 * len(results) + 3.2, 2.4),
        squeeze=False,
    )  # fmt: skip
    *maps, curves = grid[0]
    top = max(float(ds["error"].max()) for ds in results.values())
    for number, (place, (label, ds)) in enumerate(zip(maps, results.items(), strict=True)):
        rows, columns = ds["row"].values, ds["column"].values
        extent = (columns[0] - 0.5, columns[-1] + 0.5, rows[-1] + 0.5, rows[0] - 0.5)
        image = place.imshow(ds["error"], vmin=0, vmax=top, cmap=SURFACE, extent=extent)
        place.set(title=label, xlabel="horizontal frequency")
        color = color_of(label, number)
        for filter_, look in (("low", "o-"), ("high", "s--")):
            here = ds.sel(filter=filter_)
            curves.errorbar(
                here["cutoff"], here["pass_accuracy"], 1.96 * here["pass_accuracy_se"], fmt=look,
                color=color, capsize=1.5, label=f"{label}, {filter_}-pass",
            )  # fmt: skip
        curves.axhline(float(ds["clean_accuracy"]), color=color, lw=0.6, ls=":",
                       label="clean" if number == 0 else None)  # fmt: skip
    maps[0].set_ylabel("vertical frequency")
    figure.colorbar(image, ax=maps, label="error rate", shrink=0.8)
    curves.set(xlabel="share of frequencies kept", ylabel="accuracy", ylim=(0, 1))
    curves.set_yticks(np.linspace(0, 1, 6))
    legend(curves)
    return figure


def draw_corruptions(
    results: Results, axes: Axes | None = None, *, against: str = "severity"
) -> Figure:
    """Accuracy per corruption and severity, a heat map per network; or `against` groups: bars."""
    del axes
    if against not in ("severity", "groups"):
        raise unknown("--against for corruptions", against, ("severity", "groups"))
    if against == "groups":
        return draw_groups(results)
    shown = {n: list(dict.fromkeys(v for ds in results.values() for v in ds[n].values.tolist()))
             for n in ("corruption", "severity")}  # fmt: skip
    rows = len(shown["corruption"])
    figure, grid = subplots(
        1, len(results), figsize=(1.7 * len(results) + 1.6, max(1.3, 0.19 * rows + 0.9)),
        squeeze=False, sharey=True,
    )  # fmt: skip
    for place, (label, ds) in zip(grid[0], results.items(), strict=True):
        cells = ds["accuracy"].reindex(shown)  # blank where a network was not tried
        image = place.imshow(cells, vmin=0, vmax=1, cmap=SURFACE, aspect="auto")
        mean, error = float(ds["mean_accuracy"]), float(ds["mean_accuracy_se"])
        clean = float(ds["clean_accuracy"])
        place.set_title(
            f"{label}\nclean {clean:.3f}, mean {mean:.3f} ± {error:.3f}", fontsize=pt(7)
        )
        place.set_xticks(range(len(shown["severity"])), shown["severity"])
        place.set_yticks(range(rows), shown["corruption"])
        place.set_xlabel("severity")
    figure.colorbar(image, ax=grid, label="accuracy", shrink=0.8)
    return figure


def draw_spectral_bias(results: Results, axes: Axes | None = None) -> Figure:
    """Robust accuracy over spectral bias, one labelled point per network, rank correlation."""
    axes = axes or subplots(figsize=(COLUMN, 2.6))[1]
    names: list[Text] = []
    for label, ds in results.items():
        rho = (
            f"ρ = {float(ds['rho']):.2f} [{float(ds['rho_low']):.2f}, {float(ds['rho_high']):.2f}]"
        )
        half = 1.96 * ds["accuracy_se"].values
        bars = [np.minimum(half, ds["accuracy"]), np.minimum(half, 1 - ds["accuracy"])]
        axes.errorbar(ds["bias"], ds["accuracy"], bars, fmt="o", capsize=2,
                      label=f"{label}: {rho}" if len(results) > 1 else rho)  # fmt: skip
        for name in ds["network"].values:
            row = ds.sel(network=name)
            place = (float(row["bias"]), float(row["accuracy"]))
            names.append(axes.annotate(str(name), place, fontsize=pt(6), xytext=(3, 3),
                                       textcoords="offset points"))  # fmt: skip
        axes.set(xlabel=ds["bias"].attrs["long_name"], ylabel="robust accuracy, 95 % interval")
    legend(axes)
    unpile(names)
    return axes.figure


def draw_kernels(results: Results, most: int = 16) -> Figure:
    """The first layer's kernels, a row per network; symmetric colours, RGB for 3 channels."""
    count = min(most, *(ds.sizes["filter"] for ds in results.values()))
    figure, grid = subplots(
        len(results), count, figsize=(0.42 * count + 1, 0.55 * len(results) + 0.2), least=0.1,
        squeeze=False,
    )  # fmt: skip
    for line, (label, ds) in zip(grid, results.items(), strict=True):
        kernels = ds["first_kernels"].values[:count]
        top = np.abs(kernels).max() or 1.0
        for place, kernel in zip(line, kernels, strict=True):
            if kernel.shape[0] == 3:
                place.imshow(0.5 + np.moveaxis(kernel, 0, -1) / (2 * top))
            else:
                place.imshow(kernel.mean(0), vmin=-top, vmax=top, cmap="RdBu_r")
            place.set_xticks([])
            place.set_yticks([])
        line[0].set_ylabel(label, rotation=0, ha="right", va="center")
    return figure


def draw_spectrum(results: Results, axes: Axes | None = None, *, against: str = "layer") -> Figure:
    """Spectra of filters: the high-frequency share by layer or epoch, maps, profiles, kernels."""
    if against not in AGAINST:
        raise unknown("--against for spectra", against, AGAINST)
    if against == "layer":
        return draw_shares(results, axes)
    drawings = {
        "epoch": draw_course, "filters": draw_filters, "kernels": draw_kernels, "basis": draw_basis,
        "magnitude": draw_magnitudes, "radius": draw_radii,
    }  # fmt: skip
    return drawings[against](results)


def draw_basis(results: Results) -> Figure:
    """All basis images of every kernel size in the results (Lukasik et al. 2023, figure 2)."""
    sizes = sorted({int(k) for ds in results.values() for k in ds["kernel_size"].values})
    figure = plt.figure(figsize=sized(2.1 * len(sizes), 2.3), layout="constrained")
    parts = np.atleast_1d(figure.subfigures(1, len(sizes)))
    for size, part in zip(sizes, parts, strict=True):
        part.suptitle(f"K = {size}", fontsize=pt(8))
        basis = dct_basis(size)
        for i, j in np.ndindex(size, size):
            place = part.add_subplot(size, size, j * size + i + 1)  # i to the right, j downwards
            top = float(basis[i, j].abs().max())
            place.imshow(basis[i, j], vmin=-top, vmax=top, cmap="RdBu_r")
            place.set(xticks=[], yticks=[])
    return figure


def draw_shares(
    results: Results, axes: Axes | None = None, *, colors: Mapping[str, tuple] | None = None
) -> Figure:
    """High-frequency share per layer with one standard error; dashes mark white noise.

    Crosses are the layer's own initial share, where known. Networks with the same layers share a
    panel. `colors` fixes those of networks by label.
    """
    alike = alike_by(results, "layer")
    panels = panels_for(alike, axes, (COLUMN, 2.4))
    colors = {n: color_of(n, place) for place, n in enumerate(results)} | dict(colors or {})
    for place, group in zip(panels, alike, strict=True):
        first = next(iter(group.values()))
        at = np.arange(first.sizes["layer"])
        for number, (label, ds) in enumerate(group.items()):
            shift = (number - (len(group) - 1) / 2) * 0.08
            place.errorbar(
                at + shift, ds["high_share"], ds["high_share_se"], marker="o",
                ls="-" if len(at) > 2 else "none", label=label, capsize=2, color=colors[label],
            )  # fmt: skip
            if "initial_high_share" in ds:
                place.plot(at + shift, ds["initial_high_share"], "x", color=colors[label],
                           label="initial network" if number == 0 else None)  # fmt: skip
        place.hlines(first["white_high_share"], at - 0.35, at + 0.35, colors="0.5", ls="--", lw=0.8,
                     label="white noise")  # fmt: skip
        place.set_xticks(at, [str(n).removesuffix(".weight") for n in first["layer"].values],
                         rotation=0 if len(at) < 6 else 90)  # fmt: skip
        place.set(xlabel="layer", ylabel="high-frequency share ± error")
    legend(*panels)
    return panels[0].figure


def draw_course(results: Results) -> Figure:
    """High-frequency share over epochs: mean over layers strong, each layer thin, a colour per run.

    Raises InputError for a result whose checkpoint records no epoch.
    """
    runs = runs_by_epoch(results)
    figure, axes = subplots(figsize=(COLUMN, 2.4))
    for number, (run, points) in enumerate(runs.items()):
        color = color_of(run, number)
        epochs = [epoch for epoch, _ in points]
        table = np.stack([ds["high_share"].values for _, ds in points])
        axes.plot(epochs, table, color=color, lw=0.4)
        axes.plot(epochs, table.mean(1), "o-", color=color, label=run)
    over_epochs(axes)
    axes.set(ylabel="high-frequency share")
    legend(axes)
    return figure


def draw_filters(results: Results) -> Figure:
    """Energy share per spatial frequency and layer, DC at the top left, log colours."""
    layers = max(ds.sizes["layer"] for ds in results.values())
    figure, grid = subplots(
        len(results), layers, figsize=(1.3 * layers + 1, 1.4 * len(results)), least=1.2,
        squeeze=False,
    )  # fmt: skip
    energy = np.concatenate([ds["energy"].values.ravel() for ds in results.values()])
    energy = energy[np.isfinite(energy) & (energy > 0)]
    if not energy.size:
        raise InputError("the spectra hold no energy to draw: all filters are zero")
    norm = LogNorm(energy.min(), energy.max())
    for row, (label, ds) in zip(grid, results.items(), strict=True):
        for place, layer in zip(row, ds["layer"].values, strict=False):
            size = int(ds["kernel_size"].sel(layer=layer))
            values = ds["energy"].sel(layer=layer).values[:size, :size].T
            image = place.imshow(values, cmap=SURFACE, norm=norm)
            place.set_title(f"{label}: {str(layer).removesuffix('.weight')}", fontsize=pt(6))
            place.set_xticks([])
            place.set_yticks([])
        for place in row[ds.sizes["layer"] :]:
            place.axis("off")
    figure.supxlabel("horizontal frequency", fontsize=pt(7))
    figure.supylabel("vertical frequency", fontsize=pt(7))
    figure.colorbar(image, ax=grid, label="energy share", shrink=0.8)
    return figure
