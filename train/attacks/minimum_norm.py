"""Common parts of attacks that search the smallest perturbation that fools, of any size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from ridgeline.train.attacks.base import Predict
from ridgeline.train.attacks.norms import columns, row_norm, where, within
from ridgeline.train.data.noise import Noise
from ridgeline.train.losses import Loss, margin, predicted

#: least distance of an image beyond the boundary, in units of rounding of the largest logit
_ROUNDINGS = 64


class Smallest(NamedTuple):
    """The nearest image found that fools, per example, and its distance `budget` (N,).

    If none was found, the budget is infinite and the image is the best candidate. An example whose
    clean prediction is wrong has budget 0.
    """

    images: Tensor
    budget: Tensor


@runtime_checkable
class MinimumNorm(Protocol):
    """An attack that finds, in one search, the smallest budget of every example."""

    def smallest(self, predict: Predict, x: Tensor, y: Tensor, noise: Noise | int) -> Smallest:
        """The smallest perturbation of clean x (N, C, H, W) in [0,1] with labels y (N,)."""


def judged(predict: Predict, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Whether the network is wrong (N,), and the margin (N,)."""
    with torch.no_grad():
        logits = predict(x)
    return predicted(logits) != y, margin(logits, y)


def within_budget(
    predict: Predict, x: Tensor, y: Tensor, found: Smallest, eps: float, order: float
) -> Tensor:
    """Images within eps: the image found if it is within eps, else a step of eps towards it.

    The step is used only if it increases the margin of the wrong class.
    """
    step = within(found.images, x, eps, order)
    with torch.no_grad():
        nearer = margin(predict(step), y) > margin(predict(x), y)
    return where(found.budget <= eps, found.images, where(nearer, step, x))


def likeliest(predict: Predict, x: Tensor, y: Tensor, count: int) -> list[Tensor]:
    """At most `count` wrong classes (N,) of each example, sorted by logit at x, largest first."""
    if not count:
        return []
    with torch.no_grad():
        wrong = predict(x).scatter(1, y[:, None], -torch.inf)
    return list(wrong.topk(min(count, wrong.shape[1] - 1), dim=1).indices.T)


def over(target: Tensor) -> Loss:
    """The logit of class `target` (N,) minus the label's."""

    def gain(logits: Tensor, y: Tensor) -> Tensor:
        pair = logits.gather(1, torch.stack([target, y], 1))
        return pair[:, 0] - pair[:, 1]

    return gain


def smallest_of(several: Sequence[Smallest]) -> Smallest:
    """The nearest image of several searches that fools, per example; the first if none does."""
    images, budget = several[0]
    for found in several[1:]:
        nearer = found.budget < budget
        images = where(nearer, found.images, images)
        budget = torch.where(nearer, found.budget, budget)
    return Smallest(images, budget)


def surely_wrong(logits: Tensor, y: Tensor) -> Tensor:
    """Whether the prediction is wrong by more than rounding can change (N,)."""
    rounding = _ROUNDINGS * torch.finfo(logits.dtype).eps * logits.abs().amax(1)
    return margin(logits, y) > rounding


def closer(
    predict: Predict, x: Tensor, y: Tensor, found: Smallest, order: float, steps: int
) -> Smallest:
    """Move every image found towards x while it still fools, by `steps` bisections of the segment.

    They begin at 15/16 of the segment, because a search ends near the boundary. The image stays so
    far beyond the boundary that it also fools with another batch size or precision, which round
    differently.
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
