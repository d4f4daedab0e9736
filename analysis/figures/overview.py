"""Several results on one page: the overview picture and the summary table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ridgeline.analysis.figures.curvature import draw_eigenvalues
from ridgeline.analysis.figures.frequency import draw_shares
from ridgeline.analysis.figures.layout import plain_logs, thin
from ridgeline.analysis.figures.learning import draw_training
from ridgeline.analysis.figures.legends import headroom, inside
from ridgeline.analysis.figures.lines import draw_curve
from ridgeline.analysis.figures.style import PALETTE, pt, style
from ridgeline.analysis.figures.surfaces import (
    draw_similarity,
    draw_surface,
    surface_norm,
)


def draw_accuracy(results: Mapping[str, xr.Dataset], axes: Axes) -> None:
    """Clean and adversarial accuracy of networks as bars with 95 % Wilson intervals."""
    conditions = [str(c) for c in next(iter(results.values()))["condition"].values]
    places = np.arange(len(results))
    width = 0.8 / len(conditions)
    for number, condition in enumerate(conditions):
        rows = [ds.sel(condition=condition) for ds in results.values()]
        height = np.array([float(r["accuracy"]) for r in rows])
        low = height - [float(r["accuracy_low"]) for r in rows]
        high = np.array([float(r["accuracy_high"]) for r in rows]) - height
        axes.bar(
            places + (number - (len(conditions) - 1) / 2) * width,
            height,
            width,
            yerr=np.maximum([low, high], 0),
            color=PALETTE[number],
            label=condition,
            error_kw={"lw": 0.8, "capsize": 2},
        )
    axes.set_xticks(places, list(results), rotation=20, ha="right")
    axes.set(ylabel="test accuracy", ylim=(0, 1.2), yticks=np.linspace(0, 1, 6))
    axes.legend(loc="upper right", ncols=len(conditions))


def overview(
    metrics: Mapping[str, list[dict]],
    accuracy: Mapping[str, xr.Dataset],
    eigenvalues: Mapping[str, xr.Dataset],
    surfaces: Mapping[str, xr.Dataset],
    eps: float,
    curve: xr.Dataset,
    similarity: xr.Dataset,
    spectra: Mapping[str, xr.Dataset],
) -> Figure:
    """Training, accuracy, eigenvalues, two surfaces, curve, similarity and spectra on one page.

    A network has one colour in all panels of lines.
    """
    with style(), inside():  # below many questions a legend would mean all of them
        figure, grid = plt.subplots(2, 4, figsize=(13.5, 6.2), layout="constrained")
        (training, bars, eigen, spectrum), (left, right, path, cosines) = grid
        colors = dict(zip(dict.fromkeys([*accuracy, *metrics, *spectra]), PALETTE, strict=False))
        draw_training(metrics, training, colors=colors)
        draw_accuracy(accuracy, bars)
        draw_eigenvalues(eigenvalues, eigen, looks=_looks(eigenvalues, colors))
        draw_shares(spectra, spectrum, colors=colors)
        norm = surface_norm([ds["loss"].sel(eps=eps) for ds in surfaces.values()])
        for axes, (label, ds) in zip((left, right), surfaces.items(), strict=True):
            draw_surface(ds, axes, eps=eps, norm=norm, title=f"{label}, ε = {eps:g}")
        draw_curve({"": curve}, path)
        draw_similarity({"": similarity}, cosines)
        levels = [list(axes.texts) for axes in (left, right)]
        titles = {
            training: "training under attack",
            bars: "accuracy",
            eigen: "top Hessian eigenvalues",
            spectrum: "filter spectrum",
            path: "connecting two PAS minima",
        }
        for axes, title in titles.items():
            axes.set_title(title)
        for axes, letter in zip(grid.flat, "abcdefgh", strict=True):
            axes.text(
                -0.12, 1.1, letter, transform=axes.transAxes, fontweight="bold", fontsize=pt(10)
            )  # fmt: skip
        headroom(*(axes for axes in grid.flat if axes.get_legend() is not None))
        for texts in levels:
            thin(texts)
        plain_logs(figure)
        return figure


def _looks(lines: Iterable[str], colors: Mapping[str, tuple]) -> dict[str, dict]:
    """For lines called `network, budget` the network's colour, and a style by budget."""
    found: dict[str, dict] = {}
    for label in lines:
        network = label.partition(", ")[0]
        before = sum(other.partition(", ")[0] == network for other in found)
        found[label] = {"ls": ("-", "--", ":")[before % 3]}
        if network in colors:
            found[label]["color"] = colors[network]
    return found


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Plain-text table: first column to the left, numbers to the right."""
    cells = [list(header), *map(list, rows)]
    widths = [max(len(row[c]) for row in cells) for c in range(len(header))]

    def line(row: Sequence[str]) -> str:
        first, *rest = (
            text.ljust(w) if c == 0 else text.rjust(w)
            for c, (text, w) in enumerate(zip(row, widths, strict=True))
        )
        return "  ".join([first, *rest])

    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    return "\n".join([line(cells[0]), rule, *map(line, cells[1:])])
