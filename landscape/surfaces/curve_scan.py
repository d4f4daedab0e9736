"""Loss and accuracy along a curve between two minima, and the barrier on it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import xarray as xr

from ridgeline.landscape.batchnorm import place_on
from ridgeline.landscape.problem import Problem
from ridgeline.landscape.result import empty_cells, stamp
from ridgeline.landscape.surfaces.cell import VARIABLES, variables_of
from ridgeline.landscape.surfaces.scan import scan
from ridgeline.landscape.surfaces.shards import Shard
from ridgeline.landscape.weights.paths import Path, curve
from ridgeline.models.errors import InputError
from ridgeline.train.data.examples import Images
from ridgeline.train.losses import unit_of
from ridgeline.train.statistics import mean_and_error


def scan_curve(
    problem: Problem,
    path: Path,
    t: Sequence[float],
    subsets: dict[str, Images],
    *,
    budgets: Sequence[float] | None = None,
    batchnorm: str = "recalibrate",
    shard: Shard | None = None,
    cells: xr.Dataset | None = None,
    save: Callable[[xr.Dataset], None] | None = None,
) -> xr.Dataset:
    """Loss and accuracy along a curve and along the straight line between its ends.

    Args:
        problem: The problem; recalibrated BatchNorm statistics come from its images for every
            subset.
        path: The curve.
        t: Positions on the curve, increasing from 0 to 1.
        subsets: Images by name.
        budgets: Attack budgets in [0,1] units; None: the attack's own, without a dimension eps.
        batchnorm: keep the BatchNorm statistics, or recalibrate them at every t.
        shard: Compute only the cells of this part. `merged` puts the parts together, then
            `with_barriers` adds the measures that need all cells.
        cells: An unfinished earlier result, to be completed.
        save: Called at intervals with the result so far.

    Returns:
        - Measures over (path, subset, t) with path in (curve, line). If `budgets` are given, eps is
          the first dimension.
        - `barrier` (path, subset): the largest L(t) - ((1-t) L(0) + t L(1)), at t = `barrier_at`.
          NaN if any loss on the path is NaN.
        - `barrier_se`: the standard error, over examples, of that difference at the chosen t. The
          choice of t is not part of it.
        - `arc_length` (path, t): the Euclidean length of the path up to t.

    Raises:
        InputError: if `t` does not increase from 0 to 1, and for budgets without an attack.

    References:
        Garipov et al. 2018.

    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    >>> images = torch.rand(6, 1, 2, 2), torch.arange(6) % 2
    >>> problem = Problem(network, images)
    >>> far = {name: value + 1 for name, value in problem.origin.items()}
    >>> line = curve("poly_chain", [problem.origin, far])
    >>> ds = scan_curve(problem, line, [0, 0.5, 1], {"train": problem.images})
    >>> float(ds["barrier"].max()) <= 1e-6  # the loss of a linear network is convex
    True
    """
    paths = _paths(path)
    t = np.asarray(t, dtype=float)
    if t.ndim != 1 or len(t) < 2 or t[0] != 0 or t[-1] != 1 or not (np.diff(t) > 0).all():
        raise InputError(f"t must increase from 0 to 1 and hold both, got {t.tolist()}")
    levels = _levels(problem, budgets)
    if problem.attack is None and any(levels):
        raise InputError("budgets above 0 need an attack")
    if cells is None:
        coordinates: dict = {"path": list(paths), "subset": list(subsets)}
        coordinates["t"] = ("t", t, {"units": "1"})
        if budgets is not None:
            coordinates = {"eps": ("eps", levels, {"units": "[0,1]"}), **coordinates}
        cells = empty_cells(coordinates, variables_of(problem))
        stamp(cells, "curve", {**problem.recipe(), "path": repr(path), "batchnorm": batchnorm})
    kept = [*VARIABLES, "done"]
    for level, (label, each), (subset, images) in _places(levels, paths, subsets):
        eps = levels[level]
        place = _place(cells, level, label, subset)

        def keep(done: xr.Dataset, place: dict = place) -> None:
            for name in kept:
                cells[name].loc[place] = done[name].values[0]
            if save is not None:
                save(cells)

        here = problem.under(problem.attack.at(eps) if problem.attack and eps else None)
        scan(
            here.on(images),
            each,
            {"t": t},
            batchnorm=batchnorm,
            shard=shard,
            cells=cells[kept].sel(place).expand_dims("eps").copy(deep=True),
            save=keep,
            description=f"{label}, {subset}" + (f", eps {eps:g}" if budgets is not None else ""),
        )
    if shard is None:
        with_barriers(problem, path, subsets, batchnorm, cells)
    if save is not None:
        save(cells)
    return cells


def with_barriers(
    problem: Problem, path: Path, subsets: dict[str, Images], batchnorm: str, cells: xr.Dataset
) -> xr.Dataset:  # fmt: skip
    """Add the measures that need all cells of a `scan_curve`; the arguments are the same.

    Returns `cells` with the barriers, their errors and the lengths of the paths.
    """
    t = cells["t"].values
    levels = _levels(problem, cells["eps"].values.tolist() if "eps" in cells.dims else None)
    paths = _paths(path)
    loss = cells["loss"]
    chord = (1 - cells["t"]) * loss.isel(t=0, drop=True) + cells["t"] * loss.isel(t=-1, drop=True)
    rise = loss - chord
    # if a loss on the path is missing, the largest one is unknown
    cells["barrier"] = rise.max("t", skipna=False)
    cells["barrier_at"] = cells["t"][rise.fillna(0).argmax("t")].drop_vars("t")
    cells["barrier_se"] = xr.full_like(cells["barrier"], np.nan)
    units = unit_of(problem.loss)
    for name, text in (("barrier", "largest rise above the chord"),
                       ("barrier_se", "standard error of the barrier over examples")):  # fmt: skip
        cells[name].attrs = {"long_name": text, "units": units}
    for level, (label, each), (subset, images) in _places(levels, paths, subsets):
        place = _place(cells, level, label, subset)
        eps, at = levels[level], float(cells["barrier_at"].sel(place))
        if np.isfinite(cells["barrier"].sel(place)):
            here = problem.under(problem.attack.at(eps) if problem.attack and eps else None)
            error = _rise_error(here.on(images), each, at, batchnorm)
            cells["barrier_se"].loc[place] = error
    lengths = [each.arc_length(t) for each in paths.values()]
    cells["arc_length"] = (("path", "t"), lengths, {"long_name": "length of the path up to t"})
    return cells


def _paths(path: Path) -> dict[str, Path]:
    return {"curve": path, "line": curve("poly_chain", [path.knots[0], path.knots[-1]])}


def _levels(problem: Problem, budgets: Sequence[float] | None) -> list[float]:
    if budgets is None:
        return [problem.attack.eps if problem.attack else 0.0]
    return list(budgets)


def _places(levels: list[float], paths: dict[str, Path], subsets: dict[str, Images]) -> list:
    return list(itertools.product(range(len(levels)), paths.items(), subsets.items()))


def _place(cells: xr.Dataset, level: int, label: str, subset: str) -> dict:
    place = {"path": label, "subset": subset}
    return {"eps": cells["eps"].values[level], **place} if "eps" in cells.dims else place


def _rise_error(problem: Problem, path: Path, t: float, batchnorm: str) -> float:
    """Standard error over examples of l(t) - ((1-t) l(0) + t l(1))."""
    path = path.like(problem.origin)
    found = []
    for at in (0.0, t, 1.0):
        found.append(problem.evaluate(*place_on(problem, path, [at], batchnorm)).losses)
    start, middle, end = found
    return mean_and_error((middle - (1 - t) * start - t * end).numpy())[1]
