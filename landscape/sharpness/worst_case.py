"""The largest rise of the loss within a ball around the weights, absolute or adaptive."""

from __future__ import annotations

from ridgeline.landscape.sharpness.ascent import INF, L2, Ball, ones, sizes, worst_rise
from ridgeline.landscape.sharpness.options import SharpnessOptions
from ridgeline.landscape.sharpness.view import Value, View


def worst_case_l2(view: View, options: SharpnessOptions) -> Value:
    """The largest L(theta + d) - L(theta) over ||d||_2 <= rho.

    To second order at a minimum it is rho^2 / 2 times the largest eigenvalue of the Hessian.
    """
    return worst_rise(view, Ball(ones(view.origin), options.rho_l2, L2), options.steps)


def worst_case_linf(view: View, options: SharpnessOptions) -> Value:
    """The largest L(theta + d) - L(theta) over |d_i| <= rho."""
    return worst_rise(view, Ball(ones(view.origin), options.rho_linf, INF), options.steps)


def adaptive_l2(view: View, options: SharpnessOptions) -> Value:
    """The largest L(theta + |theta| u) - L(theta) over ||u||_2 <= rho (Kwon et al. 2021)."""
    return worst_rise(view, Ball(sizes(view.origin), options.rho_adaptive_l2, L2), options.steps)


def adaptive_linf(view: View, options: SharpnessOptions) -> Value:
    """The largest L(theta + |theta| u) - L(theta) over |u_i| <= rho (as Andriushchenko et al.)."""
    return worst_rise(view, Ball(sizes(view.origin), options.rho_adaptive_linf, INF), options.steps)
