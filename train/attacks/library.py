"""APGD and Square (Croce and Hein 2020; Andriushchenko et al. 2020) by pyautoattack.

The library returns robust examples unperturbed, so a loss computed from its output has no meaning.
Here every example gets its worst iterate: one that fools the network if there is one, else the
iterate of largest loss. The library seeds its generator at each call. So these attacks always work
on `chunk` examples at a time, and the batch size does not change results.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from pyautoattack.square import SquareAttack
from torch import Tensor

from ridgeline.models.errors import InputError, unknown
from ridgeline.train.attacks.base import Attack, Predict, check_passes, shown
from ridgeline.train.attacks.minimum_norm import judged, likeliest
from ridgeline.train.attacks.norms import INF, where, within
from ridgeline.train.data.noise import CHUNK, Noise, seeded


def norm_name(order: float) -> str:
    """The library's name of a norm."""
    return "Linf" if order == INF else "L2"


def classes_of(predict: Predict, x: Tensor) -> int:
    """The number of a network's classes."""
    with torch.no_grad():
        return predict(x[:1]).shape[1]


@dataclass(frozen=True, kw_only=True)
class APGD(Attack):
    """Auto-PGD on the cross-entropy (`ce`) or the difference of logits ratio (`dlr`).

    `eot`: every gradient is the mean over so many passes, for networks that draw random numbers.
    """

    iterations: int = 100
    loss: str = "ce"
    rho: float = 0.75
    restarts: int = 5
    eot: int = 1
    chunk: ClassVar[int] = CHUNK

    def __post_init__(self) -> None:
        super().__post_init__()
        check_passes(self.eot)
        if self.loss not in ("ce", "dlr"):
            raise unknown("loss_type of attack apgd", self.loss, ("ce", "dlr"))
        if self.iterations < 1 or self.restarts < 1:
            raise InputError("attack apgd: iter_num and restarts must be at least 1")
        if not 0 < self.rho < 1:
            raise InputError(f"attack apgd: rho must lie between 0 and 1, got {self.rho:g}")

    def __repr__(self) -> str:
        return shown(self, ("eot",))

    @property
    def fewest_classes(self) -> int:
        """3 for `dlr`."""
        return 3 if self.loss == "dlr" else 1

    def perturb(self, predict: Predict, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """A misclassified iterate if there was one, else the iterate of largest loss."""
        if self.loss == "dlr":
            self.check_classes(classes_of(predict, x))
        attack = APGDAttack(
            predict,
            n_iter=self.iterations,
            norm=norm_name(self.order),
            eps=self.eps,
            loss=self.loss,
            rho=self.rho,
            eot_iter=self.eot,
            device=x.device,
        )
        attack.init_hyperparam(x)
        worst = x
        fooled = judged(predict, x, y)[0]
        best_loss = torch.full_like(x[:, 0, 0, 0], -torch.inf)
        with seeded(noise.batch_seed(), x.device):
            for _ in range(self.restarts):
                best, _, losses, misclassified = attack.attack_single_run(x, y)
                best = within(best, x, self.eps, self.order)
                misclassified = within(misclassified, x, self.eps, self.order)
                best_fools = judged(predict, best, y)[0]
                any_fools = best_fools | judged(predict, misclassified, y)[0]
                candidate = where(best_fools | ~any_fools, best, misclassified)
                # an iterate that fools is preferred; among equals the larger loss counts
                better = (any_fools & ~fooled) | ((any_fools == fooled) & (losses > best_loss))
                worst = where(better, candidate, worst)
                best_loss = torch.where(better, losses.to(best_loss.dtype), best_loss)
                fooled |= any_fools & better
        return worst.detach()


@dataclass(frozen=True, kw_only=True)
class APGDTargeted(Attack):
    """Auto-PGD on the targeted DLR loss, towards the `targets` likeliest wrong classes in turn.

    It needs 4 or more classes. `targets` above the number of wrong classes means all of them. An
    example that is fooled is not attacked further.
    """

    iterations: int = 100
    rho: float = 0.75
    restarts: int = 1
    targets: int = 9
    chunk: ClassVar[int] = CHUNK

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.iterations, self.restarts, self.targets) < 1:
            raise InputError(
                "attack apgd_t: iter_num, restarts and targets must be at least 1, got "
                f"{self.iterations}, {self.restarts} and {self.targets}"
            )
        if not 0 < self.rho < 1:
            raise InputError(f"attack apgd_t: rho must lie between 0 and 1, got {self.rho:g}")

    @property
    def fewest_classes(self) -> int:
        """4: the loss compares the third and fourth logit."""
        return 4

    def perturb(self, predict: Predict, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """The point of largest margin among x and the results for all targets."""
        self.check_classes(classes_of(predict, x))
        attack = APGDAttack_targeted(
            predict,
            n_iter=self.iterations,
            norm=norm_name(self.order),
            eps=self.eps,
            rho=self.rho,
            device=x.device,
        )
        attack.init_hyperparam(x)
        worst, (_, reached) = x.clone(), judged(predict, x, y)
        classes = likeliest(predict, x, y, self.targets)
        with seeded(noise.batch_seed(), x.device):
            for target in (target for target in classes for _ in range(self.restarts)):
                left = (~judged(predict, worst, y)[0]).nonzero().flatten()
                if not len(left):
                    break
                clean, label = x[left], y[left]
                attack.y_target = target[left]
                best, _, _, misclassified = attack.attack_single_run(clean, label)
                for found in (best, misclassified):
                    found = within(found, clean, self.eps, self.order)
                    _, now = judged(predict, found, label)
                    worst[left] = where(now > reached[left], found, worst[left])
                    reached[left] = torch.maximum(now, reached[left])
        return worst


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
            norm=norm_name(self.order),
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
                found = within(found, x, self.eps, self.order)
                reached, _ = attack.margin_and_loss(found, y)
                worst = where(reached < smallest, found, worst)
                smallest = torch.minimum(reached, smallest)
        return worst
