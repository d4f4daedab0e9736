"""Geometry of l_inf and l_2 balls, per example; tensors are (N, C, H, W) in [0,1] units."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ridgeline.models.errors import InputError
from ridgeline.train.data.noise import Noise

INF, L2 = math.inf, 2.0


def check_order(order: float) -> float:
    """Return inf or 2. Raises InputError for other numbers.

    inf may be written -1, only to repeat released code (Liu et al. 2020).
    """
    if order in (INF, -1):
        return INF
    if order == L2:
        return L2
    raise InputError(f"attack order must be -1 (l_inf) or 2 (l_2), got {order:g}")


def row_norm(d: Tensor, order: float) -> Tensor:
    """Norm of every example's perturbation, shape (N,).

    >>> d = torch.tensor([[3.0, -4.0]])
    >>> row_norm(d, INF).tolist(), row_norm(d, L2).tolist()
    ([4.0], [5.0])
    """
    return torch.linalg.vector_norm(d.flatten(1), ord=order, dim=1)


def project(d: Tensor, eps: float | Tensor, order: float) -> Tensor:
    """The nearest perturbation with norm at most eps (a number, or one per example (N,)).

    >>> d = torch.tensor([[3.0, -4.0]])
    >>> project(d, 1.0, INF).tolist(), project(d, 2.5, L2).tolist()
    ([[1.0, -1.0]], [[1.5, -2.0]])
    """
    if order == INF:
        limit = columns(eps, d) if isinstance(eps, Tensor) else eps
        return d.clamp(-limit, limit)
    norm = row_norm(d, L2).clamp_min(torch.finfo(d.dtype).tiny)
    return d * columns((eps / norm).clamp_max(1), d)


def steepest(g: Tensor, order: float) -> Tensor:
    """The unit perturbation that increases the loss most; zero if the gradient is zero.

    For l_2 the gradient is first divided by its largest entry. Otherwise the squares of very small
    gradients would underflow, and the step would be zero.

    >>> g = torch.tensor([[3.0, -4.0]])
    >>> steepest(g, INF), steepest(g, L2)
    (tensor([[ 1., -1.]]), tensor([[ 0.6000, -0.8000]]))
    """
    if order == INF:
        return g.sign()
    tiny = torch.finfo(g.dtype).tiny
    g = g / columns(row_norm(g, INF).clamp_min(tiny), g)
    return g / columns(row_norm(g, L2).clamp_min(tiny), g)


def columns(v: Tensor, like: Tensor) -> Tensor:
    """Numbers (N,) in a shape that broadcasts over examples (N, ...)."""
    return v.view(-1, *(1,) * (like.ndim - 1))


def where(mask: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The examples of `a` where the mask (N,) is True, else those of `b`."""
    return torch.where(columns(mask, a), a, b)


def within(found: Tensor, x: Tensor, eps: float | Tensor, order: float) -> Tensor:
    """`found` projected on the ball around x, then clipped to [0,1]; eps as in `project`."""
    return (x + project(found - x, eps, order)).clamp(0, 1)


def random_start(x: Tensor, eps: float, order: float, noise: Noise, draw: int) -> Tensor:
    """X plus a perturbation uniform in the ball, clipped to [0,1]."""
    d = noise.uniform(x, draw) if order == INF else noise.ball(x, draw)
    return (x + eps * d).clamp(0, 1)
