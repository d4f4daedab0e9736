"""The phases of FOMO (learning, relearning, consolidation) and its learning rate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ridgeline.models.errors import InputError


@dataclass(frozen=True)
class Phases:
    """The phases of a run, epochs counted from 0: learning, then complete cycles, then the rest.

    A cycle forgets before its first batch, then relearns, then consolidates. Epochs at the end that
    do not fill a cycle are consolidation, so training never ends right after forgetting. Raises
    InputError if no cycle fits.
    """

    epochs: int
    warmup: int = 105
    relearn: int = 5
    consolidate: int = 1

    def __post_init__(self) -> None:
        if self.epochs and self.count < 1:
            raise InputError(
                f"no cycle of FOMO fits: {self.warmup} epochs of warm-up and {self.length} of a "
                f"cycle exceed the {self.epochs} of the run"
            )

    @property
    def length(self) -> int:
        """Epochs of a cycle."""
        return self.relearn + self.consolidate

    @property
    def count(self) -> int:
        """Number of complete cycles."""
        return max(0, self.epochs - self.warmup) // self.length

    def at(self, epoch: int) -> tuple[str, int, int]:
        """Phase, cycle from 0 (-1 while learning), epoch within the cycle."""
        if epoch < self.warmup:
            return "learn", -1, epoch
        cycle, within = divmod(epoch - self.warmup, self.length)
        if cycle < self.count and within < self.relearn:
            return "relearn", cycle, within
        return "consolidate", min(cycle, self.count - 1), within

    def kept(self) -> set[int]:
        """The cycles whose networks are saved: first, middle, last."""
        return {0, self.count // 2, self.count - 1}


@dataclass(frozen=True)
class PhaseRate:
    """A learning rate that differs from `base` from the first cycle on (epochs from 0).

    `hold`: constant at `value`. Else it decreases in every cycle, linearly from `value` to that of
    `base`.
    """

    base: Callable[[float], float]
    phases: Phases
    value: float
    hold: bool

    def __call__(self, time: float) -> float:
        """The rate at an epoch."""
        if time < self.phases.warmup:
            return self.base(time)
        if self.hold:
            return self.value
        share = (time - self.phases.warmup) % self.phases.length / self.phases.length
        return self.value + share * (self.base(time) - self.value)
