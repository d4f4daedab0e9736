"""Flatness of the adversarial loss: weights and images are perturbed together."""

from __future__ import annotations

import torch

from ridgeline.landscape.sharpness.ascent import TENSORS, Ball, norms, worst_rise
from ridgeline.landscape.sharpness.noise import gaussian
from ridgeline.landscape.sharpness.options import SharpnessOptions
from ridgeline.landscape.sharpness.view import Moving, Value, View
from ridgeline.landscape.weights.point import add
from ridgeline.train.data.noise import Purpose


def robust_flatness_average(view: View, options: SharpnessOptions) -> Value:
    """The mean rise of the adversarial loss under noise on the weights; each draw is attacked.

    The noise of each tensor has a random direction and xi times the tensor's norm (Stutz et al.
    2021). The standard error is over draws. NaN for the clean loss.
    """
    if view.attacked is None:
        return view.nothing()
    moving, rises = Moving(view.attacked), []
    ball = Ball(norms(view.origin), options.xi_average, TENSORS)
    base = moving.losses().mean()
    for number in range(options.draws):
        drawn = gaussian(view.origin, view.seed, Purpose.WEIGHT_NOISE, number)
        moved = add(view.origin, ball.move(ball.of_length(drawn)))
        rises.append(moving.losses(moved).mean() - base)
    return moving.mean(torch.stack(rises), "draws")


def robust_flatness_worst(view: View, options: SharpnessOptions) -> Value:
    """The largest rise of the adversarial loss with every tensor within xi times its norm.

    Every step of the ascent runs the attack again (Stutz et al. 2021). The standard error is over
    examples. NaN for the clean loss.
    """
    if view.attacked is None:
        return view.nothing()
    ball = Ball(norms(view.origin), options.xi_worst, TENSORS)
    return worst_rise(Moving(view.attacked), ball, options.steps)
