"""Planes through a problem's weights, for scans of the loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from torch import Tensor

from ridgeline.landscape.problem import Problem
from ridgeline.landscape.weights.directions import random_direction, unit
from ridgeline.landscape.weights.paths import Plane
from ridgeline.landscape.weights.point import Point, add, combine, cosine, dot, norm, subtract
from ridgeline.models.errors import InputError
from ridgeline.train.losses import unit_of


def random_plane(
    problem: Problem,
    dimensions: int = 2,
    *,
    normalization: str = "filter",
    one_dimensional: str = "zero",
    seed: int | None = None,
) -> Plane:
    """The line, plane or space along random directions from a problem's weights.

    A step of 1 has the size of the weights, filter by filter (Li et al. 2018).

    Args:
        problem: The problem, whose weights are the origin.
        dimensions: Number of directions.
        normalization: As for `random_direction`.
        one_dimensional: As for `random_direction`.
        seed: Seed of the directions; None: the problem's.

    Returns:
        The plane, for `scan`.

    Raises:
        InputError: for an unknown normalisation, and for dimensions below 1.

    >>> x, y = torch.ones(1, 1), torch.zeros(1, 1)
    >>> problem = Problem(torch.nn.Linear(1, 1, bias=False), (x, y), loss="squared_error")
    >>> away = random_plane(problem, 1)(1.0)["weight"] / problem.origin["weight"]
    >>> sorted([away.item(), 2 - away.item()])  # one step is as long as the filter, to either side
    [0.0, 2.0]
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

    >>> x, y = torch.ones(1, 1), torch.zeros(1, 1)
    >>> problem = Problem(torch.nn.Linear(1, 1, bias=False), (x, y), loss="squared_error")
    >>> away = plane(problem, {"weight": torch.ones(1, 1)})(3.0)["weight"]
    >>> round((away - problem.origin["weight"]).item(), 4)
    3.0
    """
    if not directions:
        raise InputError("a plane needs one or more directions")
    shapes = {name: t.shape for name, t in problem.origin.items()}
    for direction in directions:
        if not isinstance(direction, Mapping):
            raise InputError(
                "a direction is a dict of tensors by parameter, such as rl.eigenvectors gives; got "
                f"{type(direction).__name__} (plane(problem, *directions) takes them one by one)"
            )
        if {name: t.shape for name, t in direction.items()} != shapes:
            raise InputError("a direction is of another network: names or shapes differ")
        if not 0 < norm(direction) < np.inf:
            raise InputError("a direction has no finite length above 0: the weights cannot move")
    for n, first in enumerate(directions):
        for second in directions[:n]:
            if abs(cosine(first, second)) > 1 - 1e-6:
                raise InputError("the two directions are parallel: they span no plane")
    return Plane([problem.origin, *directions]).like(problem.origin)


def orthogonal(directions: Sequence[Point]) -> list[Point]:
    """The directions after Gram-Schmidt, in order; each keeps the norm of its orthogonal part.

    Raises InputError for a direction of length 0 or in the span of those before it.

    >>> one, two = {"w": torch.tensor([1.0, 0.0])}, {"w": torch.tensor([5.0, 2.0])}
    >>> orthogonal([one, two])[1]["w"].tolist()
    [0.0, 2.0]
    """
    found: list[Point] = []
    for number, direction in enumerate(directions, start=1):
        if not norm(direction):
            raise InputError(f"direction {number} has no length: its ends are the same weights")
        rest = direction
        for _ in range(2):  # twice is enough (Kahan and Parlett)
            for other in found:
                rest = add(rest, other, -dot(rest, other) / dot(other, other))
        if norm(rest) <= 1e-6 * norm(direction):
            raise InputError(f"direction {number} lies in the span of those before it")
        found.append(rest)
    return found


def plane_through(problem: Problem, second: Point, third: Point) -> tuple[Plane, xr.Dataset]:
    """The plane through a problem's weights and two other networks', in Euclidean units.

    Args:
        problem: The problem, whose weights are the origin.
        second: The network to which the first axis points.
        third: The second axis is the part of its direction that is orthogonal to the first axis.

    Returns:
        The plane, and the positions of the three networks in it (see `positions`).

    Raises:
        InputError: if the three lie on one line.

    References:
        Garipov et al. 2018, appendix A.1.

    >>> x, y = torch.ones(1, 2), torch.zeros(1, 1)
    >>> problem = Problem(torch.nn.Linear(2, 1, bias=False), (x, y), loss="squared_error")
    >>> away = lambda *move: {"weight": problem.origin["weight"] + torch.tensor([move])}
    >>> _, placed = plane_through(problem, away(3.0, 0.0), away(3.0, 4.0))
    >>> abs(placed["position"].values.round(4)).tolist()
    [[0.0, 0.0], [3.0, 0.0], [3.0, 4.0]]
    """
    first = problem.origin
    directions = orthogonal([subtract(second, first), subtract(third, first)])
    found = plane(problem, *(unit(d) for d in directions))
    return found, positions(found, [first, second, third])


def trajectory_plane(
    problem: Problem, points: Sequence[Point], dimensions: int = 2
) -> tuple[Plane, xr.Dataset]:
    """The plane through a problem's weights in which other checkpoints vary most, Euclidean units.

    Its axes are principal components of the differences to the problem's weights. The differences
    are not centred, so the weights lie in the plane. Li et al. centre them.

    Args:
        problem: The problem, whose weights are the origin.
        points: The other checkpoints.
        dimensions: Number of axes.

    Returns:
        The plane, and the positions of the checkpoints in it (see `positions`). `explained` is the
        share of the squared distances along each axis.

    Raises:
        InputError: for fewer independent checkpoints than dimensions.

    References:
        Li et al. 2018, section 7.2.

    >>> x, y = torch.ones(1, 2), torch.zeros(1, 1)
    >>> problem = Problem(torch.nn.Linear(2, 1, bias=False), (x, y), loss="squared_error")
    >>> away = lambda *move: {"weight": problem.origin["weight"] + torch.tensor([move])}
    >>> _, placed = trajectory_plane(problem, [away(4.0, 0.0), away(0.0, 3.0)])
    >>> placed["explained"].values.round(4).tolist()  # 16 and 9 of 25
    [0.64, 0.36]
    """
    differences = [subtract(p, problem.origin) for p in points]
    gram = np.array([[dot(a, b) for b in differences] for a in differences])
    values, vectors = np.linalg.eigh(gram) if len(gram) else (np.zeros(0), np.zeros((0, 0)))
    order = np.argsort(values)[::-1][:dimensions]
    top = values[order]
    if len(top) < dimensions or top[-1] <= 1e-10 * max(top[0], 1e-300):
        raise InputError(
            f"{len(points)} checkpoints beside the last span fewer than {dimensions} dimensions"
        )
    directions = [
        combine([float(c) for c in vectors[:, k] / np.sqrt(v)], differences)
        for k, v in zip(order, top, strict=True)
    ]
    for d, k in zip(
        directions, order, strict=True
    ):  # the same sign with every linear algebra library
        if vectors[np.abs(vectors[:, k]).argmax(), k] < 0:
            for name in d:
                d[name] = -d[name]
    found = plane(problem, *(unit(d) for d in directions))
    ds = positions(found, [*points, problem.origin])
    ds["explained"] = ("axis", top / values.clip(min=0).sum(), {
        "long_name": "share of the squared distances", "units": "1"})  # fmt: skip
    return found, ds


def positions(plane: Plane, points: Sequence[Point]) -> xr.Dataset:
    """The positions of Points relative to a plane of orthogonal axes.

    - `position` (checkpoint, axis): the coordinates of the nearest point of the plane.
    - `off_plane` (checkpoint,): the Euclidean distance to that point.
    - `from_origin` (checkpoint,): the Euclidean distance to the plane's origin.

    >>> origin, axis = {"w": torch.zeros(2)}, {"w": torch.tensor([1.0, 0.0])}
    >>> placed = positions(Plane([origin, axis]), [{"w": torch.tensor([3.0, 4.0])}])
    >>> placed["position"].values.tolist(), placed["off_plane"].values.tolist()
    ([[3.0]], [4.0])
    """
    origin, *directions = plane.knots
    rows, off, far = [], [], []
    for point in points:
        difference = subtract({n: t.to(origin[n]) for n, t in point.items()}, origin)
        row = [dot(difference, d) / dot(d, d) for d in directions]
        rest = combine([1.0, *(-c for c in row)], [difference, *directions])
        rows.append(row)
        off.append(norm(rest))
        far.append(norm(difference))
    return xr.Dataset(
        {
            "position": (("checkpoint", "axis"), np.array(rows), {"long_name": "coordinates"}),
            "off_plane": ("checkpoint", off, {"long_name": "distance from the plane"}),
            "from_origin": ("checkpoint", far, {"long_name": "distance from the origin"}),
        },
        coords={"axis": list(plane.axes)},
    )


def along_trajectory(
    problem: Problem, plane: Plane, placed: xr.Dataset, points: Sequence[Point],
    buffers: Sequence[Mapping[str, Tensor] | None] | None = None,
) -> xr.Dataset:  # fmt: skip
    """The positions, with the loss at every checkpoint and at its projection on the plane.

    `true_loss` and `plane_loss` (checkpoint,): if they differ, the plane does not show the loss
    along the trajectory. `buffers` are the checkpoints' own (BatchNorm); None: the problem's.
    """
    buffers = [None] * len(points) if buffers is None else buffers
    true = [problem.evaluate(p, b).loss for p, b in zip(points, buffers, strict=True)]
    flat = [
        problem.evaluate(plane(*map(float, row)), b).loss
        for row, b in zip(placed["position"].values, buffers, strict=True)
    ]
    units = {"units": unit_of(problem.loss)}
    return placed.assign(
        true_loss=("checkpoint", true, {"long_name": "loss at the checkpoint", **units}),
        plane_loss=("checkpoint", flat, {"long_name": "loss at its place in the plane", **units}),
    )
