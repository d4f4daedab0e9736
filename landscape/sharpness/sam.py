"""What sharpness-aware minimisation adds to the loss."""

from __future__ import annotations

from ridgeline.landscape.sharpness.options import SharpnessOptions
from ridgeline.landscape.sharpness.view import Value, View
from ridgeline.landscape.weights.point import add, norm


def sam(view: View, options: SharpnessOptions) -> Value:
    """L(theta + rho g / ||g||) - L(theta), g the gradient (Foret et al. 2021); error over examples.

    0 where the gradient is 0.
    """
    base, gradient = view.gradient()
    length = norm(gradient)
    step = options.rho_l2 / length if length else 0.0
    return view.mean(view.losses(add(view.origin, gradient, step)) - base, "examples")
