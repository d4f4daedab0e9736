"""Our own layers: normalisation of the input inside a network, and pooling."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ridgeline.models.errors import InputError


class Normalize:
    """Map images in [0,1] to (x - mean) / std per channel, before a network's own forward.

    It is a forward pre-hook with plain numbers. So an `nn.Sequential` does not run it as a child,
    it has no key in the state dict, and it works with every dtype and device.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        if len(mean) != len(std) or not mean or min(std) <= 0:
            raise InputError(
                f"normalisation needs one mean and one positive std per channel, got {mean} {std}"
            )
        self.mean, self.std = tuple(mean), tuple(std)

    def __call__(self, network: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Normalise the first positional input (N, C, H, W). Other inputs do not change."""
        x, *others = inputs
        mean, std = (
            torch.tensor(values, dtype=x.dtype, device=x.device).view(1, -1, 1, 1)
            for values in (self.mean, self.std)
        )
        return ((x - mean) / std, *others)


def add_normalization(network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> nn.Module:
    """Make any network normalise its input. The keys of its state dict do not change.

    Args:
        network: The network; it is changed in place.
        mean: One number per channel.
        std: One number per channel.

    Returns:
        The same network.

    >>> network = add_normalization(nn.Identity(), [0.5], [0.25])
    >>> network(torch.ones(1, 1, 1, 1)).item()  # (1 - 0.5) / 0.25
    2.0
    """
    network.register_forward_pre_hook(Normalize(mean, std))
    return network


def normalization_in(network: nn.Module) -> Normalize | None:
    """The normalisation that `add_normalization` added to a network, or None."""
    hooks = network._forward_pre_hooks.values()
    return next((hook for hook in hooks if isinstance(hook, Normalize)), None)


class Halving(nn.Module):
    """Maxima of 2 x 2 pixels. It is a module, so that a scan can replace it by a faster one.

    It is not an `nn.MaxPool2d`, because a network may call it at several places.
    """

    kernel_size = stride = 2

    def forward(self, x: Tensor) -> Tensor:
        """Half the height and width of images (N, C, H, W)."""
        return F.max_pool2d(x, 2)
