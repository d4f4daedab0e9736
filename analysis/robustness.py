"""How often is a network, or an ensemble, right: clean and under attack?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import xarray as xr
from torch import Tensor, nn

from ridgeline.analysis.statistics import wilson
from ridgeline.analysis.training.overfitting import nrr
from ridgeline.landscape.problem import Problem
from ridgeline.models.errors import InputError
from ridgeline.train.attacks import mixture
from ridgeline.train.evaluation import Scores


class Ensemble(nn.Module):
    """Several networks, of any architectures, as one: the mixture of their predictions."""

    def __init__(self, members: Sequence[nn.Module]):
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        """Log of the mean predictive probability (N, classes) of all members."""
        return mixture(list(self.members))(x)


def ensemble(problems: Sequence[Problem]) -> Problem:
    """The problem of the mixture of several problems' networks; all else is the first's.

    Raises InputError if the problems are about different images or classes.
    """
    first, *others = problems
    for other in others:
        if (other.images.sha256, other.images.num_classes) != (
            first.images.sha256, first.images.num_classes
        ):  # fmt: skip
            raise InputError("the members of an ensemble need the same images and classes")
    return replace(first, network=Ensemble([p.network for p in problems])) if others else first


def robustness(
    problems: Sequence[Problem],
    budgets: Sequence[float] | None = None,
    tick: Callable[[int], None] | None = None,
) -> xr.Dataset:
    """Clean and adversarial scores of the mixture of networks (one problem per member).

    Over `condition` (clean, and with an attack: adversarial, or eps=... for each of several
    `budgets`) with its budget `eps`: `accuracy` with its 95 % Wilson interval, `loss` with its
    standard error, `nrr`, the harmonic mean of clean and this accuracy (NaN for clean; Gowda et al.
    2024, section 4); per example `losses` and `correct`. Wherever it is judged, the attack counts:
    the recipe names it.
    """
    together = ensemble(problems)
    attack = together.attack
    names, levels, attacks = ["clean"], [0.0], [None]
    if attack is not None:
        budgets = [attack.eps] if budgets is None else list(budgets)
        names += ["adversarial"] if len(budgets) == 1 else [f"eps={eps:.4g}" for eps in budgets]
        attacks += [attack if eps == attack.eps else attack.at(eps) for eps in budgets]
        levels += budgets
    scores = [together.under(at).evaluate(tick=tick) for at in attacks]
    rows = [_row(score) for score in scores]
    clean = rows[0]["accuracy"]
    ratios = [np.nan, *(nrr(clean, row["accuracy"]) for row in rows[1:])]
    return xr.Dataset(
        {
            **{name: ("condition", [row[name] for row in rows]) for name in rows[0]},
            "nrr": ("condition", ratios),
            "losses": (("condition", "example"), np.stack([s.losses for s in scores])),
            "correct": (("condition", "example"), np.stack([s.correct for s in scores])),
        },
        coords={
            "condition": names, "eps": ("condition", levels, {"units": "[0,1]"}),
            "index": ("example", together.images.index.numpy()),
        },
    )  # fmt: skip


def _row(scores: Scores) -> dict[str, float]:
    low, high = wilson(int(scores.correct.sum()), len(scores.correct))
    return {
        "accuracy": scores.accuracy,
        "accuracy_low": low,
        "accuracy_high": high,
        "loss": scores.loss,
        "loss_se": scores.loss_se,
    }
