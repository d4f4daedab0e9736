"""The inner maximum of the adversarial loss: find it, and find its active constraints."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ridgeline.train.attacks.norms import INF, row_norm
from ridgeline.train.losses import cross_entropy
from ridgeline.train.precision import exact


def columns(v: Tensor) -> Tensor:
    """Numbers per example (N,) as (N, 1, 1, 1)."""
    return v.view(-1, 1, 1, 1)


def dots(a: Tensor, b: Tensor) -> Tensor:
    """Inner product per example, (N,)."""
    return (a * b).flatten(1).sum(1)


def onto_ball_and_box(x: Tensor, moved: Tensor, eps: float, order: float) -> Tensor:
    """The nearest image to `moved` within the ball around x and [0,1].

    For l_2 the multiplier of the ball is found by bisection. Clipping a projected image is not
    the projection on both sets; neither is projecting a clipped image.
    """
    if order == INF:
        return (x + (moved - x).clamp(-eps, eps)).clamp(0, 1)
    d = moved - x
    low = torch.zeros(len(x), dtype=x.dtype, device=x.device)
    high = (row_norm(d, 2) / eps).clamp_min(1)  # large enough to shrink every d into the ball

    def at(shrink: Tensor) -> Tensor:
        return (x + d / columns(1 + shrink)).clamp(0, 1) - x

    for _ in range(60):
        middle = (low + high) / 2
        outside = row_norm(at(middle), 2) > eps
        low, high = torch.where(outside, middle, low), torch.where(outside, high, middle)
    inside = row_norm(at(torch.zeros_like(low)), 2) <= eps
    return x + at(torch.where(inside, 0, high))


@exact()
def refine(
    predict, x: Tensor, y: Tensor, start: Tensor, *, eps: float, order: float, iterations: int = 60
) -> Tensor:
    """The maximum (N, C, H, W) of the cross-entropy near `start`, by projected gradient ascent.

    Each example has its own step length. It doubles after a success and shrinks after a failure,
    so the loss never falls. Attacks stop near the maximum, but implicit differentiation holds only
    at the maximum.
    """
    best, step = start.detach(), torch.full_like(x[:, 0, 0, 0], 10 * eps)

    def look(images: Tensor) -> tuple[Tensor, Tensor]:
        images = images.detach().requires_grad_()
        with torch.enable_grad():
            losses = cross_entropy(predict(images), y)
            (gradient,) = torch.autograd.grad(losses.sum(), images)
        return losses.detach(), gradient

    losses, gradient = look(best)
    rounding = 4 * torch.finfo(x.dtype).eps
    for _ in range(iterations):
        largest = row_norm(gradient, INF).clamp_min(torch.finfo(x.dtype).tiny)
        tried = onto_ball_and_box(x, best + columns(step / largest) * gradient, eps, order)
        new_losses, new_gradient = look(tried)
        better = new_losses >= losses - rounding * losses.abs()
        best = torch.where(columns(better), tried, best)
        gradient = torch.where(columns(better), new_gradient, gradient)
        losses = torch.where(better, new_losses, losses)
        step = torch.where(better, 2 * step, step / 8).clamp(max=1e6 * eps)
    return best


class Faces(NamedTuple):
    """The active constraints (faces of ball and box) of maximisers.

    - `free` (N, C, H, W) is 1 for pixels on no face, else 0. Only these move with the weights.
    - `delta` is the perturbation of the free pixels where the l_2 ball is active, else 0.
    - `multiplier` (N,) is the Lagrange multiplier of the l_2 ball.
    - `stationarity` (N,) is the length of the gradient along the free directions relative to the
      whole gradient: 0 at a maximum.
    """

    free: Tensor
    delta: Tensor
    multiplier: Tensor
    stationarity: Tensor

    def tangent(self, u: Tensor) -> Tensor:
        """The component of u in the free directions."""
        u = u * self.free
        square = dots(self.delta, self.delta)
        along = dots(self.delta, u) / torch.where(square > 0, square, 1)
        return u - columns(along) * self.delta


def faces(x: Tensor, adversarial: Tensor, gradient: Tensor, eps: float, order: float) -> Faces:
    """The active constraints of maximisers, from the gradient of each example's loss."""
    delta = adversarial - x
    near = 16 * torch.finfo(x.dtype).eps
    free = (adversarial > near) & (adversarial < 1 - near)
    zeros = torch.zeros_like(x[:, 0, 0, 0])
    if order == INF:
        free = free & (delta.abs() < eps * (1 - 1e-5))
        result = Faces(free.to(x), torch.zeros_like(x), zeros, zeros)
    else:
        active = row_norm(delta, 2) >= eps * (1 - 1e-4)
        normal = delta * free * columns(active)
        square = dots(normal, normal)
        multiplier = dots(gradient, normal) / torch.where(square > 0, square, 1)
        result = Faces(free.to(x), normal, multiplier, zeros)
    rest = row_norm(result.tangent(gradient), 2)
    whole = row_norm(gradient, 2)
    return result._replace(stationarity=rest / torch.where(whole > 0, whole, 1))
