"""APGD, Square and AutoAttack (Croce and Hein 2020; Andriushchenko et al. 2020) by pyautoattack.

The library returns robust examples unperturbed, which makes any loss computed from its output
meaningless. Here every example gets its worst iterate: one that fools the network where there is
one, otherwise the iterate of largest loss. The library seeds its generator per call, so these
attacks always work on `chunk` examples at a time: physical batch size changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from pyautoattack import AutoAttack as LibraryAutoAttack
from pyautoattack.autopgd_base import APGDAttack
from pyautoattack.square import SquareAttack
from torch import Tensor

from ridgeline.models.errors import InputError, unknown
from ridgeline.train.attacks.base import Attack, Predict
from ridgeline.train.attacks.norms import INF, project
from ridgeline.train.data.noise import Noise, seeded
from ridgeline.train.losses import predicted

CHUNK = 100


def _norm(order: float) -> str:
    return "Linf" if order == INF else "L2"


def _fooled(predict: Predict, x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return predicted(predict(x)) != y


def _where(mask: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(mask.view(-1, 1, 1, 1), a, b)


def _within(found: Tensor, x: Tensor, eps: float, order: float) -> Tensor:
    """Take the library's rounding (one float32 ulp) out of the ball and the range."""
    return (x + project(found - x, eps, order)).clamp(0, 1)


@dataclass(frozen=True, kw_only=True)
class APGD(Attack):
    """Auto-PGD on the cross-entropy (`ce`) or the difference of logits ratio (`dlr`)."""

    iterations: int = 100
    loss: str = "ce"
    rho: float = 0.75
    restarts: int = 5
    chunk: ClassVar[int] = CHUNK

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loss not in ("ce", "dlr"):
            raise unknown("loss_type of attack apgd", self.loss, ("ce", "dlr"))
        if self.iterations < 1 or self.restarts < 1:
            raise InputError("attack apgd: iter_num and restarts must be at least 1")
        if not 0 < self.rho < 1:
            raise InputError(f"attack apgd: rho must lie between 0 and 1, got {self.rho:g}")

    @property
    def fewest_classes(self) -> int:
        """3 for `dlr`."""
        return 3 if self.loss == "dlr" else 1

    def perturb(self, predict: Predict, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """A misclassified iterate where one was met, else the iterate of largest loss."""
        if self.loss == "dlr":
            self.check_classes(_classes(predict, x))
        attack = APGDAttack(
            predict,
            n_iter=self.iterations,
            norm=_norm(self.order),
            eps=self.eps,
            loss=self.loss,
            rho=self.rho,
            device=x.device,
        )
        attack.init_hyperparam(x)
        worst = x
        fooled = _fooled(predict, x, y)
        best_loss = torch.full_like(x[:, 0, 0, 0], -torch.inf)
        with seeded(noise.batch_seed(), x.device):
            for _ in range(self.restarts):
                best, _, losses, misclassified = attack.attack_single_run(x, y)
                best = _within(best, x, self.eps, self.order)
                misclassified = _within(misclassified, x, self.eps, self.order)
                best_fools = _fooled(predict, best, y)
                any_fools = best_fools | _fooled(predict, misclassified, y)
                candidate = _where(best_fools | ~any_fools, best, misclassified)
                # fooling comes first, loss second
                better = (any_fools & ~fooled) | ((any_fools == fooled) & (losses > best_loss))
                worst = _where(better, candidate, worst)
                best_loss = torch.where(better, losses.to(best_loss.dtype), best_loss)
                fooled |= any_fools & better
        return worst.detach()


@dataclass(frozen=True, kw_only=True)
class Square(Attack):
    """Square attack: random search on the margin with `iterations` queries, no gradients."""

    iterations: int = 5000
    restarts: int = 1
    p_init: float = 0.8
    rescale_schedule: bool = True
    chunk: ClassVar[int] = CHUNK

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.iterations < 1 or self.restarts < 1:
            raise InputError("attack square: iter_num and restarts must be at least 1")
        if not 0 < self.p_init <= 1:
            raise InputError(
                f"attack square: p_init must lie in 0..1, above 0, got {self.p_init:g}"
            )

    def perturb(self, predict: Predict, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """The point of smallest margin among x and all iterates."""
        attack = SquareAttack(
            predict,
            norm=_norm(self.order),
            n_queries=self.iterations,
            eps=self.eps,
            p_init=self.p_init,
            resc_schedule=self.rescale_schedule,
            device=x.device,
        )
        attack.init_hyperparam(x)
        with torch.no_grad(), seeded(noise.batch_seed(), x.device):
            worst, (smallest, _) = x, attack.margin_and_loss(x, y)
            for _ in range(self.restarts):
                _, found = attack.attack_single_run(x, y)
                found = _within(found, x, self.eps, self.order)
                margin, _ = attack.margin_and_loss(found, y)
                worst = _where(margin < smallest, found, worst)
                smallest = torch.minimum(margin, smallest)
        return worst


@dataclass(frozen=True, kw_only=True)
class AutoAttack(Attack):
    """Standard AutoAttack: APGD-CE, targeted APGD and FAB, Square."""

    chunk: ClassVar[int] = CHUNK

    def perturb(self, predict: Predict, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """The library's adversarial example, or APGD-CE's largest loss where it found none."""
        classes = _classes(predict, x)
        attack = LibraryAutoAttack(
            predict,
            norm=_norm(self.order),
            eps=self.eps,
            seed=noise.batch_seed(),
            device=x.device,
        )
        attack.apgd_targeted.n_target_classes = min(9, classes - 1)
        attack.fab.n_target_classes = min(9, classes - 1)
        with seeded(noise.batch_seed(), x.device):
            found, _ = attack.run_standard_evaluation(x, y, batch_size=len(x))
        found = _within(found, x, self.eps, self.order)
        robust = ~_fooled(predict, found, y)
        # an example wrong from the start comes back clean: give it, too, a worst-case iterate
        unsearched = robust | (found == x).flatten(1).all(1)
        if unsearched.any():
            apgd = APGD(eps=self.eps, order=self.order, restarts=1)
            found[unsearched] = apgd.perturb(predict, x[unsearched], y[unsearched], noise)
        return found


def _classes(predict: Predict, x: Tensor) -> int:
    with torch.no_grad():
        return predict(x[:1]).shape[1]
