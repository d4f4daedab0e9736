"""Curvature of the loss with respect to the pixels."""

from __future__ import annotations

import logging

import torch

from ridgeline.landscape.curvature.eigenpairs import top_eigenpairs
from ridgeline.landscape.curvature.input_hessian import InputHessian
from ridgeline.landscape.sharpness.options import SharpnessOptions
from ridgeline.landscape.sharpness.view import Value, View

log = logging.getLogger(__name__)


def input_curvature(view: View, options: SharpnessOptions) -> Value:
    """The largest eigenvalue of the Hessian by the pixels, mean over the first `inputs` examples.

    The standard error is over these examples. Passes of single examples are counted as fractions
    of a pass over all.
    """
    count = len(view.problem.data)
    if options.inputs > count:
        log.warning("--inputs %d: there are %d examples, all are taken", options.inputs, count)
    found = []
    for example in range(min(options.inputs, count)):
        operator = InputHessian(view.problem, example)
        pairs = top_eigenpairs(
            operator, 1, tol=options.tol, max_iter=options.max_iter, seed=view.seed
        )
        found.append(pairs.values[0])
        view.forward += 1 / count
        view.backward += (1 + 2 * operator.products) / count
    return view.mean(torch.tensor(found, dtype=torch.float64), "examples")
