"""Sharpness as Keskar et al. defined it."""

from __future__ import annotations

from dataclasses import replace

from ridgeline.landscape.sharpness.ascent import INF, Ball, worst_rise
from ridgeline.landscape.sharpness.options import SharpnessOptions
from ridgeline.landscape.sharpness.view import Value, View


def keskar(view: View, options: SharpnessOptions) -> Value:
    """100 (max L(theta + d) - L(theta)) / (1 + L(theta)) over |d_i| <= e (|theta_i| + 1).

    Keskar et al. 2017, definition 2.1, in the full space. The maximum is found by projected
    ascent, not by L-BFGS-B. The standard error is over examples and of the rise only.
    """
    scale = {n: t.abs() + 1 for n, t in view.origin.items()}
    rise = worst_rise(view, Ball(scale, options.keskar, INF), options.steps)
    factor = 100 / (1 + view.losses().mean().item())
    return replace(rise, value=factor * rise.value, se=factor * rise.se, forward=view.forward)
