"""The worst weights in a ball, by projected ascent with shrinking steps."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from ridgeline.landscape.sharpness.noise import gaussian
from ridgeline.landscape.sharpness.view import Value, View
from ridgeline.landscape.weights.point import Point, add, norm
from ridgeline.train.data.noise import Purpose

INF, L2, TENSORS = "l_inf", "l_2", "l_2 of every tensor"
#: share of the steps between two decisions on the step size (Croce and Hein 2020)
_LOOK = 0.22
_MOMENTUM = 0.75
#: the step is halved if fewer than this share of the steps have raised the loss
_SHARE = 0.75


@dataclass(frozen=True)
class Ball:
    """The weights theta + scale * u with norm(u) <= radius; the product is entry by entry.

    `norm` is taken over all entries together, or for TENSORS over each tensor separately.
    """

    scale: Point
    radius: float
    norm: str

    def steepest(self, gradient: Point) -> Point:
        """The u of length `radius` with the largest rise of the loss, to first order."""
        g = {n: t * self.scale[n] for n, t in gradient.items()}
        if self.norm == INF:
            return {n: self.radius * t.sign() for n, t in g.items()}
        return self.of_length(g)

    def inside(self, u: Point) -> Point:
        """The nearest u within the ball."""
        if self.norm == INF:
            return {n: t.clamp(-self.radius, self.radius) for n, t in u.items()}
        return self.of_length(u, grow=False)

    def move(self, u: Point) -> Point:
        """The change of the weights for u: scale * u."""
        return {n: t * self.scale[n] for n, t in u.items()}

    def of_length(self, u: Point, grow: bool = True) -> Point:
        """The direction of u with length `radius`. Without `grow` a shorter u keeps its length.

        For TENSORS each tensor is treated separately. A zero u stays 0.
        """
        whole = norm(u)
        found = {}
        for name, tensor in u.items():
            size = tensor.double().norm().item() if self.norm == TENSORS else whole
            changes = size > 0 and (grow or size > self.radius)
            found[name] = tensor * (self.radius / size) if changes else tensor
        return found


def worst_rise(view: View, ball: Ball, steps: int) -> Value:
    """The largest rise of the mean loss that ascent finds in a ball, at least 0.

    The search is APGD (Croce and Hein 2020), with momentum. The step begins at twice the radius.
    When the loss no longer rises, the step is halved and the search continues from the best point.
    The start is random, because the gradient may be 0 at the weights. The standard error is over
    examples, for the perturbation found. It does not include the error of the search.
    """
    base = best = view.losses()
    u = before = _random(view.origin, ball, view.seed)
    top: tuple[Point, Point] | None = None  # the best point so far and its gradient
    step, latest, rises, since = 2.0, -math.inf, 0, 0
    for _ in range(steps):
        losses, gradient = view.gradient(_weights(view, ball, u))
        mean = losses.mean().item()
        rises, since, latest = rises + (mean > latest), since + 1, mean
        if mean > best.mean().item() or top is None:
            top = u, gradient
            best = losses if mean > best.mean().item() else best
        if since >= max(2, round(_LOOK * steps)):
            if rises < _SHARE * since:
                step, (u, gradient), before = step / 2, top, top[0]
            rises = since = 0
        towards = ball.inside(add(u, ball.steepest(gradient), step))
        u, before = ball.inside(_mixed(u, towards, before)), u
    losses = view.losses(_weights(view, ball, u))
    best = losses if losses.mean() > best.mean() else best
    return view.mean(best - base, "examples")


def _weights(view: View, ball: Ball, u: Point) -> Point:
    return add(view.origin, ball.move(u))


def _mixed(u: Point, towards: Point, before: Point) -> Point:
    """U + 0.75 (towards - u) + 0.25 (u - before)."""
    part = add(u, add(towards, u, -1), _MOMENTUM)
    return add(part, add(u, before, -1), 1 - _MOMENTUM)


def _random(origin: Point, ball: Ball, seed: int) -> Point:
    """A random u of half the radius; for l_inf, a clipped Gaussian in the box of half the width."""
    drawn = gaussian(origin, seed, Purpose.WEIGHT_ASCENT)
    half = replace(ball, radius=ball.radius / 2)
    if ball.norm == INF:
        return {n: half.radius * t.clamp(-1, 1) for n, t in drawn.items()}
    return half.of_length(drawn)


def ones(origin: Point) -> Point:
    """Scale 1 for every weight."""
    return {n: torch.ones_like(t) for n, t in origin.items()}


def sizes(origin: Point) -> Point:
    """Scale |w| for every weight."""
    return {n: t.abs() for n, t in origin.items()}


def norms(origin: Point) -> Point:
    """Scale ||W|| for every entry of a tensor W."""
    return {n: torch.full_like(t, t.double().norm().item()) for n, t in origin.items()}
