"""Permutation alignment: reorder one network's units so that its weights are close to another's.

Weight matching (Ainsworth et al. 2023, "Git Re-Basin", algorithm 1). The function of the reordered
network does not change. The barrier on the straight line between the two becomes lower.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import scipy  # its parts are loaded when used
import torch
import xarray as xr
from torch import Tensor, nn

from ridgeline.landscape.permutation.symmetry import Symmetry, symmetry_of
from ridgeline.landscape.problem import Problem
from ridgeline.landscape.result import stamp
from ridgeline.landscape.weights.point import (
    Point,
    buffers_of,
    dot,
    norm,
    point_of,
    select,
    subtract,
)
from ridgeline.models.errors import InputError
from ridgeline.train.data.noise import Purpose, check_seed, stream
from ridgeline.train.files.integrity import tensors_digest

#: a gain below this share of the weights' size is rounding and does not count
_GAIN = 1e-12


class Matched(NamedTuple):
    """A network's units in another order.

    `orders` maps group -> (units,): unit i is the former unit orders[group][i]. `point` and
    `buffers` are the network's own values in that order. `objective` is the inner product of the
    two networks' weights: at the start, and after every group that was reordered.
    """

    orders: dict[str, Tensor]
    point: Point
    buffers: dict[str, Tensor]
    objective: list[float]


class Aligned(NamedTuple):
    """A reordered network: its weights, its buffers, and a report."""

    point: Point
    buffers: dict[str, Tensor]
    report: xr.Dataset


def align(problem: Problem, other: Problem | nn.Module, *, seed: int | None = None) -> Aligned:
    """Another network of the same architecture, its units in the order of the problem's network.

    Its function does not change: weights and BatchNorm buffers are only reordered.

    Args:
        problem: The problem whose network gives the order.
        other: The network to reorder, or its problem.
        seed: Determines the order in which groups are matched; None: the problem's.

    Returns:
        The reordered weights and buffers, on the problem's device and in its dtype, and a report.
        For each `group` the report has the number of interchangeable `units` and the share `moved`.
        For `when` (before, after) it has the `objective`, which is the inner product of all
        weights, and the `distance` between the two networks.

    Raises:
        InputError: for another architecture, and for a network whose units cannot be followed
            (`symmetry_of`).

    References:
        Ainsworth et al. 2023 (Git Re-Basin), algorithm 1.

    >>> network = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    >>> problem = Problem(network, (torch.ones(4, 3), torch.zeros(4, dtype=torch.long)))
    >>> bool((align(problem, network).report["moved"] == 0).all())  # a copy is in order already
    True
    """
    seed = check_seed(problem.seed if seed is None else seed)
    if isinstance(other, Problem):
        there, buffers = other.origin, other.buffers
    elif isinstance(other, nn.Module):
        there, buffers = point_of(other), buffers_of(other)
    else:
        raise InputError(f"align needs a network or a Problem, got {type(other).__name__}")
    there = select(there, problem.origin, "the other network")
    buffers = _fitting(buffers, problem.buffers)
    matched = match_weights(problem, problem.origin, there, seed, buffers)
    return Aligned(matched.point, matched.buffers, _report(problem, there, buffers, matched, seed))


def match_weights(
    problem: Problem,
    origin: Point,
    other: Point,
    seed: int,
    buffers: Mapping[str, Tensor] | None = None,
    *,
    symmetry: Symmetry | None = None,
) -> Matched:
    """The order of units of `other` that brings its weights close to `origin`.

    Linear assignment finds the best order of one group while all others stay. The groups follow in
    random order, again and again, until no group improves. The inner product of all parameters
    never falls. The result is a local optimum. For a group on both axes of one tensor, the order is
    best to first order, and is used only if it improves. Sums are in float64 on the CPU.

    Args:
        problem: The problem of the network.
        origin: The weights to come close to.
        other: The weights to reorder.
        seed: Determines the random order of the groups.
        buffers: Buffers to reorder with `other`; None: the problem's.
        symmetry: The symmetry of the network; None: from `symmetry_of`, with its InputErrors.
    """
    symmetry = symmetry_of(problem) if symmetry is None else symmetry
    a, b = ({n: p[n].detach().cpu().double() for n in origin} for p in (origin, other))
    orders = symmetry.unchanged()
    smallest = _GAIN * norm(a) * norm(b)
    objective = [dot(a, b)]
    groups, sweep, improved = list(symmetry.groups), 0, True
    while improved:
        improved = False
        for number in stream(seed, Purpose.PERMUTATION, 2, sweep).permutation(len(groups)):
            gain, better = _best(symmetry, groups[number], a, b, orders)
            if gain > smallest:
                orders[groups[number]], improved = better, True
                objective.append(objective[-1] + gain)
        sweep += 1
    buffers = problem.buffers if buffers is None else buffers
    return Matched(
        orders, symmetry.apply(other, orders), symmetry.apply(buffers, orders), objective
    )


def _best(
    symmetry: Symmetry, group: str, a: Point, b: Point, orders: Mapping[str, Tensor]
) -> tuple[float, Tensor]:
    """The gain of the inner product if one group takes its best order, and that order."""
    size = symmetry.groups[group]
    products = torch.zeros(size, size, dtype=torch.float64)
    seen: dict[str, int] = {}
    for name, axis, places in symmetry.places(group):
        if name not in a:
            continue  # buffers do not count
        seen[name] = seen.get(name, 0) + 1
        moved = symmetry.reordered(name, b[name], orders)
        rows, columns = (
            t.index_select(axis, places.flatten()).movedim(axis, 0).reshape(size, -1)
            for t in (a[name], moved)
        )
        products += rows @ columns.T
    _, chosen = scipy.optimize.linear_sum_assignment(products.numpy(), maximize=True)
    better = orders[group][torch.from_numpy(np.asarray(chosen, dtype=np.int64))]
    if max(seen.values(), default=0) > 1:  # the sum is no longer linear in the order
        gain = sum(_gain(symmetry, name, a, b, orders, {**orders, group: better}) for name in seen)
    else:
        gain = products[torch.arange(size), torch.from_numpy(chosen)].sum() - products.trace()
    return float(gain), better


def _gain(
    symmetry: Symmetry, name: str, a: Point, b: Point, before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
) -> float:  # fmt: skip
    """The increase of the inner product of one parameter."""
    then, now = (symmetry.reordered(name, b[name], orders) for orders in (before, after))
    return float((a[name] * (now - then)).sum())


def _fitting(buffers: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The buffers on the device and in the dtype of `like`; InputError if they do not fit."""
    for name, buffer in like.items():
        if name not in buffers or buffers[name].shape != buffer.shape:
            raise InputError(
                f"the other network has another buffer {name} than the problem's, or none"
            )
    return {name: buffers[name].to(buffer) for name, buffer in like.items()}


def _report(
    problem: Problem, there: Point, buffers: Mapping[str, Tensor], matched: Matched, seed: int
) -> xr.Dataset:
    """Which units moved, and the objective and distance before and after."""
    origin, orders = problem.origin, matched.orders
    moved = [float((o != torch.arange(len(o))).double().mean()) for o in orders.values()]
    pair = (there, matched.point)
    dataset = xr.Dataset(
        {
            "units": ("group", [len(order) for order in orders.values()]),
            "moved": ("group", moved),
            "objective": ("when", [dot(origin, point) for point in pair]),
            "distance": ("when", [norm(subtract(point, origin)) for point in pair]),
        },
        coords={"group": list(orders), "when": ["before", "after"]},
    )
    recipe = {**problem.recipe(), "other": tensors_digest({**there, **buffers}), "seed": seed}
    return stamp(dataset, "alignment", recipe)
