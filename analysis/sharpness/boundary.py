"""The loss around images along the attack and random signs, and the distance of the boundary."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ridgeline.landscape.problem import Problem
from ridgeline.models.errors import InputError
from ridgeline.train.attacks import Attack, Predict
from ridgeline.train.attacks.norms import INF, columns, steepest
from ridgeline.train.data.examples import Batch
from ridgeline.train.data.noise import Noise, Purpose
from ridgeline.train.losses import cross_entropy, predicted, unit_of
from ridgeline.train.precision import exact

#: number of points along each direction that are tried for the first wrong prediction
_PLACES = 40
_HALVINGS = 12


def boundary(
    problem: Problem,
    points: int = 21,
    reach: float = 2.0,
    farthest: float = 10.0,
    tick: Callable[[int], Any] | None = None,
) -> xr.Dataset:
    """Mean loss at x + eps (a u + b s): u the attack's direction, s random signs, both of norm 1.

    Pixels are clipped to [0,1]. In the plane the attack's ball is |a| + |b| <= 1 for l_inf (u
    consists of signs too) and a^2 + b^2 <= 1 for l_2.

    Args:
        problem: The problem, with an attack.
        points: Number of points along each axis of the plane.
        reach: The plane goes from -reach to reach, in budgets.
        farthest: Largest distance at which the boundary is searched, in budgets.
        tick: Called with the number of examples after every batch.

    Returns:
        `plane_loss` and `plane_accuracy` over (`a`, `b`). `boundary_distance` over (`direction`,
        `example`): the smallest distance, in budgets, at which the prediction is wrong. It is 0
        if the clean prediction is wrong, and infinite if it stays right up to `farthest`.

    Raises:
        InputError: without an attack.
    """
    attack = problem.attack
    if attack is None or attack.eps == 0:
        raise InputError("the boundary needs an attack, whose budget is the unit")
    predict = problem.predict(problem.origin)
    axis = np.linspace(-reach, reach, points)
    loss, right = np.zeros((points, points)), np.zeros((points, points))
    distances: list[list[Tensor]] = [[], []]
    for batch, found in problem.adversarial():
        ways = list(_directions(batch, found, attack, problem.seed))
        with torch.no_grad(), exact():
            for i, a in enumerate(axis):
                for j, b in enumerate(axis):
                    moved = batch.x + float(a) * ways[0] + float(b) * ways[1]
                    logits = predict(moved.clamp(0, 1))
                    loss[i, j] += cross_entropy(logits, batch.y).double().sum().item()
                    right[i, j] += (predicted(logits) == batch.y).sum().item()
            for place, way in enumerate(ways):
                distances[place].append(_distance(predict, batch, way, farthest))
        if tick is not None:
            tick(len(batch.y))
    count = len(problem.data)
    return xr.Dataset(
        {
            "plane_loss": (("a", "b"), loss / count, {"units": unit_of("cross_entropy")}),
            "plane_accuracy": (("a", "b"), right / count),
            "boundary_distance": (
                ("direction", "example"), np.stack([torch.cat(d).numpy() for d in distances]),
                {"units": "budgets", "long_name": "first wrong prediction along the direction"},
            ),
            "ball_order": float(attack.order),
        },
        coords={"a": axis, "b": axis, "direction": ["adversarial", "random signs"]},
    )  # fmt: skip


def _directions(batch: Batch, found: Tensor, attack: Attack, seed: int) -> Iterator[Tensor]:
    """The attack's direction and random signs, both of the budget's length."""
    moved = found - batch.x
    if attack.order == INF:
        largest = moved.flatten(1).abs().amax(1).clamp_min(torch.finfo(moved.dtype).tiny)
        yield attack.eps * moved / columns(largest, moved)
    else:
        yield attack.eps * steepest(moved, attack.order)
    noise = Noise(seed, batch.index, purpose=Purpose.SIGN_DIRECTION)
    signs = torch.where(noise.uniform(batch.x) < 0, -1.0, 1.0).to(batch.x)
    yield attack.eps * steepest(signs, attack.order)


def _distance(predict: Predict, batch: Batch, way: Tensor, farthest: float) -> Tensor:
    """The smallest t (n,) with a wrong prediction at x + t way, by a scan, then bisection."""

    def wrong(t: Tensor) -> Tensor:
        moved = (batch.x + columns(t, way).to(way) * way).clamp(0, 1)
        return predicted(predict(moved)) != batch.y

    high = torch.full((len(batch.y),), torch.inf, dtype=torch.float64, device=batch.x.device)
    low = torch.zeros_like(high)
    for t in np.linspace(0, farthest, _PLACES + 1):
        here = torch.full_like(high, float(t))
        new = wrong(here) & high.isinf()
        high = torch.where(new, here, high)
        low = torch.where(high.isinf(), here, low)
    inside = high.isfinite() & (high > 0)
    for _ in range(_HALVINGS):
        middle = torch.where(inside, (low + high) / 2, low)
        bad = wrong(middle)
        high = torch.where(inside & bad, middle, high)
        low = torch.where(inside & ~bad, middle, low)
    return high.cpu()
