"""Random crop and flip, drawn per example and epoch, and taken back."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ridgeline.train.data.examples import Batch
from ridgeline.train.data.noise import Purpose, stream

PADDING = 4


class Crop(NamedTuple):
    """Offsets of every example's window in its padded image, and whether it is mirrored: (B,)."""

    top: Tensor
    left: Tensor
    flip: Tensor

    @classmethod
    def draw(cls, index: Tensor, seed: int, epoch: int) -> Crop:
        """A function of the seed, the epoch and each example's place in the data set alone."""
        shape = (2 * PADDING + 1, 2 * PADDING + 1, 2)
        draws = [stream(seed, Purpose.CROP, epoch, i).integers(shape) for i in index.tolist()]
        return cls(*torch.from_numpy(np.stack(draws)).unbind(1))

    def apply(self, padded: Tensor) -> Tensor:
        """Windows (B, C, H, W) of padded images (B, C, H + 8, W + 8)."""
        return padded[self._places(padded)].permute(0, 3, 1, 2).contiguous()

    def undo(self, padded: Tensor, windows: Tensor) -> None:
        """Write windows back where `apply` took them from, in place; the rest stays."""
        padded[self._places(padded)] = windows.permute(0, 2, 3, 1)

    def _places(self, padded: Tensor) -> tuple[Tensor, slice, Tensor, Tensor]:
        height, width = (size - 2 * PADDING for size in padded.shape[2:])
        top, left, flip = (t.to(padded.device)[:, None] for t in self)
        rows = top + torch.arange(height, device=padded.device)
        columns = torch.arange(width, device=padded.device)
        columns = left + torch.where(flip == 1, width - 1 - columns, columns)
        example = torch.arange(len(padded), device=padded.device)[:, None, None]
        return example, slice(None), rows[:, :, None], columns[:, None, :]


def crop_and_flip(batch: Batch, seed: int, epoch: int, fill: float = 0.0) -> Batch:
    """Random crop after padding with `fill`, and random horizontal flip."""
    padded = F.pad(batch.x, (PADDING,) * 4, value=fill)
    return batch._replace(x=Crop.draw(batch.index, seed, epoch).apply(padded))
