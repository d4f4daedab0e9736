"""Gaussian noise on weights, determined by seed, purpose and the parameter's name."""

from __future__ import annotations

import zlib

import torch

from ridgeline.landscape.weights.point import Point
from ridgeline.train.data.noise import Purpose, stream


def gaussian(point: Point, seed: int, purpose: Purpose, number: int = 0) -> Point:
    """N(0, 1) for every weight: draw `number` of a seed and a purpose."""
    drawn = {}
    for name, weight in point.items():
        own = stream(seed, purpose, number, zlib.crc32(name.encode()))
        drawn[name] = (
            torch.from_numpy(own.standard_normal(weight.numel())).view_as(weight).to(weight)
        )
    return drawn
