"""The term that sharpness-aware minimisation adds to the loss."""

from __future__ import annotations

from ridgeline.landscape.sharpness.options import SharpnessOptions
from ridgeline.landscape.sharpness.view import Value, View
from ridgeline.landscape.weights.point import add, norm


def sam(view: View, options: SharpnessOptions) -> Value:
    """L(theta + rho g / ||g||) - L(theta) with the gradient g (Foret et al. 2021).

    The standard error is over examples. The value is 0 if the gradient is 0.
    """
    base, gradient = view.gradient()
    length = norm(gradient)
    step = options.rho_l2 / length if length else 0.0
    return view.mean(view.losses(add(view.origin, gradient, step)) - base, "examples")
