"""Directions in weight space."""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor

from ridgeline.landscape.weights.point import Point, norm, subtract
from ridgeline.models.errors import unknown
from ridgeline.train.data.noise import Purpose, stream

NORMALIZATIONS = ("filter", "layer", "none")
#: how a normalised random direction treats 1-D tensors (biases, BatchNorm); `elementwise`
#: only to repeat released code (Liu et al. 2020)
ONE_DIMENSIONAL = ("zero", "layer", "elementwise")


def random_direction(
    point: Point,
    seed: int,
    normalization: str = "filter",
    one_dimensional: str = "zero",
    scale: float = 1.0,
    *,
    number: int = 0,
) -> Point:
    """A Gaussian direction at a Point, determined by the seed and the parameters' names.

    Args:
        point: The weights.
        seed: Seed of the draw.
        normalization: `filter`: every filter (row of the first axis) gets the norm of the weights'
            filter. `layer`: every tensor gets the norm of the weights' tensor. `none`: N(0, 1).
        one_dimensional: 1-D tensors under filter and layer. `zero`: they do not move (Li et al.).
            `layer`: they get the norm of the weights' tensor. `elementwise`: they are the weights
            with random signs (Liu et al. 2020).
        scale: Factor on the direction.
        number: Which direction of the seed; all are independent.

    Returns:
        The direction, a Point.

    Raises:
        InputError: for an unknown normalisation.

    References:
        Li et al. 2018, section 4.

    >>> weight = torch.tensor([[3.0, 4.0], [6.0, 8.0]])
    >>> random_direction({"w": weight}, seed=0)["w"].norm(dim=1)  # each filter's own norm
    tensor([ 5.0000, 10.0000])
    """
    if normalization not in NORMALIZATIONS:
        raise unknown("direction normalisation", normalization, NORMALIZATIONS)
    if one_dimensional not in ONE_DIMENSIONAL:
        raise unknown("policy for 1-D tensors", one_dimensional, ONE_DIMENSIONAL)
    direction = {}
    for name, weight in point.items():
        own = stream(seed, Purpose.DIRECTION, number, zlib.crc32(name.encode()))
        draws = own.standard_normal(weight.numel())
        d = torch.from_numpy(draws.astype(np.float64)).view(weight.shape).to(weight)
        if normalization != "none":
            d = _normalize(d, weight, normalization, one_dimensional)
        direction[name] = scale * d
    return direction


def _normalize(d: Tensor, weight: Tensor, normalization: str, one_dimensional: str) -> Tensor:
    if weight.ndim <= 1:
        if one_dimensional == "zero":
            return torch.zeros_like(d)
        if one_dimensional == "elementwise":
            return d.sign() * weight.abs()
        normalization = "layer"
    axes = tuple(range(1, d.ndim)) if normalization == "filter" else tuple(range(d.ndim))
    tiny = torch.finfo(d.dtype).tiny
    length = torch.linalg.vector_norm(d, dim=axes, keepdim=True).clamp_min(tiny)
    return d / length * torch.linalg.vector_norm(weight, dim=axes, keepdim=True)


def between(start: Point, end: Point) -> Point:
    """The direction from one checkpoint to another: coordinate 0 is the start, 1 the end.

    >>> between({"w": torch.ones(1)}, {"w": torch.zeros(1)})
    {'w': tensor([-1.])}
    """
    return subtract(end, start)


def unit(direction: Point, length: float = 1.0) -> Point:
    """The direction with Euclidean norm `length`.

    >>> {n: d.tolist() for n, d in unit({"w": torch.tensor([3.0, 4.0])}, 10.0).items()}
    {'w': [6.0, 8.0]}
    """
    size = norm(direction)
    if size == 0:
        raise ValueError("a zero direction cannot be normalised")
    return {n: d * (length / size) for n, d in direction.items()}
