"""Layers shared by several networks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.errors import InputError


class Normalize(nn.Module):
    """Map images in [0,1] to (x - mean) / std per channel, so that eps stays in pixel units.

    The constants are non-persistent buffers: the network's state dict has no extra key.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        if len(mean) != len(std) or not mean or min(std) <= 0:
            raise InputError(
                f"normalisation needs one mean and one positive std per channel, got {mean} {std}"
            )
        shape = (1, -1, 1, 1)
        self.register_buffer("mean", torch.tensor(mean).view(shape), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(shape), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x of shape (N, C, H, W)."""
        return (x - self.mean) / self.std


class NormalizeInput:
    """Forward pre-hook that sends the input through the network's own `normalize` layer."""

    def __call__(self, network: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Normalise the first positional input, leave the others alone."""
        return (network.normalize(inputs[0]), *inputs[1:])


def add_normalization(network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> nn.Module:
    """Put a `Normalize` inside any network without changing a key of its state dict."""
    network.normalize = Normalize(mean, std)
    network.register_forward_pre_hook(NormalizeInput())
    return network
