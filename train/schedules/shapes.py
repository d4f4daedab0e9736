"""The schedules: functions of the epoch (float), for rates and budgets.

The names and keys are those of Liu et al. 2020 (released code), with three errors corrected: `exp`
can be used, the last checkpoint of a cycle is the cycle's end, and `jump` accepts any start.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise

from ridgeline.models.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Schedule(ABC):
    """A function of the epoch, clipped to [min, max] where those are given."""

    min: float | None = None
    max: float | None = None

    def __post_init__(self) -> None:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise InputError(f"schedule: min={self.min:g} exceeds max={self.max:g}")

    @abstractmethod
    def value(self, epoch: float) -> float:
        """The value before clipping."""

    def __call__(self, epoch: float) -> float:
        """The value at an epoch, whole or fractional; infinite on overflow."""
        try:
            value = self.value(epoch)
        except OverflowError:
            value = math.inf
        if self.min is not None and value < self.min:
            value = self.min
        if self.max is not None and value > self.max:
            value = self.max
        return value


@dataclass(frozen=True)
class Cycle:
    """Consecutive periods between checkpoints. If the first checkpoint is above 0, 0 is added."""

    points: tuple[float, ...]

    def __post_init__(self) -> None:
        points = self.points if self.points and self.points[0] <= 0 else (0.0, *self.points)
        if len(points) < 2 or any(b <= a for a, b in pairwise(points)):
            raise InputError(
                "schedule: ckpt_list needs increasing epochs, e.g. 0:100:150, "
                f"got {':'.join(f'{p:g}' for p in self.points)}"
            )
        object.__setattr__(self, "points", points)

    def position(self, epoch: float) -> float:
        """Position r in [0,1] within the period of `epoch`; 1 from the last checkpoint on."""
        if epoch <= self.points[0]:
            return 0.0
        if epoch >= self.points[-1]:
            return 1.0
        end = bisect_right(self.points, epoch)
        start = self.points[end - 1]
        return (epoch - start) / (self.points[end] - start)


@dataclass(frozen=True, kw_only=True)
class Constant(Schedule):
    """start_v at every epoch."""

    start_v: float

    def value(self, epoch: float) -> float:
        """start_v."""
        return self.start_v


@dataclass(frozen=True, kw_only=True)
class Linear(Schedule):
    """start_v + slope * epoch."""

    start_v: float
    slope: float

    def value(self, epoch: float) -> float:
        """start_v + slope * epoch."""
        return self.start_v + self.slope * epoch


@dataclass(frozen=True, kw_only=True)
class Exponential(Schedule):
    """start_v * power ** (epoch / interval)."""

    start_v: float
    power: float
    interval: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.interval <= 0 or self.power <= 0:
            raise InputError("schedule exp: power and interval must be positive")

    def value(self, epoch: float) -> float:
        """start_v * power ** (epoch / interval)."""
        return self.start_v * self.power ** (epoch / self.interval)


@dataclass(frozen=True, kw_only=True)
class Jump(Schedule):
    """start_v * power ** n, with n drops: the first at min_jump_pt, then every jump_freq epochs.

    >>> rate = Jump(start_v=1.0, power=0.5, min_jump_pt=10, jump_freq=5)
    >>> [rate(epoch) for epoch in (0, 9, 10, 15, 20)]
    [1.0, 1.0, 0.5, 0.25, 0.125]
    """

    start_v: float
    power: float
    min_jump_pt: float
    jump_freq: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.jump_freq <= 0:
            raise InputError("schedule jump: jump_freq must be positive")

    def value(self, epoch: float) -> float:
        """start_v times power per drop so far."""
        drops = math.floor(max(epoch - self.min_jump_pt + self.jump_freq, 0) / self.jump_freq)
        return self.start_v * self.power**drops


@dataclass(frozen=True, kw_only=True)
class Drops(Schedule):
    """start_v, multiplied by power at each of `at`: shares (0..1) of a run of `epochs`."""

    start_v: float
    power: float
    at: tuple[float, ...]
    epochs: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(not 0 <= share <= 1 for share in self.at):
            raise InputError("schedule drops: at holds shares of the run between 0 and 1")

    def value(self, epoch: float) -> float:
        """start_v times power per drop so far."""
        # a share such as 0.72 of 125 epochs is a whole epoch only up to rounding
        passed = sum(epoch >= share * self.epochs - 1e-9 for share in self.at)
        return self.start_v * self.power**passed


@dataclass(frozen=True, kw_only=True)
class CosineCycleJump(Schedule):
    """up_v until min_jump_pt, then cosine decays to low_v, each over cycle_freq epochs."""

    low_v: float
    up_v: float
    cycle_freq: float
    min_jump_pt: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cycle_freq <= 0:
            raise InputError("schedule cos_cycle_jump: cycle_freq must be positive")

    def value(self, epoch: float) -> float:
        """Cosine annealing with warm restarts (Loshchilov and Hutter 2017, equation 5)."""
        phase = (max(epoch - self.min_jump_pt, 0) % self.cycle_freq) / self.cycle_freq
        return self.low_v + (self.up_v - self.low_v) / 2 * (1 + math.cos(math.pi * phase))


@dataclass(frozen=True, kw_only=True)
class WarmupCosine(Schedule):
    """Linear from low_v to up_v over the share `warmup` of `epochs`, then a cosine down to 0."""

    up_v: float
    epochs: int
    warmup: float = 0.3
    low_v: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.warmup < 1:
            raise InputError("schedule warmup_cosine: warmup is a share of the run, 0 to below 1")

    def value(self, epoch: float) -> float:
        """low_v + (up_v - low_v) e / w before w, up_v (1 + cos(pi (e - w) / (epochs - w))) / 2."""
        begin = self.warmup * self.epochs
        if epoch < begin:
            return self.low_v + (self.up_v - self.low_v) * epoch / begin
        passed = min((epoch - begin) / max(self.epochs - begin, 1e-9), 1.0)
        return self.up_v * (1 + math.cos(math.pi * passed)) / 2


@dataclass(frozen=True, kw_only=True)
class Triangle(Schedule):
    """From low_v to up_v and back in every period of cycle_freq epochs (Smith 2017)."""

    up_v: float
    cycle_freq: float
    low_v: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cycle_freq <= 0:
            raise InputError("schedule triangle: cycle_freq must be positive")

    def value(self, epoch: float) -> float:
        """low_v + (up_v - low_v) (1 - |2 t - 1|), t the position in the period."""
        t = (epoch % self.cycle_freq) / self.cycle_freq
        return self.low_v + (self.up_v - self.low_v) * (1 - abs(2 * t - 1))


@dataclass(frozen=True, kw_only=True)
class CycleLinear(Schedule):
    """start_v + slope * r, with r the position in the period."""

    start_v: float
    slope: float
    ckpt_list: Cycle

    def value(self, epoch: float) -> float:
        """start_v + slope * r."""
        return self.start_v + self.slope * self.ckpt_list.position(epoch)


@dataclass(frozen=True, kw_only=True)
class CycleExponential(Schedule):
    """start_v * power ** r, with r the position in the period."""

    start_v: float
    power: float
    ckpt_list: Cycle

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.power <= 0:
            raise InputError("schedule cycle_exp: power must be positive")

    def value(self, epoch: float) -> float:
        """start_v * power ** r."""
        return self.start_v * self.power ** self.ckpt_list.position(epoch)


@dataclass(frozen=True, kw_only=True)
class CycleJump(Schedule):
    """start_v * power ** (number of drop points passed), drop points as positions in the period."""

    start_v: float
    power: float
    drop_point_list: tuple[float, ...]
    ckpt_list: Cycle

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(not 0 <= p <= 1 for p in self.drop_point_list):
            raise InputError("schedule cycle_jump: drop_point_list holds positions between 0 and 1")

    def value(self, epoch: float) -> float:
        """start_v times power per drop point passed in this period."""
        r = self.ckpt_list.position(epoch)
        return self.start_v * self.power ** sum(point <= r for point in self.drop_point_list)


@dataclass(frozen=True, kw_only=True)
class CycleCosine(Schedule):
    """Cosine ramp from eps_min to eps_max in every period (PAS, Liu et al. 2020, section 5).

    >>> budget = CycleCosine(eps_min=0.0, eps_max=0.5, ckpt_list=Cycle((0, 100)), max=0.4)
    >>> [round(budget(epoch), 6) for epoch in (0, 50, 100)]
    [0.0, 0.25, 0.4]
    """

    eps_min: float
    eps_max: float
    ckpt_list: Cycle

    def value(self, epoch: float) -> float:
        """eps_min + (eps_max - eps_min) / 2 * (1 - cos(pi r))."""
        ramp = (1 - math.cos(math.pi * self.ckpt_list.position(epoch))) / 2
        return self.eps_min + (self.eps_max - self.eps_min) * ramp
