"""Fast max-pooling without gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ridgeline.landscape.problem import Problem
from ridgeline.landscape.surfaces.plain import plain_layer, plain_tensor
from ridgeline.models.copying import Replacements
from ridgeline.models.layers import Halving

#: side of a window from which slices are not faster
_LARGE = 5


def pooling_stand_ins(problem: Problem) -> Replacements:
    """The functions that replace pooling layers of a problem's network on a CPU; equal values.

    PyTorch also records the index of every maximum, which only a gradient needs. Maxima of slices
    are four (channels-last) to twenty times faster. Without gradients only.
    """
    if problem.device.type != "cpu":
        return {}
    return {n: _pooled for n, m in problem.network.named_modules() if _plain(m)}


def _plain(module: nn.Module) -> bool:
    if not plain_layer(module, (nn.MaxPool2d, Halving)):
        return False
    if type(module) is Halving:
        return True
    kernel, step = _pair(module.kernel_size), _pair(module.stride)
    usual = _pair(module.padding) == (0, 0) and _pair(module.dilation) == (1, 1)
    known = usual and not (module.return_indices or module.ceil_mode)
    known = known and kernel is not None and step is not None
    # a window of one pixel would return a view of the images, which the next layer may overwrite
    return known and min(*kernel, *step) >= 1 and min(kernel) >= 2 and max(kernel) < _LARGE


def _pair(size: Any) -> tuple[int, int] | None:
    pair = (size, size) if type(size) is int else size
    whole = isinstance(pair, tuple) and len(pair) == 2 and all(type(n) is int for n in pair)
    return pair if whole else None


def _pooled(module: nn.Module, *args: Any, **named: Any) -> Tensor:
    x = args[0] if len(args) == 1 and not named else None
    if not _images(x):
        return type(module).forward(module, *args, **named)
    (high, wide), (down, along) = _pair(module.kernel_size), _pair(module.stride)
    rows, columns = (x.shape[2] - high) // down + 1, (x.shape[3] - wide) // along + 1
    if min(rows, columns) < 1:
        return type(module).forward(module, x)
    last = down * (rows - 1) + 1
    tall = torch.maximum(x[:, :, :last:down], x[:, :, 1 : 1 + last : down])
    for k in range(2, high):
        tall = torch.maximum(tall, x[:, :, k : k + last : down])
    last = along * (columns - 1) + 1
    found = torch.maximum(tall[..., :last:along], tall[..., 1 : 1 + last : along])
    for k in range(2, wide):
        found = torch.maximum(found, tall[..., k : k + last : along])
    return found


def _images(x: Any) -> bool:
    """Whether x is an ordinary tensor of images in a usual layout that needs no gradient."""
    if torch.is_grad_enabled() or type(x) is not Tensor or x.ndim != 4 or not plain_tensor(x):
        return False
    dense = x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)
    return dense and x.numel() > 0 and x.is_floating_point() and x.device.type == "cpu"
