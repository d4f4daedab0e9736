"""The mean rise of the loss under Gaussian noise on the weights."""

from __future__ import annotations

import torch

from ridgeline.landscape.sharpness.noise import gaussian
from ridgeline.landscape.sharpness.options import SharpnessOptions
from ridgeline.landscape.sharpness.view import Value, View
from ridgeline.landscape.weights.point import Point, add
from ridgeline.train.data.noise import Purpose


def average_case(view: View, options: SharpnessOptions) -> Value:
    """E L(theta + sigma n) - L(theta) with n ~ N(0, 1); the standard error is over draws.

    To second order this is sigma^2 / 2 times the trace of the Hessian.
    """
    ones = {n: torch.ones_like(t) for n, t in view.origin.items()}
    return _rise(view, ones, options.noise, options.draws)


def average_case_adaptive(view: View, options: SharpnessOptions) -> Value:
    """E L(theta + sigma |theta| n) - L(theta), entry by entry (Andriushchenko et al. 2023)."""
    sizes = {n: t.abs() for n, t in view.origin.items()}
    return _rise(view, sizes, options.noise_adaptive, options.draws)


def _rise(view: View, scale: Point, sigma: float, draws: int) -> Value:
    base = view.losses().mean()
    rises = []
    for number in range(draws):
        drawn = gaussian(view.origin, view.seed, Purpose.WEIGHT_NOISE, number)
        moved = {n: t * scale[n] for n, t in drawn.items()}
        rises.append(view.losses(add(view.origin, moved, sigma)).mean() - base)
    return view.mean(torch.stack(rises), "draws")
