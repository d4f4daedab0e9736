"""Named directions in weight space for diagnostics."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ridgeline.landscape.batchnorm import statistics_at
from ridgeline.landscape.curvature.questions import eigenvectors, top_eigenpairs
from ridgeline.landscape.gradient import loss_gradient
from ridgeline.landscape.problem import Problem
from ridgeline.landscape.weights.directions import random_direction
from ridgeline.landscape.weights.point import Point, flatten, norm, unflatten
from ridgeline.models.errors import InputError, unknown
from ridgeline.train.specs import whole

#: directions by name; NAME:2 is the second of that name
DIRECTIONS = {
    "random": "Gaussian in all parameters, a function of the seed",
    "gradient": "steepest ascent of the loss, attacked at the weights",
    "eigenvector": "of the Hessian of the loss, images frozen, largest eigenvalue first",
}


def probe_directions(
    problem: Problem, wanted: Mapping[str, Point] | Sequence[str], batchnorm: str = "keep"
) -> dict[str, Point]:
    """The wanted directions, given as Points or as names in DIRECTIONS, in the network's dtype.

    Gradient and eigenvectors are those of the problem's loss under its own attack. For the
    direction to another network pass the Point of `between`. Raises InputError for an empty list,
    for unknown names, and for directions of another network, of length 0 or not finite.
    """
    if isinstance(wanted, str) or not wanted:
        raise InputError(f"directions must be a list of names or Points by name, got {wanted!r}")
    if isinstance(wanted, Mapping):
        points = dict(wanted)
    else:
        points = _by_name(problem, list(wanted), batchnorm)
    shapes = {name: t.shape for name, t in problem.origin.items()}
    for name, point in points.items():
        if {n: t.shape for n, t in point.items()} != shapes:
            raise InputError(f"direction {name} is of another network: names or shapes differ")
        length = norm(point)
        if not 0 < length < math.inf:
            raise InputError(f"direction {name} has length {length:g}: nothing can move along it")
    return {
        name: {n: point[n].detach().to(t) for n, t in problem.origin.items()}
        for name, point in points.items()
    }


def _by_name(problem: Problem, names: list[str], batchnorm: str) -> dict[str, Point]:
    parsed = [_parse(name) for name in names]
    if len(set(parsed)) < len(parsed):
        raise InputError(f"directions must differ, got {', '.join(names)}")
    most = max((n for kind, n in parsed if kind == "eigenvector"), default=0)
    vectors = _eigenvectors(problem, most, batchnorm) if most else []
    found = {}
    for name, (kind, number) in zip(names, parsed, strict=True):
        if kind == "random":
            drawn = random_direction(problem.origin, problem.seed, "none", number=number - 1)
            found[name] = drawn
        elif kind == "gradient":
            found[name] = _gradient(problem, batchnorm)
        else:
            found[name] = vectors[number - 1]
    return found


def _parse(name: str) -> tuple[str, int]:
    """(kind, number from 1) of a name such as random:2; InputError."""
    kind, colon, number = name.partition(":")
    if kind not in DIRECTIONS:
        raise unknown("direction", name, DIRECTIONS)
    count = whole(number, f"direction {name}: its number") if colon else 1
    if count < 1 or (kind == "gradient" and count > 1):
        raise InputError(f"there is no direction {name}; numbers start at 1, there is one gradient")
    return kind, count


def _gradient(problem: Problem, batchnorm: str) -> Point:
    def compute() -> dict[str, Tensor]:
        buffers = statistics_at(problem, problem.origin, batchnorm)
        return {"gradient": loss_gradient(problem.frozen(buffers=buffers), buffers=buffers)[1]}

    return unflatten(problem.keep("gradient direction", compute)["gradient"], problem.origin)


def _eigenvectors(problem: Problem, count: int, batchnorm: str) -> list[Point]:
    def compute() -> dict[str, Tensor]:
        pairs = top_eigenpairs(problem, count, batchnorm=batchnorm)
        for rank in pairs["rank"].values[~pairs["converged"].values.astype(bool)]:
            reason = pairs["reason"].sel(rank=rank).item()
            logging.getLogger(__name__).warning("eigenvector %d did not converge: %s", rank, reason)
        return {"vectors": torch.stack([flatten(v) for v in eigenvectors(problem, pairs)])}

    rows = problem.keep(f"top {count} eigenvectors", compute)["vectors"]
    if len(rows) < count:
        raise InputError(f"there are {len(rows)} eigenvectors, direction number {count} was asked")
    return [unflatten(row, problem.origin) for row in rows]
