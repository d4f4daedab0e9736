"""Images in memory as tensors, in a fixed order, every batch with its examples' indices."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ridgeline.models.errors import InputError
from ridgeline.train.data.noise import Purpose, stream


class Batch(NamedTuple):
    """x (B, C, H, W) in [0,1], labels y (B,), places of the examples in the data set (B,)."""

    x: Tensor
    y: Tensor
    index: Tensor


@dataclass(frozen=True)
class Images:
    """A labelled image set: `pixels` (N, C, H, W) uint8, or float in [0,1]; `labels` (N,) int64.

    `index` (N,) are the examples' places in the set they were taken from.
    """

    pixels: Tensor
    labels: Tensor
    index: Tensor
    name: str
    num_classes: int

    def __post_init__(self) -> None:
        if self.pixels.ndim != 4 or len(self.pixels) != len(self.labels) or not len(self.labels):
            raise InputError(
                f"{self.name}: needs as many labels as images (N, C, H, W) and at least one, got "
                f"images {tuple(self.pixels.shape)} and labels {tuple(self.labels.shape)}"
            )
        if self.pixels.is_floating_point() and not self.pixels.isfinite().all():
            raise InputError(f"{self.name}: the images hold NaN or infinite pixels")
        if int(self.labels.min()) < 0 or int(self.labels.max()) >= self.num_classes:
            raise InputError(f"{self.name}: labels must lie in 0..{self.num_classes - 1}")

    def check_beside(self, other: Images) -> None:
        """Raise InputError unless the other images are of the same shape."""
        if self.image_shape != other.image_shape:
            raise InputError(
                f"{self.name}: its splits are of different shapes, "
                f"{self.image_shape} and {other.image_shape}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return tuple(self.pixels.shape[1:])

    @cached_property
    def sha256(self) -> str:
        """Digest of pixels, labels and indices."""
        digest = hashlib.sha256()
        for tensor in (self.pixels, self.labels, self.index):
            digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def take(self, positions: Tensor) -> Images:
        """The examples at the given positions, in that order."""
        return replace(
            self,
            pixels=self.pixels[positions],
            labels=self.labels[positions],
            index=self.index[positions],
        )

    def subset(self, size: int | None, seed: int = 0) -> Images:
        """A fixed random subset (the whole set if `size` is None), ordered by index."""
        if size is None or size == len(self):
            return self
        if not 1 <= size <= len(self):
            raise InputError(f"{self.name}: a subset needs 1..{len(self)} examples, got {size}")
        chosen = np.sort(stream(seed, Purpose.SUBSET).permutation(len(self))[:size])
        return self.take(torch.from_numpy(chosen))

    def split(self, fraction: float) -> tuple[Images, Images]:
        """The set less a fixed random fraction (0..1, at least one example), and that fraction."""
        count = max(1, round(fraction * len(self)))
        if not 0 < fraction < 1 or count == len(self):
            raise InputError(f"{self.name}: a split needs a fraction between 0 and 1 that leaves "
                             f"examples on both sides, got {fraction:g}")  # fmt: skip
        order = torch.from_numpy(stream(0, Purpose.SPLIT).permutation(len(self)))
        return self.take(order[count:].sort().values), self.take(order[:count].sort().values)

    def batches(
        self,
        batch_size: int,
        *,
        order: Tensor | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Iterator[Batch]:
        """Yield each example once, in the set's order or `order`; the last batch may be short."""
        positions = torch.arange(len(self)) if order is None else order
        for chunk in positions.split(batch_size):
            pixels = self.pixels[chunk].to(device)
            x = pixels.to(dtype).div(255) if pixels.dtype == torch.uint8 else pixels.to(dtype)
            yield Batch(x, self.labels[chunk].to(device), self.index[chunk])

    def shuffled(self, seed: int, epoch: int) -> Tensor:
        """The order of one training epoch: a function of the seed and the epoch alone."""
        return torch.from_numpy(stream(seed, Purpose.ORDER, epoch).permutation(len(self)))
