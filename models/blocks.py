"""The inputs of a network's blocks, and the sizes of its feature maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ridgeline.models.copying import copy_of
from ridgeline.models.errors import InputError


def block_inputs(network: nn.Module) -> dict[str, nn.Module]:
    """The first convolution of every residual block, by name, in the order of the network.

    A block is a module with `conv1` and `conv2` that is not the network itself (in our networks and
    torchvision's). A network without blocks has an attribute `block_inputs` with the names of
    modules whose input is the output of a ReLU. Raises InputError if there are none.
    """
    named = dict(network.named_modules())
    listed = getattr(network, "block_inputs", None)
    if listed is not None:
        return {name: named[name] for name in listed}
    blocks = [n for n, m in named.items() if n and hasattr(m, "conv1") and hasattr(m, "conv2")]
    if not blocks:
        raise InputError(
            f"{type(network).__name__} has no residual blocks; block noise needs modules with "
            "conv1 and conv2, or an attribute block_inputs that names the modules to disturb"
        )
    return {f"{name}.conv1": named[f"{name}.conv1"] for name in blocks}


def input_sizes(network: nn.Module, image_shape: Sequence[int]) -> dict[str, int]:
    """The smaller side of each convolution's input map, by name, for images (C, H, W).

    If it is smaller than the kernel, some weights of the kernel never see data. The spectrum of
    the kernel is then partly that of its initialisation.
    """
    sizes: dict[str, int] = {}

    def hook(name: str):
        return lambda module, inputs: sizes.__setitem__(name, min(inputs[0].shape[2:]))

    twin = copy_of(network).eval()
    for name, module in twin.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(hook(name))
    like = next(twin.parameters())
    with torch.no_grad():
        twin(torch.zeros(1, *image_shape, dtype=like.dtype, device=like.device))
    return sizes
