"""Paths: coordinates -> Point. They are linear in their knots, so differentiable by them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from ridgeline.landscape.weights.point import Point, combine, dot, norm, subtract
from ridgeline.models.errors import InputError, unknown


@dataclass(frozen=True, repr=False)
class Path(ABC):
    """A family of Points sum_k c_k(t) knots[k]."""

    knots: Sequence[Point]

    def __repr__(self) -> str:
        size = sum(t.numel() for t in self.knots[0].values())
        return f"{type(self).__name__}({len(self.knots)} points of {size} parameters)"

    @property
    def axes(self) -> tuple[str, ...]:
        """The names of its coordinates."""
        return ("t",)

    @property
    def ends(self) -> tuple[float, float]:
        """The default range of each coordinate."""
        return 0.0, 1.0

    @abstractmethod
    def coefficients(self, *coordinates: float) -> list[float]:
        """One number per knot at the given coordinates."""

    def __call__(self, *coordinates: float) -> Point:
        """The Point at the given coordinates."""
        return combine(self.coefficients(*coordinates), self.knots)

    def arc_length(self, t: Sequence[float], steps: int = 2000) -> np.ndarray:
        """The Euclidean length of a curve from 0 to each t (T,), by `steps` chords.

        Exact for straight segments that join at multiples of 1 / steps.
        """
        beside = [subtract(k, self.knots[0]) for k in self.knots]
        gram = np.array([[dot(a, b) for b in beside] for a in beside])
        grid = np.union1d(np.linspace(0, 1, steps + 1), np.asarray(t, dtype=float))
        weights = np.array([self.coefficients(float(x)) for x in grid])
        moves = np.diff(weights, axis=0)
        chords = np.sqrt(np.einsum("nk,kl,nl->n", moves, gram, moves).clip(min=0))
        return np.concatenate([[0.0], chords.cumsum()])[np.searchsorted(grid, t)]

    def like(self, point: Point) -> Self:
        """The path on the device and in the dtype of a Point.

        Raises InputError for a Point of another network.
        """
        shapes = {n: t.shape for n, t in point.items()}
        if any({n: t.shape for n, t in k.items()} != shapes for k in self.knots):
            raise InputError("the path is of another network: names or shapes of parameters differ")
        return replace(self, knots=[{n: t.to(point[n]) for n, t in k.items()} for k in self.knots])


@dataclass(frozen=True, repr=False)
class Plane(Path):
    """origin + x1 * direction1 (+ x2 * direction2 ...); knots = [origin, direction1, ...]."""

    def __repr__(self) -> str:
        size = sum(t.numel() for t in self.knots[0].values())
        lengths = ", ".join(f"{norm(d):.4g}" for d in self.knots[1:])
        return f"Plane({len(self.axes)}-D in {size} parameters, directions of norm {lengths})"

    @property
    def axes(self) -> tuple[str, ...]:
        """x1, x2, ..."""
        return tuple(f"x{n}" for n in range(1, len(self.knots)))

    @property
    def ends(self) -> tuple[float, float]:
        """One length of the direction to both sides."""
        return -1.0, 1.0

    def coefficients(self, *coordinates: float) -> list[float]:
        """1 for the origin, then the coordinates."""
        return [1.0, *coordinates]


@dataclass(frozen=True, repr=False)
class Bezier(Path):
    """The Bezier curve of degree K-1 through its first and last of K knots, t in [0,1].

    >>> Bezier([{}, {}, {}]).coefficients(0.5)
    [0.25, 0.5, 0.25]
    """

    def coefficients(self, t: float) -> list[float]:
        """Bernstein polynomials (Garipov et al. 2018, equation 5)."""
        n = len(self.knots) - 1
        return [math.comb(n, k) * (1 - t) ** (n - k) * t**k for k in range(n + 1)]


@dataclass(frozen=True, repr=False)
class PolygonalChain(Path):
    """Straight segments between consecutive knots, t in [0,1] uniform over the segments.

    >>> PolygonalChain([{}, {}, {}]).coefficients(0.75)
    [0.0, 0.5, 0.5]
    """

    def coefficients(self, t: float) -> list[float]:
        """Linear interpolation between the two knots around t (Garipov et al. 2018, equation 3)."""
        n = len(self.knots) - 1
        segment = min(int(t * n), n - 1)
        share = t * n - segment
        weights = [0.0] * (n + 1)
        weights[segment], weights[segment + 1] = 1 - share, share
        return weights


#: curve_type -> path
CURVES: dict[str, type[Path]] = {
    "bezier": Bezier,
    "bezier_curve": Bezier,
    "poly_chain": PolygonalChain,
}


def curve(curve_type: str, knots: Sequence[Point]) -> Path:
    """A connecting curve by name. Raises InputError for an unknown name or fewer than 2 knots.

    >>> curve("poly_chain", [{}, {}]).coefficients(0.25)
    [0.75, 0.25]
    """
    if curve_type not in CURVES:
        raise unknown("curve_type", curve_type, CURVES)
    if len(knots) < 2:
        raise InputError(f"a curve needs at least 2 control points, got {len(knots)}")
    return CURVES[curve_type](knots)


def straight(start: Point, end: Point, count: int) -> list[Point]:
    """`count` knots at equal distances from start to end. The ends are exact.

    >>> knots = straight({"w": torch.zeros(1)}, {"w": torch.ones(1)}, 3)
    >>> [knot["w"].item() for knot in knots]
    [0.0, 0.5, 1.0]
    """
    last = count - 1
    return [combine((1 - k / last, k / last), (start, end)) for k in range(count)]
