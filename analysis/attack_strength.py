"""Is an attack as strong as it could be, and do its perturbations fool other networks?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
import xarray as xr

from ridgeline.analysis.statistics import wilson
from ridgeline.landscape.problem import Problem
from ridgeline.models.errors import InputError
from ridgeline.train.attacks import PGD, Attack
from ridgeline.train.attacks.library import APGD
from ridgeline.train.losses import correctness


def as_pgd(attack: Attack) -> PGD:
    """The attack itself if it is PGD, else PGD with 20 steps from a random start."""
    if isinstance(attack, PGD):
        return attack
    return PGD(eps=attack.eps, order=attack.order, iterations=20)


def stronger(attack: Attack) -> dict[str, Attack]:
    """The attack and those it is compared with: more steps, more restarts, margin loss, APGD-CE.

    If the attack is not PGD, then PGD with 20 steps gets more steps and restarts instead.
    """
    eps, order = attack.eps, attack.order
    pgd = as_pgd(attack)
    more = {
        "steps_x4": replace(pgd, iterations=4 * pgd.iterations, step_size=pgd.step / 4),
        "restarts_x5": replace(pgd, restarts=5 * pgd.restarts),
        "margin": replace(pgd, loss="cw", targeted=None),
        "apgd": APGD(eps=eps, order=order, iterations=100, restarts=1),
    }
    return {"own": attack, **more}


def convergence(problem: Problem) -> xr.Dataset:
    """Compare the problem's attack with stronger ones at the same budget.

    Over `search`: `search_accuracy` with its 95 % Wilson interval and `search_loss`. The
    `convergence_gap` is the share of examples on which the problem's own attack fails and another
    one succeeds. The robust accuracy is too high by at least this share.
    """
    attacks = stronger(problem.attack)
    scores = {name: problem.under(attack).evaluate() for name, attack in attacks.items()}
    right = {name: s.correct.numpy().astype(bool) for name, s in scores.items()}
    all_right = np.logical_and.reduce(list(right.values()))
    rows = _intervals(right)
    return xr.Dataset(
        {
            "search_accuracy": ("search", rows[0]),
            "search_accuracy_low": ("search", rows[1]),
            "search_accuracy_high": ("search", rows[2]),
            "search_loss": ("search", [s.loss for s in scores.values()]),
            "convergence_gap": float(right["own"].mean() - all_right.mean()),
        },
        coords={"search": list(attacks)},
    )


def transfer(problems: Sequence[Problem]) -> xr.Dataset:
    """Accuracy of every network on the adversarial images of every other.

    `transfer_accuracy` is over `source` (the network that the attack uses) and `target`, both
    numbered from 1 in the given order, with its 95 % Wilson interval. The diagonal is each
    network's own robust accuracy. Raises InputError for a single network.
    """
    if len(problems) < 2:
        raise InputError("a transfer matrix needs two or more networks")
    predicts = [p.predict(p.origin) for p in problems]
    right: dict[tuple[int, int], np.ndarray] = {}
    for source, problem in enumerate(problems):
        found: list[list[torch.Tensor]] = [[] for _ in problems]
        for batch, x in problem.adversarial():
            with torch.no_grad():
                for target, predict in enumerate(predicts):
                    own = x.to(problems[target].dtype)
                    found[target].append(correctness(predict(own), batch.y).cpu())
        right |= {(source, t): torch.cat(f).numpy().astype(bool) for t, f in enumerate(found)}
    shape = (3, len(problems), len(problems))
    rows, dims = _intervals(right).reshape(shape), ("source", "target")
    numbers = np.arange(1, len(problems) + 1)
    return xr.Dataset(
        {
            "transfer_accuracy": (dims, rows[0]),
            "transfer_accuracy_low": (dims, rows[1]),
            "transfer_accuracy_high": (dims, rows[2]),
        },
        coords={"source": numbers, "target": numbers},
    )


def _intervals(right: Mapping[object, np.ndarray]) -> np.ndarray:
    """Shares with their Wilson intervals, (3, number of entries)."""
    rows = [(r.mean(), *wilson(int(r.sum()), len(r))) for r in right.values()]
    return np.array(rows).T
