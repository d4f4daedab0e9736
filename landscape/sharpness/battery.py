"""All sharpness measures of a network: clean and robust loss, plain and normalised logits."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
import xarray as xr

from ridgeline.landscape.problem import Problem
from ridgeline.landscape.resume import Keep, at_once
from ridgeline.landscape.sharpness import MEASURES
from ridgeline.landscape.sharpness.options import SharpnessOptions
from ridgeline.landscape.sharpness.view import View, normalised_logits
from ridgeline.models.errors import InputError
from ridgeline.train.losses import loss_of, unit_of
from ridgeline.train.options import Opt, Options

LOGITS = ("plain", "normalised")
#: further diagnostics of `calc_sharpness`, and where they are computed
ALSO = {
    "boundary": "loss over adversarial and random sign direction, distances to the boundary",
    "spikes": "change of every class's accuracy along the top eigenvectors",
}
_NUMBERS = ("value", "se", "forward", "backward", "seconds")


@dataclass(frozen=True)
class BatteryOptions(Options):
    """Which measures, of which logits, and which further diagnostics."""

    measures: Annotated[tuple[str, ...], Opt("measures, each once", choices=tuple(MEASURES))] = (
        tuple(MEASURES)
    )
    logits: Annotated[
        tuple[str, ...],
        Opt("logits of the loss: as they are, centred and divided by their spread", choices=LOGITS),
    ] = LOGITS
    also: Annotated[tuple[str, ...], Opt("further diagnostics", choices=ALSO)] = ()
    held_out: Annotated[
        int | None, Opt("test images for the generalisation gap; None: no gap", low=2)
    ] = None

    def check(self) -> None:
        """Raise InputError for empty lists and repeated names."""
        for name in ("measures", "logits", "also"):
            asked = getattr(self, name)
            if len(set(asked)) < len(asked) or (name != "also" and not asked):
                raise InputError(f"--{name} must name each thing once, got {','.join(asked)!r}")


def sharpness(
    problem: Problem,
    measures: Sequence[str] | None = None,
    *,
    logits: Sequence[str] = LOGITS,
    keep: Keep = at_once,
    tick: Callable[[int], Any] | None = None,
    **options: Any,
) -> xr.Dataset:
    """Sharpness of a minimum by many measures, each with its standard error and its cost.

    Use it to find out whether one network is flatter than another, and whether the answer depends
    on the measure. `docs/sharpness.md` defines each measure, and says how rescaling changes it.

    Args:
        problem: The problem. With an attack, the robust loss is measured too, on the images that
            the attack finds at the weights. They stay fixed, except in the two measures of robust
            flatness, which run the attack at every perturbed weight.
        measures: Names in MEASURES; None: all.
        logits: `plain`, `normalised` (logits centred and divided by their spread), or both.
        keep: Stores finished measures (`landscape.resume`).
        tick: Called with the number of examples after every measure.
        **options: Radii, draws and steps: the fields of SharpnessOptions.

    Returns:
        - over `loss`, `logits` and `measure`: `value`, `se`, `seconds`, and `forward` and
          `backward`, the passes over all examples. The attack that made the images is not counted.
          NaN for measures that a loss does not have.
        - over `measure`: `over` (what the error is over) and `invariant` (under rescaling of ReLU
          layers).
        - over `loss` and `logits`: `mean_loss` and `mean_loss_se`; over `loss`: `accuracy`.

    Raises:
        InputError: for unknown names, options out of range, and a loss that is not finite.

    >>> x, y = torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.zeros(2, 1)
    >>> problem = Problem(torch.nn.Linear(2, 1, bias=False), (x, y), loss="squared_error")
    >>> found = sharpness(problem, ["lambda_max", "trace"], logits=["plain"])["value"]
    >>> found.values.round(4).tolist()  # of w1^2 / 2 + 9 w2^2 / 2
    [[[9.0, 10.0]]]
    """
    names = list(MEASURES if measures is None else measures)
    BatteryOptions(tuple(names), tuple(logits))  # checks the names
    chosen, tick = SharpnessOptions(**options), tick or (lambda n: None)
    frozen = {"clean": problem.under(None)}
    if problem.attack is not None and problem.attack.eps > 0:
        frozen["robust"] = problem.resuming(keep).frozen()
    frozen = {name: one.resuming(at_once) for name, one in frozen.items()}
    shape = (len(frozen), len(logits), len(names))
    table = {n: np.full(shape, np.nan) for n in _NUMBERS}
    over = [""] * len(names)
    means = np.full((3, *shape[:2]), np.nan)
    for column, way in enumerate(logits):
        sides = {name: _measured(one, way) for name, one in frozen.items()}
        for row, (name, side) in enumerate(sides.items()):
            scores = side.evaluate()
            if not math.isfinite(scores.loss):
                raise InputError(
                    "the loss is NaN or infinite for some examples: it has no flatness"
                )
            means[:, row, column] = scores.loss, scores.loss_se, scores.accuracy
            other = next((s for n, s in sides.items() if n != name), None)
            attacked = _measured(problem, way) if name == "robust" else None
            for place, measure in enumerate(names):

                def compute(measure=measure, side=side, attacked=attacked, other=other):
                    began = time.perf_counter()
                    view = View(side, attacked, other, problem.attack)
                    found = MEASURES[measure].compute(view, chosen)
                    return {**{k: getattr(found, k) for k in _NUMBERS[:-1]},
                            "seconds": time.perf_counter() - began,
                            "over": _coded(found.over)}  # fmt: skip

                found = keep(f"{measure} of {name} loss, {way} logits", compute)
                for number in _NUMBERS:
                    table[number][row, column, place] = float(found[number])
                over[place] = over[place] or _decoded(found["over"])
                tick(len(problem.data))
    dims = ("loss", "logits", "measure")
    ds = xr.Dataset(
        {
            **{n: (dims, v) for n, v in table.items()},
            "mean_loss": (dims[:2], means[0], {"units": unit_of(problem.loss)}),
            "mean_loss_se": (dims[:2], means[1]),
            "accuracy": ("loss", means[2, :, 0]),
            "over": ("measure", over),
            "invariant": ("measure", [MEASURES[n].invariant for n in names]),
            "parameters": sum(t.numel() for t in problem.origin.values()),
        },
        coords={"loss": list(frozen), "logits": list(logits), "measure": names},
    )
    ds["forward"].attrs["long_name"] = "forward passes over all examples"
    ds["backward"].attrs["long_name"] = "backward passes over all examples, two a Hessian product"
    ds["invariant"].attrs["long_name"] = (
        "rescaling ReLU layers by alpha and 1/alpha changes nothing"
    )
    return ds


def _measured(problem: Problem, way: str) -> Problem:
    """The problem, with the loss of normalised logits if `way` says so."""
    if way == "plain":
        return problem
    return replace(problem, loss=normalised_logits(loss_of(problem.loss)))


def _coded(text: str) -> np.ndarray:
    return np.frombuffer(text.encode() or b" ", dtype=np.uint8).copy()


def _decoded(codes: Any) -> str:
    return bytes(np.asarray(codes).tolist()).decode().strip()
