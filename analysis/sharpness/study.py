"""The sharpness of one checkpoint: all measures, the gap to test images, further diagnostics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import xarray as xr

from ridgeline.analysis.sharpness.boundary import boundary
from ridgeline.analysis.sharpness.spikes import spikes
from ridgeline.landscape.problem import Problem
from ridgeline.landscape.resume import Keep, at_once
from ridgeline.landscape.sharpness import MEASURES
from ridgeline.landscape.sharpness.battery import BatteryOptions, sharpness
from ridgeline.landscape.sharpness.options import SharpnessOptions
from ridgeline.models.errors import InputError
from ridgeline.train.attacks import Attack
from ridgeline.train.data.examples import Images
from ridgeline.train.evaluation import Scores


def check_also(battery: BatteryOptions, attack: Attack | None) -> None:
    """Raise InputError if named diagnostics need an attack and there is none, or one of budget 0.

    These are the boundary, whose unit is the budget, and measures of the robust loss. Without
    --measures such measures are left blank instead.
    """
    if attack is not None and attack.eps:
        return
    if attack is not None:
        raise InputError("--attack with a budget of 0 leaves the clean loss: leave --attack out")
    if "boundary" in battery.also:
        raise InputError("--also boundary needs --attack with a budget above 0")
    named = [n for n in battery.measures if MEASURES[n].robust]
    if named and battery.measures != tuple(MEASURES):
        raise InputError(f"--measures {named[0]} needs --attack with a budget above 0")


def study(
    problem: Problem,
    battery: BatteryOptions,
    radii: SharpnessOptions,
    held_out: Images | None = None,
    *,
    keep: Keep = at_once,
    tick: Callable[[int], Any] | None = None,
) -> xr.Dataset:
    """All measures of a problem and, in the same dataset, `boundary`, `spikes` and the gap.

    `held_out` images add `test_loss`, `test_accuracy` and `gap` over `loss`. The gap is the loss on
    these images minus the loss on the problem's own. `gap_se` is its standard error over both sets.
    """
    ds = sharpness(
        problem, battery.measures, logits=battery.logits, keep=keep, tick=tick, **asdict(radii)
    )
    parts = [ds]
    if "boundary" in battery.also:
        parts.append(boundary(problem, tick=tick))
    if "spikes" in battery.also:
        parts.append(spikes(problem, tol=radii.tol, max_iter=radii.max_iter, tick=tick))
    if held_out is not None:
        parts.append(_gap(problem, held_out, list(ds["loss"].values)))
    found = xr.merge(parts, compat="override", join="outer")
    found["example_index"] = ("example", problem.images.index.numpy().astype(np.int64))
    return found


def _gap(problem: Problem, held_out: Images, losses: list[str]) -> xr.Dataset:
    attacks = {"clean": None, "robust": problem.attack}
    rows = []
    for name in losses:
        own, test = (p.under(attacks[name]).evaluate() for p in (problem, problem.on(held_out)))
        rows.append((test.loss, test.accuracy, test.loss - own.loss, _error(own, test)))
    columns = np.array(rows).T
    names = ("test_loss", "test_accuracy", "gap", "gap_se")
    return xr.Dataset({n: ("loss", c) for n, c in zip(names, columns, strict=True)},
                      coords={"loss": losses})  # fmt: skip


def _error(own: Scores, test: Scores) -> float:
    return float(np.hypot(own.loss_se, test.loss_se))
