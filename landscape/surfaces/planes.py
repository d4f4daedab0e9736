"""Planes through a problem's weights, to scan the loss over."""

from __future__ import annotations

from ridgeline.landscape.problem import Problem
from ridgeline.landscape.weights.directions import random_direction
from ridgeline.landscape.weights.paths import Plane
from ridgeline.landscape.weights.point import Point, cosine, norm
from ridgeline.models.errors import InputError


def random_plane(
    problem: Problem,
    dimensions: int = 2,
    *,
    normalization: str = "filter",
    one_dimensional: str = "zero",
    seed: int | None = None,
) -> Plane:
    """The line, plane or space along random directions of a problem's weights.

    Coordinate 1 is a direction of the weights' own size, filter by filter (Li et al. 2018);
    `normalization` and `one_dimensional` are those of `random_direction`. `seed` None is the
    problem's. Raises InputError.
    """
    if dimensions < 1:
        raise InputError(f"a plane needs 1 or more dimensions, got {dimensions}")
    seed = problem.seed if seed is None else seed
    directions = [
        random_direction(problem.origin, seed, normalization, one_dimensional, number=n)
        for n in range(dimensions)
    ]
    return plane(problem, *directions)


def plane(problem: Problem, *directions: Point) -> Plane:
    """The plane through a problem's weights along given directions, e.g. its eigenvectors.

    Raises InputError for a direction of another network or of length 0, and for two that are
    parallel.
    """
    if not directions:
        raise InputError("a plane needs one or more directions")
    shapes = {name: t.shape for name, t in problem.origin.items()}
    for direction in directions:
        if {name: t.shape for name, t in direction.items()} != shapes:
            raise InputError("a direction is of another network: names or shapes differ")
        if norm(direction) == 0:
            raise InputError("a direction has length 0: nothing moves along it")
    for n, first in enumerate(directions):
        for second in directions[:n]:
            if abs(cosine(first, second)) > 1 - 1e-6:
                raise InputError("the two directions are parallel: they span no plane")
    return Plane([problem.origin, *directions]).like(problem.origin)
