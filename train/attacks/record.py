"""A trace of an attack: its progress, its passes, and whether any image it tried fools."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ridgeline.train.attacks.norms import row_norm, where
from ridgeline.train.losses import cross_entropy, predicted

_ROUNDING = 1e-6  # relative, of a norm: points on the surface of the ball belong to it


class Trace:
    """Records the progress of an attack: `attack(predict, x, y, noise, record=Trace())`.

    It observes the calls of the network, so it works for every attack, also those of libraries. It
    changes no number. `forward` and `backward` count examples. `course` has a row per pass over the
    whole batch; passes over a part of the batch are only counted. One Trace is for one batch.
    """

    def __init__(self):
        self.forward = self.backward = 0
        #: (N,): did an image within the ball fool the network?
        self.success: Tensor | None = None
        #: (N, C, H, W): the first such image, or x if there was none
        self.adversarial: Tensor | None = None
        self._rows: list[list[float]] = []

    @property
    def course(self) -> Tensor:
        """(passes, 4) float64: sums over the batch of cross-entropy, fooled, gradient norm; N.

        `fooled` counts the examples fooled so far. The gradient norm is the l_2 norm, per example,
        of the gradient that the attack uses; NaN for a pass without a gradient.
        """
        return torch.tensor(self._rows, dtype=torch.float64).view(-1, 4)

    def watch(self, predict: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, eps: float,
              order: float) -> Callable[[Tensor], Tensor]:  # fmt: skip
        """The same function with recording. Only images within `eps` of x count as fooling."""
        self.success, self.adversarial = torch.zeros_like(y, dtype=torch.bool), x

        def watched(z: Tensor) -> Tensor:
            whole = len(z) == len(y)
            row = [torch.nan] * 4
            if torch.is_grad_enabled() and z.requires_grad:
                z = z.view_as(z)
                z.register_hook(lambda gradient: self._passed_back(gradient, row))
            logits = predict(z)
            self.forward += len(z)
            if whole:
                self._note(z.detach(), logits.detach(), x, y, eps, order, row)
            return logits

        return watched

    def _passed_back(self, gradient: Tensor, row: list[float]) -> None:
        self.backward += len(gradient)
        row[2] = row_norm(gradient, 2).double().sum().item()

    def _note(self, z: Tensor, logits: Tensor, x: Tensor, y: Tensor, eps: float, order: float,
              row: list[float]) -> None:  # fmt: skip
        inside = row_norm(z - x, order) <= eps * (1 + _ROUNDING) + _ROUNDING**2
        inside &= ((z >= 0) & (z <= 1)).flatten(1).all(1)
        new = inside & (predicted(logits) != y) & ~self.success
        self.adversarial = where(new, z, self.adversarial)
        self.success = self.success | new
        row[0] = cross_entropy(logits.double(), y).sum().item()
        row[1], row[3] = self.success.sum().item(), len(y)
        self._rows.append(row)


@dataclass(frozen=True)
class Outcome:
    """The three different results of an attack.

    - `success` (N,): whether any image within the ball fools, x itself included.
    - `worst`: the iterate of largest loss, for losses and landscapes. It may be classified
      correctly although another iterate was not.
    - `adversarial`: an image that fools, or the clean x if the network is robust. Do not compute
      losses from it.
    """

    success: Tensor
    worst: Tensor
    adversarial: Tensor


def outcome(
    attack: Callable[..., Tensor], predict: Callable[[Tensor], Tensor], x: Tensor, y: Tensor,
    noise: object = 0, record: Trace | None = None,
) -> Outcome:  # fmt: skip
    """The three results of an attack on a batch. It needs two passes more than the attack."""
    trace = Trace() if record is None else record
    worst = attack(predict, x, y, noise, record=trace)
    with torch.no_grad():
        at_x, at_worst = (predicted(predict(z)) != y for z in (x, worst))
    met = at_worst if trace.success is None else trace.success | at_worst
    found = worst if trace.success is None else where(trace.success, trace.adversarial, worst)
    return Outcome(met | at_x, worst, where(met & ~at_x, found, x))
