"""The trace of the Hessian."""

from __future__ import annotations

from ridgeline.landscape.curvature.operators import Hessian, dense
from ridgeline.landscape.curvature.trace import Estimate, estimate_trace
from ridgeline.landscape.sharpness.options import SharpnessOptions
from ridgeline.landscape.sharpness.view import Value, View


def trace(view: View, options: SharpnessOptions) -> Value:
    """The trace by Hutchinson's estimator; the standard error is over its random vectors.

    If it needs no more products, the diagonal is summed instead, without error.
    """
    operator = Hessian(view.problem)
    if operator.shape[0] <= options.trace_products:
        found = Estimate(dense(operator).double().trace().item(), 0.0, operator.shape[0], "exact")
    else:
        found = estimate_trace(operator, products=options.trace_products, seed=view.seed)
    view.forward += 1
    view.backward += 1 + 2 * operator.products
    return view.value(found.mean, found.se, "draws")
