"""How often is a network, or an ensemble, right: clean and under attack?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import xarray as xr
from scipy.stats import binomtest

from landscape.problem import Problem
from train.attacks import mixture
from train.evaluation import Scores, evaluate


def robustness(
    problems: Sequence[Problem], tick: Callable[[int], None] | None = None
) -> xr.Dataset:
    """Clean and adversarial scores of the mixture of networks (one problem per member).

    Over `condition` (clean, and adversarial if the problems have an attack): `accuracy` with its
    95 % Wilson interval, `loss` with its standard error; per example `losses` and `correct`.
    """
    first = problems[0]
    predict = mixture([p.predict(p.origin) for p in problems])
    options = {"batch_size": first.batch_size, "seed": first.seed, "device": first.device}
    scores = {"clean": evaluate(predict, first.images, tick=tick, **options)}
    if first.attack is not None:
        scores["adversarial"] = evaluate(predict, first.images, first.attack, tick=tick, **options)
    rows = [_row(score) for score in scores.values()]
    return xr.Dataset(
        {
            **{name: ("condition", [row[name] for row in rows]) for name in rows[0]},
            "losses": (("condition", "example"), np.stack([s.losses for s in scores.values()])),
            "correct": (("condition", "example"), np.stack([s.correct for s in scores.values()])),
        },
        coords={"condition": list(scores), "index": ("example", first.images.index.numpy())},
    )


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
