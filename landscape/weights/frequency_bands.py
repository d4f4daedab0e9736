"""Directions in weight space that change only low or only high frequencies of kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from ridgeline.landscape.weights.directions import random_direction
from ridgeline.landscape.weights.point import Point
from ridgeline.models.dct import analyse, high_frequencies, synthesise
from ridgeline.models.errors import InputError, unknown

BANDS = ("low", "high")


def band_of(kernels: Tensor, band: str) -> Tensor:
    """The part of kernels (..., K, K) at frequencies max(i, j) <= K/2 (low) or > K/2 (high)."""
    if band not in BANDS:
        raise unknown("band of frequencies", band, BANDS)
    high = high_frequencies(kernels.shape[-1], kernels.device)
    return synthesise(analyse(kernels) * (high if band == "high" else ~high))


def band_direction(
    point: Point, seed: int, band: str, scale: float = 1.0, *, number: int = 0
) -> Point:
    """A Gaussian direction in one frequency band; each kernel tensor has its norm times `scale`.

    Only square kernels of 3 x 3 and more change. So `low` and `high` make equal relative steps in
    the same layers, and their losses can be compared. The draw is that of `random_direction`,
    projected on the band. Raises InputError for a network without such kernels.
    """
    drawn = random_direction(point, seed, "none", number=number)
    direction, found = {}, False
    for name, w in point.items():
        direction[name] = torch.zeros_like(w)
        if w.ndim == 4 and w.shape[-1] == w.shape[-2] >= 3:
            part = band_of(drawn[name], band)
            direction[name] = part * (scale * w.norm() / part.norm())
            found = True
    if not found:
        raise InputError("the network has no square kernel of 3 x 3 or more to split by frequency")
    return direction
