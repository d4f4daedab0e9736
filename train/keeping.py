"""What a training run writes, and when. A diverged run never writes its state."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

import torch

from ridgeline.models.errors import InputError
from ridgeline.train.batches import Clock
from ridgeline.train.files.run_files import RunFiles
from ridgeline.train.methods.base import Kept, Method
from ridgeline.train.position import Failure, Guard, Position, save_state
from ridgeline.train.schedules.shapes import Schedule

#: if the last state is older than so many seconds, a new one is saved before evaluation
_SCORING = 5.0


class Diverged(InputError):
    """The loss or a weight became NaN or infinite. The run's files have the last finite state."""


@dataclass
class Keeper:
    """Writes the files of a run (None: none), its state every `seconds`."""

    files: RunFiles | None
    method: Method
    optimizer: torch.optim.Optimizer
    guard: Guard
    ticks: Clock
    rate: Schedule
    seconds: float
    _saved: float = field(default_factory=time.monotonic)

    def begin(self, position: Position) -> None:
        """Write the network and the state before the first step."""
        if self.files is not None:
            self.files.save("init", self.method.weights(), 0)
            save_state(self.files, self.method, self.optimizer, position)

    def check(self) -> None:
        """Raise `Diverged` if a step was not finite. Waits for the device."""
        if (failure := self.guard.failure()) is not None:
            raise _diverged(failure, self.ticks, self.rate, self.files)

    def overdue(self, *, scoring: bool = False) -> bool:
        """Whether the last state is old. Before `scoring`, which takes long, the limit is lower."""
        limit = min(self.seconds, _SCORING) if scoring else self.seconds
        return self.files is not None and time.monotonic() - self._saved > limit

    def state(self, position: Position) -> None:
        """Write the state if it is finite. If not, the state before stays."""
        self.check()
        if self.files is not None:
            save_state(self.files, self.method, self.optimizer, position)
        self._saved = time.monotonic()

    def networks(self, kept: Kept, epoch: int) -> None:
        """Write networks that a hook of the method returned."""
        if self.files is not None:
            for name, weights in kept.items():
                self.files.save(name, weights, epoch)

    def epoch(self, position: Position, *, chosen: bool) -> None:
        """Write the files of an epoch: wanted checkpoints, state, and metrics (in `position`).

        If the epoch is `chosen`, its network is written as the best.
        """
        if self.files is None:
            self.check()
            return
        if position.epoch in self.files.epochs:
            _save_all(self.files, self.method, position.epoch)
        if chosen:
            _save_best(self.files, self.method, position.metrics)
        # the state is written before the metrics: a run killed between them must resume correctly
        self.state(position)
        self.files.write_metrics(position.metrics)

    def end(self, metrics: list[dict]) -> None:
        """Write the last network, its copies and the metrics. The run is then complete."""
        if self.files is None:
            return
        self.files.write_metrics(metrics)
        for name, weights in self.method.copies().items():
            self.files.save(name, weights)
        self.files.save("", self.method.weights(), beside=self.method.beside())
        self.files.path(".state").unlink(missing_ok=True)


def _diverged(failure: Failure, ticks: Clock, rate: Schedule, files: RunFiles | None) -> Diverged:
    epoch, number = divmod(failure.number, ticks.steps_per_epoch)
    at = rate(ticks.step(epoch, number).time)
    weights = " and weights that are not finite" if math.isfinite(failure.loss) else ""
    kept = f"{files.path('.state')} holds" if files else "no file holds"
    return Diverged(
        f"training diverged in epoch {epoch + 1}, step {number + 1} of {ticks.steps_per_epoch}, "
        f"with loss {failure.loss:g}{weights} at learning rate {at:g}; {kept} the last finite "
        "state; other options need --overwrite or another --model_name"
    )


def _save_all(files: RunFiles, method: Method, epoch: int) -> None:
    files.save(f"{epoch}", method.weights(), epoch, method.beside())
    for name, weights in method.copies().items():
        files.save(f"{name}_{epoch}", weights, epoch)


def _save_best(files: RunFiles, method: Method, metrics: list[dict]) -> None:
    """Save every network whose accuracy on the validation set is the best so far."""
    for prefix, weights in {"": method.weights(), **method.copies()}.items():
        stem = f"{prefix}_" if prefix else ""
        key = next(
            k for w in ("target", "clean") if (k := f"val_{stem}{w}_accuracy") in metrics[-1]
        )
        if all(line.get(key, -1) < metrics[-1][key] for line in metrics[:-1]):
            beside = None if prefix else method.beside()
            files.save(f"{stem}best", weights, metrics[-1]["epoch"], beside)
