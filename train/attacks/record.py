"""What a search did: its course, its passes, and whether anything it met fools the network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ridgeline.train.attacks.norms import row_norm, where
from ridgeline.train.losses import cross_entropy, predicted

_ROUNDING = 1e-6  # of a norm: a point on the ball is in it


class Trace:
    """Looks over an attack's shoulder: `attack(predict, x, y, noise, record=Trace())`.

    It watches the passes, so it serves every attack, those of libraries too, and changes no number.
    `forward` and `backward` count examples passed. The course has a row per pass over the whole
    batch; passes over a part of it are counted only. One Trace is for one batch.
    """

    def __init__(self):
        self.forward = self.backward = 0
        #: (N,): did an image within the ball fool the network?
        self.success: Tensor | None = None
        #: (N, C, H, W): the first such image, x where there was none
        self.adversarial: Tensor | None = None
        self._rows: list[list[float]] = []

    @property
    def course(self) -> Tensor:
        """(passes, 4) float64: sums over the batch of cross-entropy, fooled, gradient norm; N.

        `fooled` counts the examples that were fooled so far. The gradient is the l_2 norm per
        example of what the attack ascends, NaN for a pass without one.
        """
        return torch.tensor(self._rows, dtype=torch.float64).view(-1, 4)

    def watch(self, predict: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, eps: float,
              order: float) -> Callable[[Tensor], Tensor]:  # fmt: skip
        """The same function, watched: what fools counts within `eps` of the clean x only."""
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
    """The three things that an attack can be asked for; they differ, and none stands for another.

    `success` (N,): did any image within the ball fool, x itself included? `worst`: the iterate of
    largest loss of the attack, for losses and landscapes; it may be classified correctly where
    another iterate was not. `adversarial`: an image that fools, the clean x where the network is
    robust; losses computed from it mean nothing.
    """

    success: Tensor
    worst: Tensor
    adversarial: Tensor


def outcome(
    attack: Callable[..., Tensor], predict: Callable[[Tensor], Tensor], x: Tensor, y: Tensor,
    noise: object = 0, record: Trace | None = None,
) -> Outcome:  # fmt: skip
    """What an attack comes to on a batch, kept apart. Two more passes than the attack itself."""
    trace = Trace() if record is None else record
    worst = attack(predict, x, y, noise, record=trace)
    with torch.no_grad():
        at_x, at_worst = (predicted(predict(z)) != y for z in (x, worst))
    met = at_worst if trace.success is None else trace.success | at_worst
    found = worst if trace.success is None else where(trace.success, trace.adversarial, worst)
    return Outcome(met | at_x, worst, where(met & ~at_x, found, x))
