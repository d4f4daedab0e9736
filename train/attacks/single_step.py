"""Attacks of one gradient: FGSM, R+FGSM and N-FGSM."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from ridgeline.models.errors import InputError
from ridgeline.train.attacks.base import (
    Attack,
    Predict,
    check_passes,
    check_step,
    scaled,
    shown,
)
from ridgeline.train.attacks.norms import INF, random_start, steepest
from ridgeline.train.attacks.pgd import ascend
from ridgeline.train.data.noise import CHUNK, Noise, seeded
from ridgeline.train.losses import cross_entropy


@dataclass(frozen=True, kw_only=True)
class FGSM(Attack):
    """One step of steepest ascent (Goodfellow et al. 2015), from x or a random start.

    `step_size` defaults to eps; with `random_start` use 1.25 eps as Wong et al. 2020. The result
    is the end of the step, even if the loss is lower there. Training with this attack can collapse
    (catastrophic overfitting). `eot`: the gradient is the mean over so many passes (as in PGD).

    >>> predict = lambda x: torch.stack([x.sum((1, 2, 3)), -x.sum((1, 2, 3))], 1)  # 0: light
    >>> grey = torch.full((1, 1, 1, 2), 0.5)
    >>> FGSM(eps=0.25, order=INF)(predict, grey, torch.tensor([0])).tolist()
    [[[[0.25, 0.25]]]]
    """

    step_size: float | None = None
    random_start: bool = False
    eot: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_step(self.step_size)
        check_passes(self.eot)

    def __repr__(self) -> str:
        return shown(self, ("eot",))

    @property
    def chunk(self) -> int | None:
        """None (any number of examples), unless the network draws random numbers per batch."""
        return CHUNK if self.eot > 1 else None

    def at(self, eps: float) -> FGSM:
        """The same attack with another budget and the step scaled by the same factor."""
        return scaled(self, eps)

    def perturb(self, predict: Predict, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """The end of the single step."""
        start = random_start(x, self.eps, self.order, noise, 0) if self.random_start else x
        with seeded(noise.batch_seed(), x.device) if self.eot > 1 else nullcontext():
            end, _ = ascend(
                predict,
                x,
                y,
                start,
                eps=self.eps,
                step_size=self.eps if self.step_size is None else self.step_size,
                iterations=1,
                order=self.order,
                keep_best=False,
                passes=self.eot,
            )
        return end


@dataclass(frozen=True, kw_only=True)
class RFGSM(Attack):
    """R+FGSM (Tramer et al. 2018, section 4.1): a random step, then FGSM with the rest of eps.

    x' = x + a sign(N(0, I)), then x' + (eps - a) sign(gradient at x'). For l_2 the steps have
    these l_2 lengths. Both results are clipped to [0,1]. The random step a is `random_share` of
    eps (one half in the paper). So `at(eps)` keeps the ratio.
    """

    random_share: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.random_share <= 1:
            raise InputError(
                f"attack rfgsm: random_share must lie in 0..1, got {self.random_share:g}"
            )

    def perturb(self, predict: Predict, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """The end of the second step."""
        first = self.random_share * self.eps
        start = (x + first * steepest(noise.normal(x), self.order)).clamp(0, 1)
        unit = steepest(_gradient(predict, start, y), self.order)
        return (start + (self.eps - first) * unit).clamp(0, 1)


@dataclass(frozen=True, kw_only=True)
class NFGSM(Attack):
    """N-FGSM (de Jorge et al. 2022): strong noise, then one step, without clipping to the ball.

    x' = x + U(-k eps, k eps), then x' + step sign(gradient at x'), clipped only to [0,1]. The step
    is `step_size`, by default eps. It is for training without catastrophic overfitting. The
    perturbation is up to k eps + step, so it does not measure the accuracy at eps. l_inf only.
    """

    k: float = 2.0
    step_size: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_step(self.step_size)
        if self.order != INF:
            raise InputError("attack nfgsm is defined for order=-1 (l_inf) only")
        if not self.k >= 0:
            raise InputError(f"attack nfgsm: k must not be negative, got {self.k:g}")

    def at(self, eps: float) -> NFGSM:
        """The same attack with another budget and the step scaled by the same factor."""
        return scaled(self, eps)

    @property
    def step(self) -> float:
        """The step that is used, in [0,1] units."""
        return self.eps if self.step_size is None else self.step_size

    @property
    def reach(self) -> float:
        """The largest perturbation: noise plus step."""
        return self.k * self.eps + self.step

    def perturb(self, predict: Predict, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """The end of the step."""
        start = (x + self.k * self.eps * noise.uniform(x)).clamp(0, 1)
        return (start + self.step * _gradient(predict, start, y).sign()).clamp(0, 1)


def _gradient(predict: Predict, x: Tensor, y: Tensor) -> Tensor:
    """The gradient of every example's cross-entropy with respect to its image."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        losses = cross_entropy(predict(x), y)
    return torch.autograd.grad(losses.sum(), x)[0]
