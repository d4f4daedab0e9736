"""What attacks share that search the smallest perturbation that fools, whatever its size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from ridgeline.train.attacks.base import Predict
from ridgeline.train.attacks.norms import columns, row_norm, where, within
from ridgeline.train.data.noise import Noise
from ridgeline.train.losses import Loss, margin, predicted

#: how far beyond the boundary an image stays, in units of rounding of the largest logit
_ROUNDINGS = 64


class Smallest(NamedTuple):
    """Per example: the nearest image that was found to fool, and its distance `budget` (N,).

    Where none was found the budget is infinite and the image is the likeliest to lead to one.
    An example that is wrong from the start has budget 0.
    """

    images: Tensor
    budget: Tensor


@runtime_checkable
class MinimumNorm(Protocol):
    """An attack that finds, in one search, the smallest budget of every example."""

    def smallest(self, predict: Predict, x: Tensor, y: Tensor, noise: Noise | int) -> Smallest:
        """The smallest perturbation of clean x (N, C, H, W) in [0,1] with labels y (N,)."""


def judged(predict: Predict, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Whether the network is wrong (N,), and by which margin (N,)."""
    with torch.no_grad():
        logits = predict(x)
    return predicted(logits) != y, margin(logits, y)


def within_budget(
    predict: Predict, x: Tensor, y: Tensor, found: Smallest, eps: float, order: float
) -> Tensor:
    """Images within eps: what was found where it is that near, else a step towards it.

    The step ends on the ball, and is taken where it brings the network nearer to its error.
    """
    step = within(found.images, x, eps, order)
    with torch.no_grad():
        nearer = margin(predict(step), y) > margin(predict(x), y)
    return where(found.budget <= eps, found.images, where(nearer, step, x))


def likeliest(predict: Predict, x: Tensor, y: Tensor, count: int) -> list[Tensor]:
    """The wrong classes (N,) of each example by logit at x, the likeliest first; at most all."""
    if not count:
        return []
    with torch.no_grad():
        wrong = predict(x).scatter(1, y[:, None], -torch.inf)
    return list(wrong.topk(min(count, wrong.shape[1] - 1), dim=1).indices.T)


def over(target: Tensor) -> Loss:
    """The logit of class `target` (N,) less the label's."""

    def gain(logits: Tensor, y: Tensor) -> Tensor:
        pair = logits.gather(1, torch.stack([target, y], 1))
        return pair[:, 0] - pair[:, 1]

    return gain


def smallest_of(several: Sequence[Smallest]) -> Smallest:
    """Of several searches the nearest image that fools, by example; the first where none does."""
    images, budget = several[0]
    for found in several[1:]:
        nearer = found.budget < budget
        images = where(nearer, found.images, images)
        budget = torch.where(nearer, found.budget, budget)
    return Smallest(images, budget)


def surely_wrong(logits: Tensor, y: Tensor) -> Tensor:
    """Whether logits are wrong by more than rounding may turn (N,)."""
    rounding = _ROUNDINGS * torch.finfo(logits.dtype).eps * logits.abs().amax(1)
    return margin(logits, y) > rounding


def closer(
    predict: Predict, x: Tensor, y: Tensor, found: Smallest, order: float, steps: int
) -> Smallest:
    """Move every image found towards x as long as it fools, by `steps` bisections of the segment.

    They begin at 15/16 of the way: a search ends near the boundary. An image stays so far beyond it
    that it fools in another batch size or precision too, where logits are rounded otherwise.
    """
    high = torch.ones_like(found.budget)
    low = 15 / 16 * high
    way, images = found.images - x, found.images
    some = found.budget.isfinite() & (found.budget > 0)
    for _ in range(steps):
        middle = (low + high) / 2
        between = x + columns(middle, x) * way
        with torch.no_grad():
            fools = surely_wrong(predict(between), y) & some
        images = where(fools, between, images)
        low, high = torch.where(fools, low, middle), torch.where(fools, middle, high)
    return Smallest(images, torch.where(some, row_norm(images - x, order), found.budget))
