"""Drawings of filter frequencies: maps of mean magnitudes, radial profiles, the penalty's trace."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ridgeline.analysis.figures.layout import fitting, over_epochs, subplots
from ridgeline.analysis.figures.legends import legend
from ridgeline.analysis.figures.style import (
    COLUMN,
    PAGE,
    SURFACE,
    Results,
    asked_width,
    color_of,
    pt,
)
from ridgeline.analysis.frequency.profiles import (
    network_magnitudes,
    radial_profile,
    relative_magnitudes,
)
from ridgeline.models.dct import dct_basis, high_frequencies
from ridgeline.models.errors import InputError

_WIDE = 5  # panels beside each other
_NORM = re.compile(r"norm_(.+)_\d\d$")


def draw_magnitudes(results: Results) -> Figure:
    """Mean |DCT| per frequency (Lukasik et al. 2023, figure 1), of networks and of every layer.

    Per kernel size first the mean over layers, then over all filters, then each layer; DC is at
    the top left, and 1 is a flat spectrum. Layers marked * have taps that no image ever meets; the
    means leave them out. InputError if every map is empty.
    """
    panels = {label: _maps(ds) for label, ds in results.items()}
    values = np.concatenate([m.ravel() for maps in panels.values() for _, m in maps])
    values = values[np.isfinite(values)]
    if not values.size:
        raise InputError("the spectra hold no magnitudes to draw: all filters are zero")
    columns = fitting(min(_WIDE, max(len(maps) for maps in panels.values())), 1.25, 0.75)
    rows = {label: math.ceil(len(maps) / columns) for label, maps in panels.items()}
    width = asked_width() or 1.25 * columns + 1
    side = (width - 1) / columns  # of a map, with the gap beside it
    height = 0.3 + (side + pt(0.15)) * sum(rows.values()) + pt(0.2) * len(rows)
    figure = plt.figure(figsize=(width, max(height, 1.6)),
                        layout="constrained")  # fmt: skip
    grid = figure.subplots(sum(rows.values()), columns, squeeze=False)
    first = 0
    for label, maps in panels.items():
        here = grid[first : first + rows[label]].ravel()
        first += rows[label]
        _name(here[0], label)
        for place, (title, m) in zip(here, maps, strict=False):
            image = place.imshow(m.T, cmap=SURFACE, vmin=0, vmax=values.max())
            place.set_title(title, fontsize=pt(6))
            place.set(xticks=[], yticks=[])
            if len(m) <= 3:
                for (i, j), value in np.ndenumerate(m):
                    light = value < 0.6 * values.max()
                    place.text(i, j, f"{value:.2f}", ha="center", va="center", fontsize=pt(5),
                               color="white" if light else "black")  # fmt: skip
        for place in here[len(maps) :]:
            place.axis("off")
    figure.supxlabel("horizontal frequency", fontsize=pt(7))
    figure.supylabel("vertical frequency", fontsize=pt(7))
    figure.colorbar(image, ax=grid, label="mean |DCT| (flat: 1)", shrink=0.8)
    return figure


def _name(axes: Axes, label: str) -> None:
    """A network's name above the title of its first map; it may reach over the next maps."""
    look = {"xycoords": "axes fraction", "textcoords": "offset points", "fontsize": pt(7)}
    above = mpl.rcParams["axes.titlepad"] + pt(8)
    for text, counts in ((label, False), (" ", True)):  # the blank takes the room of its height
        axes.annotate(text, (0, 1), (0, above), **look).set_in_layout(counts)


def _maps(ds: xr.Dataset) -> list[tuple[str, np.ndarray]]:
    """Titles and maps (K, K) of one spectrum: the network's, then the layers'."""
    found = []
    whole, layers = network_magnitudes(ds), relative_magnitudes(ds)
    for size in whole["kernel"].values:
        for average in whole["average"].values:
            values = whole.sel(kernel=size, average=average).values[:size, :size]
            found.append((f"all {average}" + (f", K={size}" if whole.sizes["kernel"] > 1
                                                    else ""), values))  # fmt: skip
    for layer in ds["layer"].values:
        size, seen = int(ds["kernel_size"].sel(layer=layer)), bool(ds["seen"].sel(layer=layer))
        title = str(layer).removesuffix(".weight") + ("" if seen else "*")
        found.append((title, layers.sel(layer=layer).values[:size, :size]))
    return found


