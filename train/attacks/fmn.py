"""FMN: the smallest perturbation, by a budget that adapts in each step (Pintor et al. 2021)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ridgeline.models.errors import InputError
from ridgeline.train.attacks.base import Attack, Predict, check_range
from ridgeline.train.attacks.minimum_norm import (
    Smallest,
    closer,
    likeliest,
    over,
    smallest_of,
    surely_wrong,
    within_budget,
)
from ridgeline.train.attacks.norms import INF, row_norm, steepest, where, within
from ridgeline.train.data.noise import Noise
from ridgeline.train.losses import Loss, margin, predicted
from ridgeline.train.precision import exact

_LAST_GAMMA, _LAST_STRIDE = 0.001, 0.01  # as in the authors' code; stride relative to the first


@dataclass(frozen=True, kw_only=True)
class FMN(Attack):
    """Fast minimum-norm attack (Pintor et al. 2021, algorithm 1), l_inf or l_2, from x.

    The search ascends the margin with l_2 steps of length `stride`, within a ball:

    - Until the first success its radius is the distance to the linearised boundary plus 0.1 %
      (exactly on the boundary nothing is fooled). Unlike the published radius, it grows by at
      least `gamma`.
    - After that it shrinks by `gamma` when the iterate fools, and grows by `gamma` otherwise.

    `stride` and `gamma` decrease along a cosine. At the end come `refinements` bisections between x
    and the result. The search is not random and does not depend on `eps`, which is only the budget
    of the accuracy.

    `targets` 0 ascends the margin of the best wrong class, as published. It may end at a boundary
    that is not the nearest. `targets` above 0 ascends the margin of so many of the likeliest wrong
    classes, one after another. The cost grows by that factor.
    """

    iterations: int = 100
    stride: float = 1.0
    gamma: float = 0.05
    refinements: int = 10
    targets: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.iterations < 1 or self.refinements < 0 or self.targets < 0:
            raise InputError(
                "attack fmn: iter_num must be at least 1, refinements and targets 0, got "
                f"{self.iterations}, {self.refinements} and {self.targets}"
            )
        if not self.stride > 0 or not 0 < self.gamma < 1:
            raise InputError(
                "attack fmn: stride must be positive and gamma lie between 0 and 1, got "
                f"{self.stride:g} and {self.gamma:g}"
            )

    def perturb(self, predict: Predict, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """The smallest perturbation if it is within eps, else a step of length eps towards it."""
        found = self.smallest(predict, x, y, noise)
        return within_budget(predict, x, y, found, self.eps, self.order)

    def smallest(self, predict: Predict, x: Tensor, y: Tensor, noise: Noise | int = 0) -> Smallest:
        """The smallest perturbation found for every example, and its norm.

        Raises InputError for pixels outside [0,1].
        """
        del noise  # accepted, but without effect
        check_range(x)
        x = x.detach()
        with exact():
            gains = [over(target) for target in likeliest(predict, x, y, self.targets)]
            found = smallest_of([self._search(predict, x, y, gain) for gain in gains or [margin]])
            return closer(predict, x, y, found, self.order, self.refinements)

    def _search(self, predict: Predict, x: Tensor, y: Tensor, gain: Loss) -> Smallest:
        dual = 1 if self.order == INF else 2
        furthest = row_norm(torch.maximum(x, 1 - x), self.order)
        z, best, leading = x, x, x
        budget = torch.full_like(furthest, torch.inf)
        radius, highest = budget.clone(), -budget
        for number in range(self.iterations):
            share = (1 + math.cos(math.pi * number / self.iterations)) / 2
            gamma = _LAST_GAMMA + (self.gamma - _LAST_GAMMA) * share
            stride = self.stride * (_LAST_STRIDE + (1 - _LAST_STRIDE) * share)
            z = z.detach().requires_grad_()
            with torch.enable_grad():
                logits = predict(z)
                margins = gain(logits, y)
            (gradient,) = torch.autograd.grad(margins.sum(), z)
            z, margins = z.detach(), margins.detach()
            logits, norm = logits.detach(), row_norm(z - x, self.order)
            wrong = (predicted(logits) != y) & (norm == 0)  # wrong on the clean image
            fools = wrong | surely_wrong(logits, y)
            better = fools & (norm <= budget)
            best, budget = where(better, z, best), torch.where(better, norm, budget)
            higher = margins > highest
            leading, highest = where(higher, z, leading), torch.where(higher, margins, highest)
            tangent = (norm + margins.abs() / row_norm(gradient, dual)) * (1 + _LAST_GAMMA)
            wider = radius * (1 + gamma)
            # never smaller than before: a tangent at a kink could stop the iterate too early
            first = torch.where(radius.isfinite(), torch.maximum(tangent, wider), tangent)
            growing = torch.where(budget.isfinite(), wider, first)
            shrinking = torch.minimum(radius * (1 - gamma), budget)
            radius = torch.where(fools, shrinking, growing).nan_to_num(torch.inf)
            radius = torch.minimum(radius, furthest)
            stepped = z + stride * steepest(gradient, 2.0)
            z = within(stepped, x, radius, self.order)
        return Smallest(where(budget.isfinite(), best, leading), budget)
