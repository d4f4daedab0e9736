"""The loss along a line, over a plane or along a curve."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
import xarray as xr

from ridgeline.landscape.batchnorm import statistics_at
from ridgeline.landscape.problem import Problem
from ridgeline.landscape.result import Cell, empty_cells, fill, stamp
from ridgeline.landscape.weights.paths import Path, Plane
from ridgeline.landscape.weights.point import norm
from ridgeline.models.errors import InputError, unknown
from ridgeline.train.evaluation import Scores
from ridgeline.train.losses import name_of, unit_of

#: where the adversarial images of a cell come from
ADVERSARIES = {
    "moving": "attacked anew at every cell",
    "frozen": "attacked at the origin of the axes",
    "anchored": "attacked at the middle cell of a block of adv_calc_freq cells per axis",
    "max": "the worse of moving and frozen, per example",
}

#: what a scan holds of every cell
VARIABLES = ("loss", "loss_se", "accuracy")
_MOST_POINTS = 100_000  # along one axis


def variables_of(problem: Problem) -> dict[str, dict[str, str]]:
    """The variables of a cell with their attributes."""
    units = unit_of(problem.loss)
    name = name_of(problem.loss).replace("_", "-")
    return {
        "loss": {"long_name": f"mean {name}", "units": units},
        "loss_se": {"long_name": f"standard error of the mean {name}", "units": units},
        "accuracy": {"long_name": "fraction of examples classified correctly", "units": "1"},
    }


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
    cells: xr.Dataset | None = None,
    save: Callable[[xr.Dataset], None] | None = None,
    description: str = "scan",
) -> xr.Dataset:
    """Loss, its standard error and accuracy on the grid spanned by `axes` (name -> coordinates).

    Where `axes` is a number, every axis has so many points: from -extent to extent of a plane, from
    0 to extent of a curve. Dims are ("eps", *axes). The same examples and the same attack noise
    serve every cell.
    `cells`, a half-done earlier result, is completed: cells that are `done` are, whatever their
    loss, which is NaN where the network's outputs are. `batchnorm` is `keep` or `recalibrate`.
    Raises InputError for unknown choices and for budgets above 0 without an attack.
    """
    if adversary not in ADVERSARIES:
        raise unknown("adversary mode", adversary, ADVERSARIES)
    if anchor_every < 1:
        raise InputError(f"adv_calc_freq must be at least 1, got {anchor_every}")
    axes = axes_of(path, axes, extent)
    values = [np.asarray(v, dtype=float) for v in axes.values()]
    if budgets is None:
        budgets = [problem.attack.eps if problem.attack else 0.0]
    if cells is None:
        cells = empty_cells(
            {
                "eps": ("eps", list(budgets), {"long_name": "attack budget", "units": "[0,1]"}),
                **{n: (n, v) for n, v in zip(axes, values, strict=True)},
            },
            variables_of(problem),
        )
        if isinstance(path, Plane):
            for name, direction in zip(axes, path.knots[1:], strict=True):
                cells[name].attrs = {
                    "long_name": f"coordinate along v{name[1:]}", "norm": norm(direction),
                }  # fmt: skip
        stamp(cells, "scan", {
            **problem.recipe(), "path": repr(path), "adversary": adversary,
            "adv_calc_freq": anchor_every, "bn": batchnorm, "budgets": list(budgets),
        })  # fmt: skip
    anchors = _Anchors(problem, path.like(problem.origin), budgets, batchnorm)
    shape = tuple(len(v) for v in values)

    def anchor_of(cell: Cell) -> Cell:
        if adversary != "anchored":
            return cell
        return tuple(
            min(i // anchor_every * anchor_every + anchor_every // 2, n - 1)
            for i, n in zip(cell, shape, strict=True)
        )

    def compute(cell: Cell, tick: Callable[[int], None]) -> dict[str, float]:
        level, *place = cell
        coordinates = tuple(float(v[i]) for v, i in zip(values, place, strict=True))
        anchor = anchor_of(tuple(place))
        if adversary == "frozen":
            scores = anchors.scores(level, coordinates, (0.0,) * len(values), tick)
        elif adversary == "anchored":
            at = tuple(float(v[i]) for v, i in zip(values, anchor, strict=True))
            scores = anchors.scores(level, coordinates, at, tick)
        else:
            scores = anchors.scores(level, coordinates, None, tick)
            if adversary == "max":
                scores = _worse(
                    scores, anchors.scores(level, coordinates, (0.0,) * len(values), lambda n: None)
                )
        return {"loss": scores.loss, "loss_se": scores.loss_se, "accuracy": scores.accuracy}

    places = itertools.product(range(len(budgets)), *(range(n) for n in shape))
    order = sorted(places, key=lambda c: (c[0], anchor_of(c[1:]), c[1:]))
    return fill(
        cells,
        compute,
        save=save,
        order=order,
        examples_per_cell=len(problem.data),
        description=description,
    )


class _Anchors:
    """Scores at coordinates; the adversarial images of the latest anchors are remembered."""

    def __init__(
        self,
        problem: Problem,
        path: Path,
        budgets: Sequence[float],
        batchnorm: str,
    ):
        attack = problem.attack
        if attack is None and any(budgets):
            raise InputError("budgets above 0 need an attack")
        self.path, self.batchnorm = path, batchnorm
        self.problems = [
            problem.under(attack.at(eps) if attack and eps else None) for eps in budgets
        ]
        self.key: tuple | None = None
        self.images: Problem | None = None

    def scores(
        self,
        level: int,
        coordinates: tuple[float, ...],
        anchor: tuple[float, ...] | None,
        tick: Callable[[int], None],
    ) -> Scores:
        """Scores at `coordinates` on images attacked at `anchor` (None: attacked on the spot)."""
        problem = self.problems[level]
        point, buffers = self._place(problem, coordinates)
        if anchor is not None and problem.attack is not None:
            if self.key != (level, anchor):
                self.images = problem.frozen(*self._place(problem, anchor))
                self.key = (level, anchor)
            problem = self.images
        return problem.scores(point, buffers, tick)

    def _place(self, problem: Problem, coordinates: tuple[float, ...]):
        point = {name: weight.detach() for name, weight in self.path(*coordinates).items()}
        return point, statistics_at(problem, point, self.batchnorm)


def _worse(a: Scores, b: Scores) -> Scores:
    return Scores(torch.maximum(a.losses, b.losses), a.correct * b.correct)


def axes_of(
    path: Path, axes: int | Mapping[str, Sequence[float]], extent: float = 1.0
) -> Mapping[str, Sequence[float]]:
    """The coordinates of a grid over a path, by axis; InputError for a grid it does not have."""
    if isinstance(axes, int):
        if not 1 < axes <= _MOST_POINTS or not 0 < extent < np.inf:
            raise InputError(
                f"a scan needs 2 to {_MOST_POINTS:,} points per axis and a positive extent, "
                f"got {axes}, {extent:g}"
            )
        low, high = (extent * end for end in path.ends)
        points = np.linspace(low, high, axes)
        points[np.abs(points) < 1e-9 * (high - low)] = 0.0
        return dict.fromkeys(path.axes, points)
    if len(axes) != len(path.axes):
        raise InputError(f"{path!r} has {len(path.axes)} coordinates, the grid {len(axes)} axes")
    return axes


def grid(low: float, high: float, step: float, what: str) -> np.ndarray:
    """low, low + step, ... up to high (included if within rounding), as one exact product each.

    Raises InputError for a step that is not positive or an empty range.
    """
    if step <= 0 or high < low:
        raise InputError(
            f"{what}: needs min <= max and step > 0, got {low:g}..{high:g} by {step:g}"
        )
    count = int(np.floor((high - low) / step + 1e-6)) + 1
    if count == 1 and high > low:
        raise InputError(f"{what}: a step of {step:g} leaves one point of {low:g}..{high:g}")
    if count > _MOST_POINTS:
        raise InputError(f"{what}: {count} points are too many; allowed are {_MOST_POINTS:,}")
    points = low + step * np.arange(count)
    # 0 and the upper end are meant exactly where they are meant at all
    points[np.abs(points) < 1e-9 * step] = 0.0
    if abs(points[-1] - high) < 1e-6 * step:
        points[-1] = high
    return points
