"""The loss along a line, over a plane or along a curve."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import xarray as xr

from ridgeline.landscape.problem import Problem
from ridgeline.landscape.result import Cell, empty_cells, fill, stamp
from ridgeline.landscape.surfaces.axes import axes_of
from ridgeline.landscape.surfaces.cell import ADVERSARIES, Coordinates, Places, variables_of
from ridgeline.landscape.surfaces.shards import Shard, share
from ridgeline.landscape.weights.paths import Path, Plane
from ridgeline.landscape.weights.point import norm
from ridgeline.models.copying import in_pool
from ridgeline.models.errors import InputError, unknown


def scan(
    problem: Problem,
    path: Path,
    axes: int | Mapping[str, Sequence[float]],
    *,
    extent: float = 1.0,
    budgets: Sequence[float] | None = None,
    adversary: str = "moving",
    anchor_every: int = 1,
    batchnorm: str = "keep",
    extras: Collection[str] = (),
    compiled: bool = False,
    shard: Shard | None = None,
    cells: xr.Dataset | None = None,
    save: Callable[[xr.Dataset], None] | None = None,
    description: str = "scan",
) -> xr.Dataset:
    """Loss, its standard error, accuracy and mean margin on a grid of weights.

    All cells use the same examples and the same attack noise. For a curve between two networks
    prefer `scan_curve`: it adds the straight line, the barrier with its error, and test data.

    Args:
        problem: The problem.
        path: The plane or curve.
        axes: Coordinates by the name of the axis, or the number of points of every axis.
        extent: If `axes` is a number: from -extent to extent on a plane, 0 to extent on a curve.
        budgets: Attack budgets in [0,1] units; None: the attack's own.
        adversary: Adversarial images: moving (found at every cell), frozen (at the origin),
            anchored (shared by neighbours) or max (the worse of moving and frozen).
        anchor_every: Cells along an axis that share an anchor.
        batchnorm: keep the BatchNorm statistics, or recalibrate them at every cell.
        extras: Further measures, names in EXTRAS.
        compiled: Compile the forward passes (scans without attack only). This takes up to half a
            minute and changes the last digits. Without a compiler it has no effect.
        shard: Compute only the cells of this part; `merged` puts the parts together.
        cells: An unfinished earlier result, to be completed.
        save: Called at intervals with the result so far.
        description: Title of the progress bar.

    Returns:
        The measures over ("eps", *axes). `done` marks the cells that are computed. Their loss may
        be NaN, if the network's outputs are.

    Raises:
        InputError: for unknown choices, for budgets above 0 without an attack, and for `compiled`
            with an attack.

    References:
        Li et al. 2018.

    >>> x, y = torch.ones(1, 1), torch.zeros(1, 1)
    >>> problem = Problem(torch.nn.Linear(1, 1, bias=False), (x, y), loss="squared_error")
    >>> at = [-problem.origin["weight"].item() + move for move in (0, 1, 2)]
    >>> line = Plane([problem.origin, {"weight": torch.ones(1, 1)}])
    >>> scan(problem, line, {"x1": at})["loss"].values.round(4).tolist()  # w^2 at w = 0, 1, 2
    [[0.0, 1.0, 4.0]]
    """
    if adversary not in ADVERSARIES:
        raise unknown("adversary mode", adversary, ADVERSARIES)
    if anchor_every < 1:
        raise InputError(f"adv_calc_freq must be at least 1, got {anchor_every}")
    axes = axes_of(path, axes, extent)
    values = [np.asarray(v, dtype=float) for v in axes.values()]
    if budgets is None:
        budgets = [problem.attack.eps if problem.attack else 0.0]
    shape = tuple(len(v) for v in values)

    def block_of(cell: Cell) -> Cell:
        """The anchor of a cell, which identifies its block of cells."""
        if adversary != "anchored":
            return cell
        return (cell[0], *(
            min(i // anchor_every * anchor_every + anchor_every // 2, n - 1)
            for i, n in zip(cell[1:], shape, strict=True)
        ))  # fmt: skip

    every = itertools.product(range(len(budgets)), *(range(n) for n in shape))
    order = sorted(every, key=lambda c: (block_of(c), c))
    if shard is not None:
        order = share(order, shard, block_of)
    left = len(order) if cells is None else sum(not cells["done"].values[c] for c in order)
    places = Places(
        problem, path, budgets, batchnorm, extras, adversary, math.prod(shape), left, compiled
    )
    if cells is None:
        cells = empty_cells(
            {
                "eps": ("eps", list(budgets), {"long_name": "attack budget", "units": "[0,1]"}),
                **{n: (n, v) for n, v in zip(axes, values, strict=True)},
            },
            variables_of(problem, extras),
        )
        if isinstance(path, Plane):
            for name, direction in zip(axes, path.knots[1:], strict=True):
                cells[name].attrs = {
                    "long_name": f"coordinate along v{name[1:]}", "norm": norm(direction),
                }  # fmt: skip
        stamp(cells, "scan", {
            **problem.recipe(), "path": repr(path), "adversary": adversary,
            "adv_calc_freq": anchor_every, "batchnorm": batchnorm, "budgets": list(budgets),
            "extras": sorted(extras), **({"compile": True} if compiled else {}),
        })  # fmt: skip

    def at(place: Cell) -> Coordinates:
        return tuple(float(v[i]) for v, i in zip(values, place, strict=True))

    origin = (0.0,) * len(values)
    fixed = {"moving": [None], "frozen": [origin], "max": [None, origin]}

    def compute(cell: Cell, tick: Callable[[int], None]) -> dict[str, float]:
        anchors = fixed.get(adversary) or [at(block_of(cell)[1:])]
        found = places.measure(cell[0], at(cell[1:]), anchors, tick)
        if not in_pool():
            cells.attrs["execution"] = places.execution
        return found

    return fill(
        cells,
        compute,
        save=save,
        order=order,
        examples_per_cell=len(problem.data),
        description=description,
        apart=places.apart,
    )
