"""Drawings of curvature: eigenvalues by rank, budget or epoch, and the spectral density."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ridgeline.analysis.figures.layout import over_epochs, subplots
from ridgeline.analysis.figures.legends import headroom, legend
from ridgeline.analysis.figures.style import COLUMN, Results, color_of, tone_of
from ridgeline.analysis.training.metrics import runs_by_epoch
from ridgeline.landscape.result import recipe_of
from ridgeline.models.errors import InputError, unknown

#: operator -> what its matrix is called
_MATRICES = {"hessian": "Hessian", "total": "total Hessian", "ggn": "Gauss-Newton",
             "fisher": "Fisher", "mc_fisher": "Fisher", "input": "input Hessian"}  # fmt: skip
#: what eigenvalues may be drawn against
AGAINST = ("rank", "eps", "epoch")
_FLOOR = 1e-7  # of the density, as PyHessian's figures have it


def spectra(results: Results) -> Iterator[tuple[str, xr.Dataset]]:
    """Every single spectrum, labelled by its result and by the budgets and blocks it has."""
    for label, ds in results.items():
        cells = ds.expand_dims([d for d in ("eps", "block") if d not in ds.dims])
        for e in range(cells.sizes["eps"]):
            for b in range(cells.sizes["block"]):
                here, text = cells.isel(eps=e, block=b), label
                if cells.sizes["eps"] > 1:
                    text += f", ε = {float(here['eps']):.3g}"
                if cells.sizes["block"] > 1:
                    text += f", {here['block'].item()}"
                yield text, here


def _colored(results: Results) -> Iterator[tuple[str, xr.Dataset, tuple]]:
    """Every spectrum with its colour."""
    for label, ds in results.items():
        for step, (text, here) in enumerate(spectra({label: ds})):
            yield text, here, tone_of(results, label, step)


def _matrix(results: Results) -> str:
    """What the eigenvalues are of; InputError for curvatures by weights and by pixels together."""
    found = {_MATRICES.get(_operator(ds), "curvature") for ds in results.values()}
    if "input Hessian" in found and len(found) > 1:
        raise InputError("curvature by the pixels and by the weights has other units: draw the "
                         "results of --operator input by themselves")  # fmt: skip
    return " or ".join(sorted(found))


def _operator(ds: xr.Dataset) -> str:
    try:
        recipe = recipe_of(ds)
    except InputError:
        return "hessian"
    return "total" if recipe.get("adversary") == "total" else recipe.get("operator", "hessian")


def draw_hessian(results: Results, against: str = "rank") -> Figure:
    """Eigenvalues and, where results hold it, the spectral density beside them.

    `against` rank, eps (every checkpoint a line per rank) or epoch (from the checkpoints' records).
    Raises InputError if the results do not hold what is asked.
    """
    if against not in AGAINST:
        raise unknown("--against", against, AGAINST)
    if against != "rank":
        return draw_eigenvalue_curves(results, against)
    panels = [n for n in ("eigenvalue", "density") if any(n in ds for ds in results.values())]
    if not panels:
        raise InputError("the results hold neither eigenvalues nor a density")
    figure, grid = subplots(1, len(panels), figsize=(COLUMN * len(panels), 2.6), squeeze=False)
    for axes, name in zip(grid.flat, panels, strict=True):
        drawing = draw_eigenvalues if name == "eigenvalue" else draw_density
        drawing({k: ds for k, ds in results.items() if name in ds}, axes)
    headroom(*(axes for axes in grid.flat if axes.get_legend() is not None))
    return figure


def draw_eigenvalues(
    results: Results, axes: Axes | None = None, *, looks: Mapping[str, dict] | None = None
) -> Figure:
    """Top eigenvalues against their rank, one line per spectrum, log scale where all are positive.

    Residuals are error bars; pairs that did not converge are hollow. `looks` fixes colours and
    styles of lines by label.
    """
    axes = axes or subplots(figsize=(COLUMN, 2.4))[1]
    matrix, every = _matrix(results), dict(spectra(results))
    positive = all((ds["eigenvalue"].fillna(1) > 0).all() for ds in every.values())
    largest = _largest([ds["eigenvalue"].values for ds in every.values()])
    for label, ds, tone in _colored(results):
        look = {"color": tone, **(looks or {}).get(label, {})}
        color = look["color"]
        axes.errorbar(ds["rank"], ds["eigenvalue"], ds["residual"], label=label, marker="o", **look)
        odd = ~ds["converged"].astype(bool).values & ds["eigenvalue"].notnull().values
        if odd.any():
            axes.plot(
                ds["rank"].values[odd], ds["eigenvalue"].values[odd], "o",
                mfc="white", mec=color, label=f"{label}: not converged",
            )  # fmt: skip
    if positive:
        axes.set_yscale("log")
        # a flat network's eigenvalues are rounding noise; do not let them set the scale
        low = min(float(ds["eigenvalue"].min()) for ds in every.values())
        axes.set_ylim(max(low / 1.4, largest * 1e-8), largest * 1.4)
    else:
        axes.set_yscale("symlog", linthresh=largest * 1e-3 or 1.0)
        axes.axhline(0, color="0.7", lw=0.6, zorder=0)
    axes.set(xlabel="rank", ylabel=f"{matrix} eigenvalue")
    ranks = max((ds["rank"].values for ds in every.values()), key=len)
    axes.set_xticks(ranks if len(ranks) <= 10 else ranks[4::5])
    legend(axes)
    return axes.figure


def draw_density(results: Results, axes: Axes | None = None) -> Figure:
    """Spectral densities on a log scale with 95 % bands; ticks below mark the top eigenvalues.

    The caption states the width of the Gaussians, which decides the look.
    """
    axes = axes or subplots(figsize=(COLUMN, 2.4))[1]
    every = dict(spectra(results))
    top = _largest([ds["density"].values for ds in every.values()])
    for number, (label, ds, color) in enumerate(_colored(results)):
        x, y = ds["density_x"].values, ds["density"].values
        band = np.nan_to_num(ds["density_band"].values)
        axes.plot(x, y + _FLOOR, color=color, label=f"{label}, σ = {float(ds['sigma']):.2g}")
        low, high = np.maximum(y - band, 0) + _FLOOR, y + band + _FLOOR
        axes.fill_between(x, low, high, color=color, alpha=0.2, lw=0)
        if "eigenvalue" in ds:
            sure = ds["eigenvalue"].values[ds["converged"].astype(bool).values]
            axes.plot(
                sure, np.full(len(sure), _FLOOR * 2 ** (number + 1)), "|", color=color, ms=6,
                label="top eigenvalues" if number == 0 else None,
            )  # fmt: skip
    axes.set(yscale="log", xlabel=f"{_matrix(results)} eigenvalue", ylabel="spectral density")
    axes.set_ylim(_FLOOR, top * 10)
    legend(axes)
    return axes.figure


def draw_eigenvalue_curves(results: Results, against: str) -> Figure:
    """Eigenvalues over budgets or epochs, one panel per checkpoint or run, axes shared.

    The largest is drawn strong, the others thin; values that did not converge are hollow.
    """
    series, singles = {}, {}
    for label, ds in results.items():
        if "eigenvalue" not in ds or ("block" in ds.dims and ds.sizes["block"] > 1):
            raise InputError(f"{label}: --against {against} needs eigenvalues of a single block")
        here = ds.isel(block=0) if "block" in ds.dims else ds
        if against == "eps":
            if "eps" not in here.dims or here.sizes["eps"] < 2:
                raise InputError(f"{label} holds one budget; --against eps needs several")
            series[label] = (here["eps"].values, here["eigenvalue"], here["converged"])
            continue
        if here.sizes.get("eps", 1) > 1:
            raise InputError(f"{label}: --against epoch needs one budget per result")
        singles[label] = here.isel(eps=0) if "eps" in here.dims else here
    for run, points in (runs_by_epoch(singles) if against == "epoch" else {}).items():
        merged = xr.concat([ds for _, ds in points], dim="point", combine_attrs="drop")
        epochs = np.array([epoch for epoch, _ in points])
        series[run] = (epochs, merged["eigenvalue"], merged["converged"])
    figure, grid = subplots(
        1, len(series), figsize=(max(COLUMN, 2.2 * len(series)), 2.4),
        squeeze=False, sharex=True, sharey=True,
    )  # fmt: skip
    tables = []
    for number, (axes, (label, (x, values, converged))) in enumerate(
        zip(grid.flat, series.items(), strict=True)
    ):
        color = color_of(label, number)
        table = values.transpose(..., "rank").values
        sure = converged.astype(bool).transpose(..., "rank").values
        for rank in range(table.shape[1]):
            strong = rank == 0
            look = {"lw": 1.5, "marker": "o", "label": "largest"} if strong else {"lw": 0.5}
            axes.plot(x, table[:, rank], color=color, **look)
            odd = ~sure[:, rank] & np.isfinite(table[:, rank])
            axes.plot(x[odd], table[odd, rank], "o", mfc="white", mec=color)
        tables.append(table)
        axes.set(xlabel="budget ε", title=label)
        if against == "epoch":
            over_epochs(axes)
    grid[0, 0].set_ylabel(f"top {table.shape[1]} Hessian eigenvalues")
    largest = _largest(tables)
    if all((table[np.isfinite(table)] > 0).all() for table in tables):
        grid[0, 0].set_yscale("log")
    else:
        grid[0, 0].set_yscale("symlog", linthresh=largest * 1e-3 or 1.0)
    legend(grid[0, 0])
    return figure


def _largest(values: Sequence[np.ndarray]) -> float:
    """The largest magnitude among the finite values, to set a scale; InputError for none."""
    flat = np.abs(np.concatenate([v.ravel() for v in values]))
    if not np.isfinite(flat).any():
        raise InputError("the results hold no finite value to draw")
    return float(flat[np.isfinite(flat)].max())
