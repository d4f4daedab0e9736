"""Axes of a scan: coordinates that are listed, evenly spaced, or found by a rise of the loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ridgeline.landscape.batchnorm import place_on
from ridgeline.landscape.problem import Problem
from ridgeline.landscape.surfaces.cell import EXTRAS, VARIABLES
from ridgeline.landscape.weights.paths import Path
from ridgeline.models.errors import InputError, unknown
from ridgeline.train.specs import convert, number, parse_spec, whole

_MOST_POINTS = 100_000  # along one axis
_WIDEST = 2.0**10  # largest coordinate at which a rise of the loss is searched


class Axis(NamedTuple):
    """An axis as a user writes it: its coordinates, or the rise of the loss that it must reach.

    `every`: so many neighbouring cells share the adversarial images of the middle one (anchored).
    """

    points: np.ndarray | None
    rise: float = 0.0
    count: int = 0
    every: int = 1

    @property
    def recorded(self) -> list[float] | dict[str, float]:
        """What a recipe records: the coordinates, or the rise that determines them."""
        if self.points is None:
            return {"rise": self.rise, "count": self.count}
        return list(self.points)


def parse_axis(text: str, what: str) -> Axis:
    """An axis from `min:max:count`, from `min=..,max=..,step=..` or from `rise=..,count=..`.

    Defaults of the keys: min -1, max 1, step 0.05, count 21. `rise=10` widens the axis until the
    loss at one end is 10 times that of the centre. The second and third form accept
    `adv_calc_freq`. Raises InputError.

    >>> parse_axis("-1:1:3", "--vec1_scan").points.tolist()
    [-1.0, 0.0, 1.0]
    """
    if "=" not in text:
        parts = text.split(":")
        if len(parts) != 3:
            raise InputError(f"{what}: needs min:max:count or key=value,..., got {text!r}")
        low, high = (number(p, what) for p in parts[:2])
        return Axis(spaced(low, high, whole(parts[2], f"{what}: count"), what))
    spec = parse_spec(text, what)
    rising = "rise" in spec
    known = {"rise": "", "count": "21"} if rising else {"min": "-1", "max": "1", "step": "0.05"}
    known["adv_calc_freq"] = "1"
    for key in spec:
        if key not in known:
            raise unknown(f"key in {what}", key, known)
    spec = {**known, **spec}
    every = convert(spec["adv_calc_freq"], int, f"{what}: adv_calc_freq")
    if every < 1:
        raise InputError(f"{what}: adv_calc_freq must be at least 1, got {every}")
    if not rising:
        low, high, step = (number(spec[k], f"{what}: {k}") for k in ("min", "max", "step"))
        return Axis(grid(low, high, step, what), every=every)
    rise, count = number(spec["rise"], f"{what}: rise"), whole(spec["count"], f"{what}: count")
    if not rise > 1:
        raise InputError(f"{what}: rise must be above 1, got {rise:g}")
    spaced(-1, 1, count, what)
    return Axis(None, rise, count, every)


def spaced(low: float, high: float, count: int, what: str) -> np.ndarray:
    """`count` points from low to high, both included; a 0 is exactly 0. Raises InputError.

    >>> spaced(-1, 1, 5, "axis").tolist()
    [-1.0, -0.5, 0.0, 0.5, 1.0]
    """
    if not low < high or not 2 <= count <= _MOST_POINTS:
        raise InputError(
            f"{what}: needs min < max and 2 to {_MOST_POINTS:,} points, "
            f"got {low:g}..{high:g}, {count} points"
        )
    points = np.linspace(low, high, count)
    points[np.abs(points) < 1e-9 * (high - low)] = 0.0
    return points


def extent_of(problem: Problem, path: Path, axis: int, rise: float, batchnorm: str) -> float:
    """The extent of an axis, to both sides, so that the loss at one end is `rise` times the centre.

    It is a power of two, in lengths of the direction. Raises InputError if there is none.
    """
    path = path.like(problem.origin)

    def loss(at: float) -> float:
        coordinates = [0.0] * len(path.axes)
        coordinates[axis] = at
        return problem.evaluate(*place_on(problem, path, coordinates, batchnorm)).loss

    centre, extent = loss(0.0), 2.0**-6
    while extent <= _WIDEST:
        ends = loss(-extent), loss(extent)
        if not max(ends) < rise * centre:  # also ends the search if a loss is NaN
            return extent
        extent *= 2
    raise InputError(
        f"the loss has not risen to {rise:g} times {centre:.4g} within {_WIDEST:g} lengths of "
        f"direction {axis + 1}: name min:max:count instead"
    )


def axes_of(
    path: Path, axes: int | Mapping[str, Sequence[float]], extent: float = 1.0
) -> Mapping[str, Sequence[float]]:
    """The coordinates of a grid over a path, by axis. Raises InputError if they do not fit it."""
    if not isinstance(path, Path):
        raise InputError(f"a scan needs a plane or a curve, such as rl.random_plane(problem), "
                         f"got {type(path).__name__}")  # fmt: skip
    if not isinstance(axes, int | Mapping):
        raise InputError(f"axes must be a number of points or name -> numbers, got {axes!r}")
    if isinstance(axes, int):
        if not 0 < extent < np.inf:
            raise InputError(f"a scan needs a positive extent, got {extent:g}")
        low, high = (extent * end for end in path.ends)
        return dict.fromkeys(path.axes, spaced(low, high, axes, "scan"))
    if taken := axes.keys() & {"eps", "done", *VARIABLES, *EXTRAS}:
        raise InputError(f"an axis cannot be called {', '.join(sorted(taken))}: a scan holds that")
    if len(axes) != len(path.axes):
        raise InputError(f"{path!r} has {len(path.axes)} coordinates, the grid {len(axes)} axes")
    return axes


def grid(low: float, high: float, step: float, what: str) -> np.ndarray:
    """low, low + step, ... up to high (included if within rounding).

    Each is computed as low + n * step, so rounding does not add up. Raises InputError for a step
    that is not positive and for an empty range.
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
    # points within rounding of 0 or of the upper end become exactly these
    points[np.abs(points) < 1e-9 * step] = 0.0
    if abs(points[-1] - high) < 1e-6 * step:
        points[-1] = high
    return points
