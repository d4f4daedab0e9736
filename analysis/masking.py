"""Signs that gradients are masked: the attack fails although the network is not robust.

The five signs are those of Athalye, Carlini and Wagner 2018 (section 3.1) and Carlini et al. 2019.
A sign does not prove masking. The absence of signs does not prove robustness. Two attacks are
compared by an exact one-sided test on the same examples (McNemar). By chance alone such a test
warns at most once in a hundred.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import scipy  # its parts are loaded when used
import torch
import xarray as xr
from torch import Tensor

from ridgeline.analysis.attack_strength import as_pgd
from ridgeline.landscape.problem import Problem
from ridgeline.train.attacks import FGSM, PGD, Attack
from ridgeline.train.attacks.library import Square
from ridgeline.train.attacks.norms import INF
from ridgeline.train.losses import margin

#: sign -> its meaning, in the words of reports
SIGNS = {
    "not_monotone": "more examples fall at a smaller budget than at a larger one",
    "black_box": "Square, which sees no gradient, fools more than PGD does",
    "flat": "the margin does not move along the gradient's direction for {value:.1%} of examples",
    "unbounded": "{value:.1%} of examples survive a budget that covers the whole range",
    "steps": "a single step fools more than many steps do",
}
LEVEL = 0.01  # significance level of the tests
FLAT, SURVIVE = 0.1, 0.01  # thresholds: shares of the examples that are right on clean images
_STILL = 1e-6  # a smaller relative change of a margin is rounding
_LADDER = (0.25, 0.5, 1.0, 2.0)  # budgets, in units of the attack's
QUERIES = 500


def masking(problem: Problem) -> xr.Dataset:
    """The five signs of masked gradients for a problem's network and the budget of its attack.

    PGD is the problem's own attack if that is PGD, else 20 steps from a random start. Square has
    500 queries.

    - `masking_value` over `sign`: a p-value for the signs that compare two attacks
      (`not_monotone`: the smallest of its three; `black_box`; `steps`). For `flat` and `unbounded`
      a share of the examples that are right on clean images.
    - `masking_warning` over `sign`: whether the sign is present.
    - `ladder_accuracy` over `ladder`: the accuracy under PGD at several budgets.
    """
    eps, order = problem.attack.eps, problem.attack.order
    pgd = as_pgd(problem.attack)
    clean = _right(problem, None)
    whole = 1.0 if order == INF else math.sqrt(math.prod(problem.images.image_shape))
    rungs = [eps * share for share in _LADDER if eps * share <= whole]
    ladder = [_right(problem, pgd.at(rung)) for rung in rungs]
    at_eps = ladder[rungs.index(eps)]
    values = {
        "not_monotone": min(
            (_p(low, high) for low, high in itertools.pairwise(ladder)), default=1.0
        ),
        "black_box": _p(_right(problem, Square(eps=eps, order=order, iterations=QUERIES)), at_eps),
        "flat": _share(_still(problem), clean),
        "unbounded": _share(_right(problem, pgd.at(whole)), clean),
        "steps": _p(_right(problem, FGSM(eps=eps, order=order)), at_eps),
    }
    limits = {"flat": FLAT, "unbounded": SURVIVE}
    warns = [v > limits[s] if s in limits else v < LEVEL for s, v in values.items()]
    return xr.Dataset(
        {
            "masking_value": ("sign", list(values.values())),
            "masking_warning": ("sign", warns),
            "ladder_accuracy": ("ladder", [right.mean() for right in ladder]),
        },
        coords={"sign": list(values), "ladder": ("ladder", rungs, {"units": "[0,1]"})},
    )


def _right(problem: Problem, attack: Attack | None) -> np.ndarray:
    return problem.under(attack).evaluate().correct.numpy().astype(bool)


def _p(weaker: np.ndarray, stronger: np.ndarray) -> float:
    """P-value of the test whether the supposedly weaker attack fools more; small if it does.

    Only examples count that exactly one of the two attacks fools.
    """
    surprising, expected = int((~weaker & stronger).sum()), int((weaker & ~stronger).sum())
    both = surprising + expected
    return scipy.stats.binomtest(surprising, both, alternative="greater").pvalue if both else 1.0


def _share(some: np.ndarray, of: np.ndarray) -> float:
    return float((some & of).sum() / max(of.sum(), 1))


def _still(problem: Problem) -> np.ndarray:
    """The examples (N,) whose margin does not change after a full step along the gradient's sign.

    The gradient is that of the margin. The gradient of the cross-entropy would vanish for every
    confident network, masked or not.
    """
    predict = problem.predict(problem.origin)
    step = PGD(eps=problem.attack.eps, order=problem.attack.order, iterations=1, loss="cw",
               step_size=problem.attack.eps, random_start=False, keep_best=False)  # fmt: skip
    still: list[Tensor] = []
    for batch, moved in problem.under(step).adversarial():
        with torch.no_grad():
            before, after = (margin(predict(z), batch.y) for z in (batch.x, moved))
        still.append(((after - before).abs() <= _STILL * (1 + before.abs())).cpu())
    return torch.cat(still).numpy()
