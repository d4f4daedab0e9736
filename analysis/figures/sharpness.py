"""Drawings of sharpness: measures of networks, the decision boundary, spikes and classes."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Polygon

from ridgeline.analysis.figures.layout import subplots
from ridgeline.analysis.figures.legends import legend_of
from ridgeline.analysis.figures.style import COLUMN, PAGE, PALETTE, SURFACE, Results, color_of, pt
from ridgeline.models.errors import InputError, unknown

VIEWS = ("measures", "boundary", "spikes")
_WORDS = {"lambda_max": "λ max", "sam": "SAM", "keskar": "Keskar"}
_FLOOR = 1e-6


def measure_label(name: str) -> str:
    """What a measure is called in figures."""
    return _WORDS.get(name, name.replace("_", " "))


def draw_sharpness(results: Results, view: str | None = None) -> Figure:
    """The measures of networks on one page; or, as `view`, `boundary` or `spikes`.

    Raises InputError for another view and for results that do not hold it.
    """
    view = view or "measures"
    if view not in VIEWS:
        raise unknown("--view", view, VIEWS)
    if view == "measures":
        return draw_measures(results)
    needed = {"boundary": "plane_loss", "spikes": "spike_change"}[view]
    for label, ds in results.items():
        if needed not in ds:
            raise InputError(f"{label} holds no {view}: calc_sharpness --also {view}")
    return (draw_boundary if view == "boundary" else draw_spikes)(results)


def draw_measures(results: Results) -> Figure:
    """A row per measure, a colour per network, filled robust, hollow clean, bars of one error.

    One panel per kind of logits. The axis is logarithmic above 1e-6 and linear around 0. Measures
    in bold do not change when ReLU layers are rescaled.
    """
    names = list(dict.fromkeys(str(m) for ds in results.values() for m in ds["measure"].values))
    ways = list(dict.fromkeys(str(w) for ds in results.values() for w in ds["logits"].values))
    figure, grid = subplots(
        1, len(ways), figsize=(COLUMN * 1.2 if len(ways) == 1 else PAGE, 1.4 + 0.24 * len(names)),
        squeeze=False, sharey=True, least=1.6,
    )  # fmt: skip
    marks = [(label, str(loss)) for label, ds in results.items() for loss in ds["loss"].values]
    for axes, way in zip(grid.flat, ways, strict=True):
        for number, (label, loss) in enumerate(marks):
            ds = results[label]
            if way in ds["logits"].values:
                _mark(axes, ds.sel(loss=loss, logits=way), names, _shift(number, len(marks)),
                      color_of(label, list(results).index(label)), loss)  # fmt: skip
        axes.set_xscale("symlog", linthresh=_FLOOR, linscale=0.4)
        _few_ticks(axes, narrow=figure.get_figwidth() < 2.2 * len(ways))
        axes.set_title(f"{way} logits", fontsize=pt(7))
        axes.set(xlabel="sharpness", ylim=(len(names) - 0.5, -0.5))
        axes.axvline(0, color="0.8", lw=0.6, zorder=0)
        axes.grid(axis="y", lw=0.3, color="0.85")
    invariant = {str(m) for ds in results.values()
                 for m in ds["measure"].values[ds["invariant"].values.astype(bool)]}  # fmt: skip
    first = grid[0, 0]
    first.set_yticks(range(len(names)), [measure_label(n) for n in names])
    for axes in grid.flat:  # each, for where panels stand below each other
        for tick, name in zip(axes.get_yticklabels(), names, strict=False):
            tick.set_fontweight("bold" if name in invariant else "normal")
    handles = [Line2D([], [], color=color_of(label, n), marker="o", ls="", label=label)
               for n, label in enumerate(results) if len(results) > 1]  # fmt: skip
    for loss in dict.fromkeys(loss for _, loss in marks):
        fill = "white" if loss == "clean" else "0.3"
        handles.append(Line2D([], [], color="0.3", mfc=fill, marker="o", ls="", label=loss))
    if invariant & set(names):
        handles.append(Line2D([], [], ls="", label="bold: unchanged by rescaling"))
    if any(line.get_marker() == ">" for axes in grid.flat for line in axes.lines):
        handles.append(Line2D([], [], color="0.3", marker=">", ls="", ms=4, label="infinite"))
    legend_of(figure, handles, [str(h.get_label()) for h in handles], "upper", 6)
    return figure


def _few_ticks(axes: Axes, narrow: bool) -> None:
    """0 and every third power of ten within what is drawn; in a narrow panel every sixth."""
    low, high = axes.get_xlim()
    powers = 10.0 ** (np.arange(-2, 16, 6) if narrow else np.arange(-5, 16, 3))
    ticks = [-p for p in powers[::-1] if -p >= low] + [0.0] + [p for p in powers if p <= high]
    axes.set_xlim(min(low, 0.0), max(high, _FLOOR))
    axes.set_xticks(ticks)
    axes.minorticks_off()


def _shift(number: int, count: int) -> float:
    return 0.0 if count == 1 else 0.6 * (number / (count - 1) - 0.5)


def _mark(
    axes: Axes, cell: xr.Dataset, names: list[str], shift: float, color: tuple, loss: str
) -> None:
    """The points of one network and loss; an arrow at the right end stands for an infinite one."""
    fill = "white" if loss == "clean" else color
    for row, name in enumerate(names):
        if name in cell["measure"].values:
            here = cell.sel(measure=name)
            value, error = float(here["value"]), float(here["se"])
            if np.isposinf(value):
                axes.plot(1, row + shift, ">", transform=axes.get_yaxis_transform(), clip_on=False,
                          color=color, ms=4, mfc=fill)  # fmt: skip
            if np.isfinite(value):
                axes.errorbar(
                    value, row + shift, xerr=np.nan_to_num(error), fmt="o", color=color, ms=3,
                    mfc=fill, elinewidth=0.8,
                )  # fmt: skip


def draw_boundary(results: Results) -> Figure:
    """Above the loss over the two directions, the attack's ball drawn; below the distances.

    The distances to the boundary are shares of examples still right at a distance, in budgets.
    """
    count = len(results)
    figure, grid = subplots(
        2, count, figsize=(max(COLUMN, 2.3 * count), 4.4), squeeze=False,
        height_ratios=[1.25, 1], sharey="row", least=1.6,
    )  # fmt: skip
    high = max(float(ds["plane_loss"].max()) for ds in results.values())
    low = max(min(float(ds["plane_loss"].min()) for ds in results.values()), high * 1e-4)
    norm = (LogNorm if high > 20 * low else Normalize)(low, high)
    for (label, ds), (top, bottom) in zip(results.items(), grid.T, strict=True):
        a, b = ds["a"].values, ds["b"].values
        mesh = top.pcolormesh(
            a, b, ds["plane_loss"].transpose("b", "a").clip(low).values, cmap=SURFACE, norm=norm,
            shading="gouraud", rasterized=True,
        )  # fmt: skip
        look = {"fill": False, "ec": "white", "lw": 1.2}
        round_ball = float(ds["ball_order"]) == 2
        diamond = Polygon([(1, 0), (0, 1), (-1, 0), (0, -1)], **look)
        top.add_patch(Circle((0, 0), 1, **look) if round_ball else diamond)
        top.set(xlabel="attack [budgets]", title=label, aspect="equal")
        far = np.nanmax(np.where(np.isfinite(ds["boundary_distance"]), ds["boundary_distance"], 1))
        for n, name in enumerate(ds["direction"].values):
            distances = ds["boundary_distance"].sel(direction=name).values
            places = np.sort(distances[np.isfinite(distances)])
            share = 1 - np.arange(1, len(places) + 1) / len(distances)
            bottom.step(np.r_[0, places, far], np.r_[1, share, share[-1:] if len(share) else 1],
                        where="post", color=PALETTE[n], label=str(name))  # fmt: skip
        bottom.axvline(1, color="0.7", lw=0.7, zorder=0)
        bottom.set(xlabel="moved [budgets]", ylim=(0, 1.05), xlim=(0, max(far, 1.2)))
    grid[0, 0].set_ylabel("random signs [budgets]")
    grid[1, 0].set_ylabel("examples still right")
    figure.colorbar(mesh, ax=grid[0, :].tolist(), label="mean loss [nat]", aspect=30)
    handles, names = grid[1, 0].get_legend_handles_labels()
    handles.append(Line2D([], [], color="0.7", lw=0.7))
    legend_of(figure, handles, [*names, "edge of the attack's ball (above: white)"], most=2)
    return figure


def draw_spikes(results: Results) -> Figure:
    """Change of every class's accuracy by eigenvector, mean of both sides; colours are shared."""
    count = len(results)
    figure, grid = subplots(
        1, count, figsize=(max(COLUMN, 2.6 * count), 2.6), squeeze=False,
        sharey=True,
    )  # fmt: skip
    tables = {label: ds["spike_change"].mean("side").values for label, ds in results.items()}
    limit = max(np.nanmax(np.abs(t)) for t in tables.values()) or 1.0
    for axes, (label, values) in zip(grid.flat, tables.items(), strict=True):
        image = axes.imshow(values, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
        axes.set(xlabel="class", title=label)
        axes.set_xticks(range(values.shape[1]))
        axes.set_yticks(range(values.shape[0]), range(1, values.shape[0] + 1))
    grid[0, 0].set_ylabel("eigenvector")
    figure.colorbar(image, ax=grid.ravel().tolist(), label="change of accuracy", aspect=30)
    return figure
