"""The change of each class's accuracy along the sharpest directions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import xarray as xr

from ridgeline.landscape.curvature.eigenpairs import top_eigenpairs
from ridgeline.landscape.curvature.operators import Hessian
from ridgeline.landscape.problem import Problem
from ridgeline.landscape.weights.point import add


def spikes(
    problem: Problem,
    count: int = 10,
    rise: float = 0.5,
    tol: float = 1e-3,
    max_iter: int = 20,
    tick: Callable[[int], Any] | None = None,
) -> xr.Dataset:
    """The change of every class's accuracy along each of the top eigenvectors of the Hessian.

    The weights move by sqrt(2 rise / lambda) to both sides. A quadratic loss would rise by `rise`
    there. With an attack, Hessian and accuracy are on the adversarial images that the attack finds
    at the weights. These images stay fixed while the weights move.

    Args:
        problem: The problem.
        count: Number of eigenvectors.
        rise: Rise of a quadratic loss, in nats.
        tol: Relative residual of a converged eigenpair.
        max_iter: Restarts of the Lanczos process.
        tick: Called with the number of examples after every evaluation.

    Returns:
        `spike_change` over (`spike`, `side`, `class`), NaN for a class without examples. Also
        `spike_eigenvalue`, and `spike_rise`, the true change of the loss. All are NaN for an
        eigenvalue that is not positive.
    """
    frozen = problem.frozen()
    labels = frozen.data.labels.numpy()
    classes = frozen.data.num_classes
    operator = Hessian(frozen)
    count = min(count, operator.shape[0])
    pairs = top_eigenpairs(operator, count, tol=tol, max_iter=max_iter, seed=problem.seed)
    base = frozen.evaluate()
    change = np.full((count, 2, classes), np.nan)
    rises = np.full((count, 2), np.nan)
    for n, value in enumerate(pairs.values):
        if value > 0:
            direction = operator.embed(torch.from_numpy(pairs.vectors[:, n].copy()))
            for side, sign in enumerate((-1, 1)):
                there = frozen.evaluate(
                    add(frozen.origin, direction, sign * math.sqrt(2 * rise / value))
                )
                rises[n, side] = there.loss - base.loss
                moved = (there.correct.double() - base.correct.double()).numpy()
                for k in np.unique(labels):
                    change[n, side, k] = moved[labels == k].mean()
        if tick is not None:
            tick(len(labels))
    return xr.Dataset(
        {
            "spike_change": (("spike", "side", "class"), change),
            "spike_rise": (("spike", "side"), rises),
            "spike_eigenvalue": ("spike", pairs.values),
            "spike_residual": ("spike", pairs.residuals),
        },
        coords={"spike": np.arange(1, count + 1), "side": [-1, 1], "class": np.arange(classes)},
    )