def draw_radii(results: Results) -> Figure:
    """Mean |DCT| of networks over sqrt(i^2 + j^2), a line per kernel size; a flat spectrum is 1."""
    figure, axes = subplots(figsize=(COLUMN, 2.4))
    for number, (label, ds) in enumerate(results.items()):
        whole = network_magnitudes(ds).sel(average="layers")
        for size, look in zip(whole["kernel"].values, ("o-", "s--", "^:", "v-."), strict=False):
            values = whole.sel(kernel=size).values[:size, :size]
            place = np.arange(size)
            name = f"{label}, K={size}" if whole.sizes["kernel"] > 1 else label
            axes.plot(*radial_profile(values, place, place, 0.01), look, label=name,
                      color=color_of(label, number))  # fmt: skip
    axes.axhline(1, color="0.6", lw=0.8, ls="--")
    axes.set(xlabel="radial frequency √(i² + j²)", ylabel="mean |DCT| (flat: 1)", ylim=(0, None))
    legend(axes)
    return figure


def draw_rings(results: Results, axes: Axes | None = None) -> Figure:
    """Error rate under plane waves over their distance from DC, the clean error dotted."""
    axes = axes or subplots(figsize=(COLUMN, 2.4))[1]
    for number, (label, ds) in enumerate(results.items()):
        color = color_of(label, number)
        at, mean = radial_profile(ds["error"].values, ds["row"].values, ds["column"].values)
        axes.plot(at, mean, "o-", color=color, label=label)
        axes.axhline(float(ds["clean_error"]), color=color, lw=0.8, ls=":")
    axes.set(xlabel="radial frequency (cycles per image)", ylabel="error rate", ylim=(0, None))
    legend(axes)
    return axes.figure


def draw_penalty(metrics: Mapping[str, list[dict]]) -> Figure:
    """FFR's penalty beside the cross-entropy, and every layer's high-frequency share, over epochs.

    Left: strength * penalty solid, the rest of the training loss dotted. Then, a panel per run, the
    share of each layer's energy at high frequencies: penalised layers solid, the others dashed,
    dark to light from the first layer to the last. InputError for metrics without a penalty.
    """
    for label, lines in metrics.items():
        if not all("penalty" in line for line in lines):
            raise InputError(f"{label}: the metrics hold no penalty; train_frequency writes it")
    shares = {label: _shares(lines) for label, lines in metrics.items()}
    drawn = {label: table for label, table in shares.items() if table}
    figure, grid = subplots(1, 1 + len(drawn), figsize=(PAGE / 2 * (1 + len(drawn)), 2.4),
                            squeeze=False)  # fmt: skip
    loss, *panels = grid[0]
    for number, (label, lines) in enumerate(metrics.items()):
        color, epochs = color_of(label, number), [line["epoch"] for line in lines]
        terms = np.array([line["penalty"] for line in lines])
        loss.plot(epochs, terms, "o-", color=color, label=label)
        loss.plot(epochs, np.array([line["train_loss"] for line in lines]) - terms, ":",
                  color=color)  # fmt: skip
    loss.set(ylabel="penalty; rest of the loss dotted", ylim=(0, None))
    for place, (label, table) in zip(panels, drawn.items(), strict=True):
        lines = metrics[label]
        epochs, penalised = [line["epoch"] for line in lines], lines[-1].get("penalised_layers", 0)
        colors = plt.get_cmap(SURFACE)(np.linspace(0, 0.9, len(table)))
        for number, (layer, values) in enumerate(table.items()):
            place.plot(epochs, values, "-" if number < penalised else "--", color=colors[number],
                       lw=0.9, label=layer if number in (0, len(table) - 1) else None)  # fmt: skip
        place.set(title=f"{label}: {penalised} of {len(table)} layers penalised",
                  ylabel="high-frequency share", ylim=(0, None))  # fmt: skip
        place.sharey(panels[0])
    over_epochs(*grid[0])
    legend(*grid[0])
    return figure


def _shares(lines: list[dict]) -> dict[str, np.ndarray]:
    """Share of high frequencies of the energy of every layer, by epoch, from the norms N_ij."""
    keys: dict[str, list[str]] = {}
    for key in lines[0]:
        if match := _NORM.match(key):
            keys.setdefault(match[1], []).append(key)
    found = {}
    for layer, names in keys.items():
        size = math.isqrt(len(names))
        table = np.array([[line[n] for n in names] for line in lines])
        # norms are of coefficients of images B_ij that differ in length
        energy = table**2 * dct_basis(size).square().sum((2, 3)).numpy().ravel()
        high = high_frequencies(size).numpy().ravel()
        with np.errstate(invalid="ignore"):
            found[layer] = energy[:, high].sum(1) / energy.sum(1)
    return found
