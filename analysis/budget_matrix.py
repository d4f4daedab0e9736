"""Networks trained at different budgets, each evaluated at several: the PAS table."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from ridgeline.analysis.attack_runs import attack_runs
from ridgeline.analysis.names import distinct_names
from ridgeline.analysis.statistics import wilson
from ridgeline.landscape.problem import Problem
from ridgeline.models.errors import InputError

#: methods that train on clean images; they use an attack only for evaluation
CLEAN = ("standard", "frequency")
_ATTACK = re.compile(r"\w+\(eps=([^,()]+), order=([^,()]+)")
_OF_ATTACK = re.compile(r"\b(eps|order)=([\w.+-]+)")


def budget_of(attack: object) -> dict[str, str]:
    """`eps` and `order` of an attack as recipes write it; empty without an attack."""
    return dict(_OF_ATTACK.findall(attack)) if isinstance(attack, str) else {}


def norm_of(attack: object) -> str:
    """The norm of an attack as recipes write it, in words: l_inf, l_2; empty without one."""
    order = budget_of(attack).get("order")
    return "" if order is None else f"l_{float(order):g}"


class TrainedAt(NamedTuple):
    """The training budget of a checkpoint, in [0,1] units, and its norm.

    NaN for a checkpoint that records no training. After training on clean images `eps` is 0 and
    `order` NaN. `scheduled` marks a budget that changed during training; `eps` is then the
    attack's own.
    """

    eps: float = math.nan
    order: float = math.nan
    scheduled: bool = False


def trained_at(recipe: Mapping[str, Any] | None) -> TrainedAt:
    """The training budget in a checkpoint's recipe; NaN if there is none or it is untrained."""
    if not recipe or "method" not in recipe or recipe.get("epoch") == 0:
        return TrainedAt()
    attack = recipe.get("attack")
    if recipe["method"] in CLEAN or attack in (None, "None"):
        return TrainedAt(0.0)
    found = _ATTACK.match(attack)
    if found is None:
        return TrainedAt()
    options = recipe.get("options", {})
    eps, order = (float(text) for text in found.groups())
    own = options.get("eps")  # APART's generator has a budget of its own
    eps = float(own) if isinstance(own, int | float) else eps
    return TrainedAt(eps, order, "attack_threshold_schedule" in options)


def names_of(paths: Sequence[str]) -> list[str]:
    """Names of networks: their file names, with as many folders as are needed to be distinct.

    Raises InputError for a file that is given twice.
    """
    if len(set(paths)) < len(paths):
        raise InputError("--model2load names a checkpoint twice")
    return distinct_names(paths)


def budget_matrix(
    problems: Mapping[str, Problem], budgets: Sequence[float], trained: Sequence[TrainedAt],
    tick: Callable[[int], None] | None = None,
) -> xr.Dataset:  # fmt: skip
    """Accuracy of every network, clean and at every budget of its problem's attack.

    - Over `network` and `eps` (0, clean, first): `accuracy` with its 95 % Wilson interval, and
      `loss` with its standard error.
    - Over `network`: `trained_eps` and `trained_order` from the checkpoints (`TrainedAt`), and
      `scheduled`, whether that budget changed during training.
    - The attribute `probe_order` is the norm of the attack.

    A minimum-norm attack searches once for all budgets.
    """
    attack = next(iter(problems.values())).attack
    levels = [eps for eps in budgets if eps]
    rows = []
    for problem in problems.values():
        clean = problem.under(None).evaluate(tick=tick)
        runs, _ = attack_runs(problem, levels, tick) if levels else ([], None)
        rows.append([clean, *(run.scores for run in runs)])
    hits = np.array([[int(s.correct.sum()) for s in row] for row in rows])
    count = len(rows[0][0].correct)
    low, high = np.array([[wilson(h, count) for h in row] for row in hits]).transpose(2, 0, 1)
    dims = ("network", "eps")
    return xr.Dataset(
        {
            "accuracy": (dims, hits / count),
            "accuracy_low": (dims, low),
            "accuracy_high": (dims, high),
            "loss": (dims, [[s.loss for s in row] for row in rows], {"units": "nat"}),
            "loss_se": (dims, [[s.loss_se for s in row] for row in rows]),
        },
        coords={
            "network": list(problems),
            "eps": ("eps", [0.0, *levels], {"units": "[0,1]"}),
            "trained_eps": ("network", [t.eps for t in trained], {"units": "[0,1]"}),
            "trained_order": ("network", [t.order for t in trained]),
            "scheduled": ("network", [t.scheduled for t in trained]),
        },
        attrs={"probe_order": float(attack.order)},
    )


def rows_of(ds: xr.Dataset) -> list[tuple[int, str]]:
    """The networks sorted by training budget, unknown ones last: index and label."""
    eps, known = ds["trained_eps"].values, []
    for place in np.argsort(eps, kind="stable"):
        name, order = str(ds["network"].values[place]), float(ds["trained_order"][place])
        norm = " l_2" if order == 2 else ""
        budget = "" if np.isnan(eps[place]) else f", trained at {eps[place]:.4g}{norm}"
        known.append((int(place), name + budget + ", scheduled" * bool(ds["scheduled"][place])))
    return known


def budgets_report(ds: xr.Dataset) -> Iterator[str]:
    """Accuracies by network (rows) and budget (columns), with a warning if the norms differ."""
    rows, probe = rows_of(ds), ds.attrs["probe_order"]
    width = max(len(label) for _, label in rows)
    yield f"{'eps':{width}s}  " + "  ".join(f"{eps:6.4g}" for eps in ds["eps"].values)
    for place, label in rows:
        cells = "  ".join(f"{value:6.4f}" for value in ds["accuracy"].values[place])
        yield f"{label:{width}s}  {cells}"
    for place, _ in rows:
        order = float(ds["trained_order"][place])
        if not np.isnan(order) and order != probe:
            yield (f"WARNING, {ds['network'].values[place]} was trained in {_norm(order)} and is "
                   f"probed in {_norm(probe)}: the two budgets are not in one unit")  # fmt: skip


def _norm(order: float) -> str:
    return "l_inf" if order == math.inf else f"l_{order:g}"
