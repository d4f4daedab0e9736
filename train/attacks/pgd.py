"""Projected gradient descent on several losses, untargeted or targeted."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from ridgeline.models.errors import InputError, unknown
from ridgeline.train.attacks.base import (
    Attack,
    Predict,
    check_passes,
    check_step,
    scaled,
    shown,
)
from ridgeline.train.attacks.norms import project, random_start, steepest, where, within
from ridgeline.train.attacks.targets import TARGETS, target_of, towards
from ridgeline.train.data.noise import CHUNK, Noise, seeded
from ridgeline.train.losses import Loss, cross_entropy, divergence, dlr, margin

#: spec word -> loss of one example; None: the divergence from the clean prediction
_LOSSES: dict[str, Loss | None] = {"ce": cross_entropy, "cw": margin, "dlr": dlr, "kl": None}
_LATER = ("loss", "targeted", "eot")  # fields that the first recipes did not have


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
    passes: int = 1,
) -> tuple[Tensor, Tensor]:
    """Steepest ascent of the loss from `start` within the ball around x and [0,1].

    Returns images (N, C, H, W) and their losses (N,): the iterate of largest loss per example.
    Without `keep_best` it is the last iterate, with the largest loss of the iterates before it.
    Gradients are those of the *sum* over examples, so an example's result does not depend on its
    batch. For a network that draws random numbers the loss is the mean over `passes` passes.
    """
    adversarial, best, best_loss = start, start, torch.full_like(x[:, 0, 0, 0], -torch.inf)
    for _ in range(iterations):
        adversarial = adversarial.detach().requires_grad_()
        with torch.enable_grad():
            losses = _expected(loss, predict, adversarial, y, passes)
        (gradient,) = torch.autograd.grad(losses.sum(), adversarial)
        adversarial = adversarial.detach()
        better = losses.detach() > best_loss
        best = where(better, adversarial, best)
        best_loss = torch.where(better, losses.detach(), best_loss)
        stepped = adversarial + step_size * steepest(gradient, order)
        adversarial = within(stepped, x, eps, order)
    if not keep_best:
        return adversarial, best_loss
    with torch.no_grad():
        losses = _expected(loss, predict, adversarial, y, passes)
    better = losses > best_loss
    best = where(better, adversarial, best)
    return best, torch.where(better, losses, best_loss)


def _expected(loss: Loss, predict: Predict, x: Tensor, y: Tensor, passes: int) -> Tensor:
    """The loss (N,) as a mean over several passes, each with new random numbers of the network."""
    losses = loss(predict(x), y)
    for _ in range(passes - 1):
        losses = losses + loss(predict(x), y)
    return losses if passes == 1 else losses / passes


@dataclass(frozen=True, kw_only=True)
class PGD(Attack):
    """Projected gradient descent (Madry et al. 2018) with restarts and the best-loss iterate.

    Every restart begins at a uniform point of the ball (`random_start`) or at x. `step_size`
    defaults to 2.5 eps / iterations. `at(eps)` keeps the ratio of step and budget.

    `loss` is the loss that it maximises:

    - `ce`: the cross-entropy.
    - `cw`: the margin of the best wrong class (the "C&W" columns of robustness tables: Carlini and
      Wagner 2017 by PGD).
    - `dlr`: the difference of logits ratio (Croce and Hein 2020; 3 or more classes).
    - `kl`: the divergence KL(p(x) || p(x')) from the clean prediction, without the label (Zhang et
      al. 2019, algorithm 1). Its gradient is zero at x, so its random start is x + 0.001 N(0, I).

    `targeted` attacks towards one wrong class per example (`targets.target_of`): that of `least`
    logit at x, the `next` likely, or a `random` one. Then `ce` is minus the cross-entropy of that
    class, `cw` minus its margin, `dlr` the targeted ratio (4 or more classes).

    `eot` above 1 is for networks that draw random numbers when they predict. Losses and gradients
    are then means over `eot` passes (expectation over transformation, Athalye et al. 2018). The
    network's random numbers depend on seed and batch, so batches then have a fixed size.

    >>> predict = lambda x: torch.stack([x.sum((1, 2, 3)), -x.sum((1, 2, 3))], 1)  # 0: light
    >>> grey = torch.full((1, 1, 1, 2), 0.5)
    >>> PGD(eps=0.25, order=-1, iterations=5)(predict, grey, torch.tensor([0])).tolist()
    [[[[0.25, 0.25]]]]
    """

    iterations: int
    step_size: float | None = None
    restarts: int = 1
    random_start: bool = True
    keep_best: bool = True
    loss: str = "ce"
    targeted: str | None = None
    eot: int = 1

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
        if self.targeted is not None:
            if self.targeted not in TARGETS:
                raise unknown("targeted of attack pgd", self.targeted, TARGETS)
            if self.loss == "kl":
                raise InputError("attack pgd: loss_type=kl has no target class; "
                                 "targeted takes loss_type=ce, cw or dlr")  # fmt: skip
        check_step(self.step_size)
        check_passes(self.eot)
        if self.eot > 1 and self.loss == "kl":
            raise InputError("attack pgd: loss_type=kl compares with one clean prediction; with "
                             "eot use loss_type=ce, cw or dlr")  # fmt: skip

    def __repr__(self) -> str:
        return shown(self, _LATER)

    @property
    def chunk(self) -> int | None:
        """None (any number of examples), unless the network draws random numbers per batch."""
        return CHUNK if self.eot > 1 else None

    @property
    def step(self) -> float:
        """The step that is used, in [0,1] units."""
        return 2.5 * self.eps / self.iterations if self.step_size is None else self.step_size

    def at(self, eps: float) -> PGD:
        """The same attack with another budget and the step scaled by the same factor."""
        return scaled(self, eps)

    @property
    def fewest_classes(self) -> int:
        """The classes that the loss needs: 3 for `dlr`, 4 for its targeted form."""
        if self.loss == "dlr":
            return 3 if self.targeted is None else 4
        return 1 if self.targeted is None else 2

    def perturb(self, predict: Predict, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """The best of all restarts, per example."""
        with seeded(noise.batch_seed(), x.device) if self.eot > 1 else nullcontext():
            return self._search(predict, x, y, noise)

    def _search(self, predict: Predict, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        if self.targeted is None:
            loss = _LOSSES[self.loss] or _away_from(predict, x)
        else:
            loss = towards(target_of(self.targeted, predict, x, y, noise), self.loss)
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
                passes=self.eot,
            )
            better = losses > best_loss
            best = where(better, found, best)
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

    Raises InputError for other attacks, and for a PGD with another loss.
    """
    if not isinstance(attack, PGD):
        raise InputError("TRADES needs name=pgd (its budget, step_size and iter_num) to train")
    if attack.loss in ("cw", "dlr") or attack.targeted is not None:
        raise InputError("TRADES ascends the divergence from the clean prediction: "
                         "leave loss_type out of the attack that trains, and targeted")  # fmt: skip
    return PGD(eps=attack.eps, order=attack.order, iterations=attack.iterations,
               step_size=attack.step_size, loss="kl", keep_best=False)  # fmt: skip


def _away_from(predict: Predict, x: Tensor) -> Loss:
    """The divergence from the prediction at x; it does not use the label."""
    with torch.no_grad():
        clean = predict(x)
    return lambda logits, _: divergence(clean, logits)
