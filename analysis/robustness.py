"""How often is a network, or an ensemble, right: clean and under attack?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import xarray as xr
from scipy.stats import binomtest

from analysis.overfitting import nrr
from landscape.problem import Problem
from train.attacks import mixture
from train.evaluation import Scores, evaluate


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
    first = problems[0]
    predict = mixture([p.predict(p.origin) for p in problems])
    options = {"batch_size": first.batch_size, "seed": first.seed, "device": first.device,
               "dtype": first.dtype}  # fmt: skip
    scores = {"clean": evaluate(predict, first.images, tick=tick, **options)}
    attack, levels = first.attack, [0.0]
    if attack is not None:
        budgets = [attack.eps] if budgets is None else list(budgets)
        for eps in budgets:
            name = "adversarial" if len(budgets) == 1 else f"eps={eps:.4g}"
            at = attack if eps == attack.eps else attack.at(eps)
            scores[name] = evaluate(predict, first.images, at, tick=tick, **options)
        levels += budgets
    rows = [_row(score) for score in scores.values()]
    clean = rows[0]["accuracy"]
    ratios = [np.nan, *(nrr(clean, row["accuracy"]) for row in rows[1:])]
    return xr.Dataset(
        {
            **{name: ("condition", [row[name] for row in rows]) for name in rows[0]},
            "nrr": ("condition", ratios),
            "losses": (("condition", "example"), np.stack([s.losses for s in scores.values()])),
            "correct": (("condition", "example"), np.stack([s.correct for s in scores.values()])),
        },
        coords={
            "condition": list(scores), "eps": ("condition", levels, {"units": "[0,1]"}),
            "index": ("example", first.images.index.numpy()),
        },
    )  # fmt: skip


def _row(scores: Scores) -> dict[str, float]:
    hits, count = int(scores.correct.sum()), len(scores.correct)
    interval = binomtest(hits, count).proportion_ci(0.95, method="wilson")
    return {
        "accuracy": scores.accuracy,
        "accuracy_low": interval.low,
        "accuracy_high": interval.high,
        "loss": scores.loss,
        "loss_se": scores.loss_se,
    }
