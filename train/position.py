"""The position of a training run: sums over the epoch, check for NaN, state on disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ridgeline.train.files.run_files import RunFiles
from ridgeline.train.finite import finiteness
from ridgeline.train.methods.base import Method

#: steps between two checks on an accelerator; it does not have to wait between them
_ASK_EVERY = 50
#: seconds of a step beyond which waiting for the accelerator at every step costs nothing
_SLOW = 0.1


class Position:
    """The position in the current epoch: finished examples and sums over them, on the device.

    Reading `loss`, `accuracy` or `stored` waits for the device. Adding does not.
    """

    def __init__(self, epoch: int = 0, *, metrics: list[dict] | None = None):
        self.epoch, self.metrics = epoch, metrics if metrics is not None else []
        self.done = 0
        self._loss_sum: Tensor | float = 0.0
        self._correct: Tensor | float = 0

    def add(self, loss: Tensor, correct: Tensor, count: int) -> None:
        """Add the mean loss () and the number of hits () of `count` examples."""
        self._loss_sum = loss.detach().double() * count + self._loss_sum
        self._correct = correct.detach().double() + self._correct
        self.done += count

    def include(self, loss_sum: Tensor, correct: Tensor, count: int) -> None:
        """Add sums () over `count` examples of all processes."""
        self._loss_sum, self._correct = loss_sum + self._loss_sum, correct + self._correct
        self.done += count

    def sums(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Loss and hits so far, () in float64."""
        held = self._loss_sum, self._correct
        return tuple(torch.as_tensor(n, dtype=torch.float64, device=device) for n in held)

    @property
    def loss(self) -> float:
        """Mean loss of the epoch so far."""
        return float(self._loss_sum) / self.done

    @property
    def accuracy(self) -> float:
        """Share of hits so far; NaN if outputs are not logits of classes."""
        return float(self._correct) / self.done

    def stored(self) -> dict[str, Any]:
        """Plain numbers, for the state on disk."""
        return {
            "epoch": self.epoch, "metrics": self.metrics, "done": self.done,
            "correct": float(self._correct), "loss_sum": float(self._loss_sum),
        }  # fmt: skip

    @classmethod
    def restored(cls, stored: dict[str, Any]) -> Position:
        """From `stored()`."""
        found = cls(stored["epoch"], metrics=stored["metrics"])
        found.done = stored["done"]
        found._correct, found._loss_sum = stored["correct"], stored["loss_sum"]
        return found


class Failure(NamedTuple):
    """The first step (counted from 0 over the run) that was not finite, and its loss."""

    number: int
    loss: float


class Guard:
    """Records on the device the first step whose loss or weights were not finite."""

    def __init__(self, tensors: Sequence[Tensor], device: torch.device):
        self.tensors = tensors
        self.every, self._on_host = 1, device.type == "cpu"
        self._passed, self._since = 0, time.monotonic()
        self._number = torch.full((), -1, dtype=torch.int64, device=device)
        self._loss = torch.zeros((), dtype=torch.float64, device=device)

    def note(self, loss: Tensor, number: int) -> None:
        """Check a finished step: its loss () and the weights; `number` is that of the step."""
        broken = ~(loss.isfinite() & finiteness(self.tensors, loss.device))
        first = broken & (self._number < 0)
        self._number = torch.where(first, number, self._number)
        self._loss = torch.where(first, loss.double(), self._loss)

    def due(self) -> bool:
        """Count a finished step; whether it is time to read `failure`."""
        self._passed += 1
        return self._passed >= self.every

    def pace(self, anywhere: Callable[[bool], bool]) -> None:
        """Choose the next time, after `failure` was read: the next step if steps are slow.

        `anywhere` says whether a flag is True in any process, so that all choose the same.
        """
        now = time.monotonic()
        slow = (now - self._since) / self._passed > _SLOW
        if not self._on_host:
            self.every = 1 if anywhere(slow) else _ASK_EVERY
        self._passed, self._since = 0, now

    def failure(self) -> Failure | None:
        """The first step that was not finite, or None. Waits for the device."""
        number = int(self._number)
        return None if number < 0 else Failure(number, float(self._loss))


def save_state(
    files: RunFiles, method: Method, optim: torch.optim.Optimizer, position: Position
) -> None:
    """Write the state for resuming."""
    state = {
        "recipe": files.recipe,
        "position": position.stored(),
        "network": method.network.state_dict(),
        "method": method.state(),
        "optimizer": optim.state_dict(),
        "rng": torch.get_rng_state(),
    }
    if torch.device(method.device).type == "cuda":
        state["cuda_rng"] = torch.cuda.get_rng_state(method.device)
    files.save_state(state)


def restore(state: dict, method: Method, optim: torch.optim.Optimizer) -> Position:
    """Restore a run to the state that `save_state` wrote."""
    method.network.load_state_dict(state["network"])
    method.load_state(state["method"])
    optim.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["rng"])
    if "cuda_rng" in state and torch.device(method.device).type == "cuda":
        torch.cuda.set_rng_state(state["cuda_rng"], method.device)
    return Position.restored(state["position"])
