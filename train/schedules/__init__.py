"""Schedules by name: epoch (float) -> value, for learning rates and adversarial budgets.

All budgets of a spec have the same unit.
"""

from __future__ import annotations

import math
from dataclasses import fields

from ridgeline.models.errors import InputError
from ridgeline.train.schedules.shapes import (
    Constant,
    CosineCycleJump,
    CycleCosine,
    CycleExponential,
    CycleJump,
    CycleLinear,
    Drops,
    Exponential,
    Jump,
    Linear,
    Schedule,
    Triangle,
    WarmupCosine,
)
from ridgeline.train.specs import Unit, build_named, parse_spec

#: spec name -> schedule
SCHEDULES: dict[str, type[Schedule]] = {
    "constant": Constant,
    "linear": Linear,
    "exp": Exponential,
    "exponential": Exponential,
    "jump": Jump,
    "drops": Drops,
    "cos_cycle_jump": CosineCycleJump,
    "warmup_cosine": WarmupCosine,
    "triangle": Triangle,
    "cycle_linear": CycleLinear,
    "cycle_exp": CycleExponential,
    "cycle_jump": CycleJump,
    "cycle_cos": CycleCosine,
}


def check_not_negative(schedule: Schedule, epochs: int, what: str) -> None:
    """Raise InputError if the schedule falls below 0 or overflows within the first `epochs`."""
    for epoch in range(epochs + 1):
        value = schedule(epoch)
        if value < 0:
            raise InputError(
                f"{what} falls to {value:g} at epoch {epoch}; it must not be negative "
                "(min=0 clips it)"
            )
        if not math.isfinite(value):
            raise InputError(
                f"{what} is {value:g} at epoch {epoch}; it must stay finite (max=... clips it)"
            )


_BUDGETS = {"start_v", "slope", "low_v", "up_v", "eps_min", "eps_max", "min", "max"}


def parse_schedule(
    text: str, what: str, *, budget: bool = False, beside: Unit = Unit.UNSET
) -> Schedule:
    """Build a schedule from its spec. With `budget` its values are radii in [0,1] units.

    `beside` is the unit of the command's --attack. Raises InputError for an unknown name or key,
    unclear units and negative budgets.

    >>> schedule = parse_schedule("name=linear,start_v=0,slope=0.1", "--adv_budget_list")
    >>> schedule(2)
    0.2
    """
    return build_named(
        SCHEDULES,
        text,
        "schedule",
        what,
        budgets=_BUDGETS if budget else set(),
        signed=frozenset({"slope"}),
        beside=beside,
    )


def parse_rate(text: str | None, lr: float, epochs: int) -> Schedule:
    """The learning rate of a run of `epochs` whose optimiser has `lr`; None: constant.

    Missing keys are taken from the run: start or peak (start_v, up_v) from `lr`, length (epochs,
    cycle_freq) from `epochs`. Raises InputError as `parse_schedule` does, and for a rate that
    becomes negative or infinite.

    >>> rate = parse_rate("name=drops,power=0.1,at=0.5", lr=1.0, epochs=10)
    >>> rate(4), rate(5)
    (1.0, 0.1)
    """
    if text is None:
        return Constant(start_v=lr)
    what = "--lr_schedule"
    spec = parse_spec(text, what)
    if spec.get("name") in SCHEDULES:
        run = {"start_v": lr, "up_v": lr, "epochs": epochs, "cycle_freq": max(epochs, 1)}
        names = {f.name for f in fields(SCHEDULES[spec["name"]])}
        spec = {k: repr(v) for k, v in run.items() if k in names} | spec
    schedule = parse_schedule(",".join(f"{k}={v}" for k, v in spec.items()), what)
    check_not_negative(schedule, epochs, what)
    return schedule
