"""Random numbers that belong to an example, not to a batch.

Start points of attacks are drawn from a counter-based generator (Philox) keyed by the seed and the
example's index, so that batch size, device, order of work and resuming never change a result.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


def stream(seed: int, *counters: int) -> np.random.Generator:
    """A numpy generator that depends only on `seed` and up to three counters (all >= 0)."""
    padded = (0, *counters, *(0,) * (3 - len(counters)))
    return np.random.Generator(np.random.Philox(key=seed, counter=padded))


@dataclass(frozen=True)
class Noise:
    """Noise for the examples of one batch: `index` (N,) are their places in the data set."""

    seed: int
    index: Tensor
    epoch: int = 0

    def uniform(self, like: Tensor, draw: int = 0) -> Tensor:
        """U(-1, 1) of the shape, dtype and device of `like` (N, ...); `draw` counts restarts."""
        rows = [self._stream(i, draw).random(like[0].numel(), np.float32) for i in self._indices()]
        return (2 * self._stack(rows, like) - 1).view_as(like)

    def normal(self, like: Tensor, draw: int = 0) -> Tensor:
        """N(0, 1) of the shape, dtype and device of `like` (N, ...)."""
        size = like[0].numel()
        rows = [self._stream(i, draw).standard_normal(size, np.float32) for i in self._indices()]
        return self._stack(rows, like).view_as(like)

    def ball(self, like: Tensor, draw: int = 0) -> Tensor:
        """Uniform in the unit l_2 ball of each example, shaped as `like`."""
        size = like[0].numel()
        rows = []
        for i in self._indices():
            generator = self._stream(i, draw)
            direction = generator.standard_normal(size)
            radius = generator.random() ** (1 / size)
            rows.append((radius / np.linalg.norm(direction) * direction).astype(np.float32))
        return self._stack(rows, like).view_as(like)

    def batch_seed(self, draw: int = 0) -> int:
        """One seed for the batch, for libraries that cannot take noise per example."""
        return int(self._stream(self._indices()[0], draw).integers(2**31))

    def _indices(self) -> list[int]:
        return self.index.tolist()

    def _stream(self, index: int, draw: int) -> np.random.Generator:
        return stream(self.seed, self.epoch, index, draw)

    @staticmethod
    def _stack(rows: list[np.ndarray], like: Tensor) -> Tensor:
        return torch.from_numpy(np.stack(rows)).to(like.device, like.dtype)


def noise_for(x: Tensor, noise: Noise | int) -> Noise:
    """Accept a plain seed where a `Noise` is wanted: the examples are then 0..N-1."""
    return noise if isinstance(noise, Noise) else Noise(noise, torch.arange(len(x)))
