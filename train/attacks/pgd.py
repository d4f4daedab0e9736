"""Projected gradient descent and the fast gradient sign method."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from ridgeline.models.errors import InputError, unknown
from ridgeline.train.attacks.base import Attack, Predict
from ridgeline.train.attacks.norms import project, random_start, steepest
from ridgeline.train.data.noise import Noise
from ridgeline.train.losses import Loss, cross_entropy, divergence, margin

#: spec word -> loss of one example; None: the divergence from the clean prediction
_LOSSES: dict[str, Loss | None] = {"ce": cross_entropy, "cw": margin, "kl": None}


def ascend(
    predict: Predict,
    x: Tensor,
    y: Tensor,
    start: Tensor,
    *,
    eps: float,
    step_size: float,
    iterations: int,
    order: float,
    keep_best: bool,
    loss: Loss = cross_entropy,
) -> tuple[Tensor, Tensor]:
    """Steepest ascent of the loss from `start` within the ball around x and [0,1].

    Returns images (N, C, H, W) and their losses (N,): the iterate of largest loss per example, or
    the last one (with the largest loss before it) without `keep_best`. Only input gradients are
    taken, of the *sum* over examples, so its result does not depend on its batch.
    """
    adversarial, best, best_loss = start, start, torch.full_like(x[:, 0, 0, 0], -torch.inf)
    for _ in range(iterations):
        adversarial = adversarial.detach().requires_grad_()
        with torch.enable_grad():
            losses = loss(predict(adversarial), y)
        (gradient,) = torch.autograd.grad(losses.sum(), adversarial)
        adversarial = adversarial.detach()
        better = losses.detach() > best_loss
        best = torch.where(better.view(-1, 1, 1, 1), adversarial, best)
        best_loss = torch.where(better, losses.detach(), best_loss)
        stepped = adversarial + step_size * steepest(gradient, order)
        adversarial = (x + project(stepped - x, eps, order)).clamp(0, 1)
    if not keep_best:
        return adversarial, best_loss
    with torch.no_grad():
        losses = loss(predict(adversarial), y)
    better = losses > best_loss
    best = torch.where(better.view(-1, 1, 1, 1), adversarial, best)
    return best, torch.where(better, losses, best_loss)


@dataclass(frozen=True, kw_only=True)
class PGD(Attack):
    """Projected gradient descent (Madry et al. 2018) with restarts and the best-loss iterate.

    Every restart begins uniformly in the whole ball (`random_start`) or at x. `step_size` defaults
    to 2.5 eps / iterations; `at(eps)` keeps the ratio of step and budget.

    `loss` is what it ascends: `ce`, the cross-entropy; `cw`, the margin of the best wrong class
    (the "C&W" columns of robustness tables: Carlini and Wagner 2017 by PGD); `kl`, the divergence
    KL(p(x) || p(x')) from the clean prediction, whatever the label (Zhang et al. 2019, algorithm
    1). The gradient of `kl` is zero at x: its random start is x + 0.001 N(0, I).
    """

    iterations: int
    step_size: float | None = None
    restarts: int = 1
    random_start: bool = True
    keep_best: bool = True
    loss: str = "ce"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loss not in _LOSSES:
            raise unknown("loss_type of attack pgd", self.loss, _LOSSES)
        if self.iterations < 1 or self.restarts < 1:
            raise InputError(
                f"attack pgd: iter_num and restarts must be at least 1, "
                f"got {self.iterations} and {self.restarts}"
            )
        if self.loss == "kl" and not self.random_start:
            raise InputError(
                "attack pgd: loss_type=kl has no gradient at the clean image; "
                "it needs random_start=True"
            )
        _check_step(self)

    def __repr__(self) -> str:
        """As a dataclass; the loss only where it is not `ce`: recipes record this text."""
        shown = (f for f in fields(self) if f.repr and (f.name != "loss" or self.loss != "ce"))
        return f"PGD({', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in shown)})"

    @property
    def step(self) -> float:
        """The step in force, in [0,1] units."""
        return 2.5 * self.eps / self.iterations if self.step_size is None else self.step_size

    def at(self, eps: float) -> PGD:
        """The same attack with another budget and the step scaled along."""
        return _scaled(self, eps)

    def perturb(self, predict: Predict, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """The best of all restarts, per example."""
        loss = _LOSSES[self.loss] or _away_from(predict, x)
        best, best_loss = x, torch.full_like(x[:, 0, 0, 0], -torch.inf)
        for restart in range(self.restarts):
            found, losses = ascend(
                predict,
                x,
                y,
                self._start(x, noise, restart),
                eps=self.eps,
                step_size=self.step,
                iterations=self.iterations,
                order=self.order,
                keep_best=self.keep_best or self.restarts > 1,
                loss=loss,
            )
            better = losses > best_loss
            best = torch.where(better.view(-1, 1, 1, 1), found, best)
            best_loss = torch.where(better, losses, best_loss)
        return best

    def _start(self, x: Tensor, noise: Noise, restart: int) -> Tensor:
        if not self.random_start:
            return x
        if self.loss == "kl":
            small = project(1e-3 * noise.normal(x, restart), self.eps, self.order)
            return (x + small).clamp(0, 1)
        return random_start(x, self.eps, self.order, noise, restart)


def away_from_clean(attack: Attack) -> PGD:
    """The inner attack of TRADES: the last iterate of `loss` "kl", with a PGD's budget and steps.

    Raises InputError for other attacks, and for a PGD that names a loss of its own.
    """
    if not isinstance(attack, PGD):
        raise InputError("TRADES needs name=pgd (its budget, step_size and iter_num) to train")
    if attack.loss == "cw":
        raise InputError("TRADES ascends the divergence from the clean prediction: "
                         "leave loss_type out of the attack that trains")  # fmt: skip
    return PGD(eps=attack.eps, order=attack.order, iterations=attack.iterations,
               step_size=attack.step_size, loss="kl", keep_best=False)  # fmt: skip


def _away_from(predict: Predict, x: Tensor) -> Loss:
    """The divergence from the prediction at x, whatever the label."""
    with torch.no_grad():
        clean = predict(x)
    return lambda logits, _: divergence(clean, logits)


@dataclass(frozen=True, kw_only=True)
class FGSM(Attack):
    """One step of steepest ascent (Goodfellow et al. 2015), from x or a random start.

    `step_size` defaults to eps; with `random_start` use 1.25 eps as Wong et al. 2020. The result
    is the end of the step even where the loss fell: that is the attack whose training collapses.
    """

    step_size: float | None = None
    random_start: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_step(self)

    def at(self, eps: float) -> FGSM:
        """The same attack with another budget and the step scaled along."""
        return _scaled(self, eps)

    def perturb(self, predict: Predict, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """The end of the single step."""
        start = random_start(x, self.eps, self.order, noise, 0) if self.random_start else x
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
        )
        return end


def _check_step(attack: PGD | FGSM) -> None:
    if attack.step_size is not None and not attack.step_size > 0:
        raise InputError(f"attack step_size must be positive, got {attack.step_size:g}")


def _scaled(attack: PGD | FGSM, eps: float) -> PGD | FGSM:
    """The attack at another budget, its step in the same ratio to the budget."""
    if attack.step_size is None:
        return replace(attack, eps=eps)
    if attack.eps == 0:
        raise InputError(
            "attack threshold=0 gives no ratio to scale step_size by; "
            "name the target threshold, or leave step_size out"
        )
    return replace(attack, eps=eps, step_size=attack.step_size * (eps / attack.eps) or None)
