"""The largest eigenvalue of the Hessian."""

from __future__ import annotations

import math

import torch

from ridgeline.landscape.curvature.eigenpairs import top_eigenpairs
from ridgeline.landscape.curvature.operators import Hessian
from ridgeline.landscape.sharpness.options import SharpnessOptions
from ridgeline.landscape.sharpness.view import Value, View
from ridgeline.train.statistics import mean_and_error

#: number of groups of examples for the standard error
GROUPS = 10


def lambda_max(view: View, options: SharpnessOptions) -> Value:
    """The largest eigenvalue, by Lanczos; NaN if it has not converged.

    The standard error is that of v'Hv over ten groups of examples, where v is the eigenvector.
    """
    operator = Hessian(view.problem)
    pairs = top_eigenpairs(operator, 1, tol=options.tol, max_iter=options.max_iter, seed=view.seed)
    view.forward += 1
    view.backward += 1 + 2 * operator.products
    count, vector = len(view.problem.data), torch.from_numpy(pairs.vectors[:, 0].copy())
    curvatures = []
    groups = min(GROUPS, count)
    if groups > 1:
        view.forward += 1
        view.backward += 3
        v = vector.to(operator.device, operator.dtype)
        for number in range(groups):
            rows = torch.arange(number, count, groups)
            part = Hessian(view.problem.on(view.problem.data.take(rows)))
            curvatures.append(torch.dot(v, part.matvec(v)).item())
    error = mean_and_error(torch.tensor(curvatures, dtype=torch.float64))[1]
    found = float(pairs.values[0]) if pairs.converged[0] else math.nan
    return view.value(found, error, f"{groups} groups of examples")
