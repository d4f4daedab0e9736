"""Max-pooling without gradients, at the speed of memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_NAMES = ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
#: sides of a window from which on the slices are no gain
_LARGE = 5


class SlicedPooling(TorchFunctionMode):
    """Inside, the maxima of 2-d windows on a CPU are taken slice by slice, to the same bits.

    PyTorch visits every window and notes where its maximum stood, which only a gradient needs:
    four (channels-last) to twenty times slower. Whatever has a gradient, a tangent, padding or
    dilation is left to PyTorch.
    """

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """The function's value, by slices where it is a pooling that qualifies."""
        if func is F.max_pool2d or func is torch.max_pool2d:
            found = _by_slices(**dict(zip(_NAMES, args, strict=False)), **(kwargs or {}))
            if found is not None:
                return found
        return func(*args, **(kwargs or {}))


def _by_slices(
    input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> Tensor | None:  # fmt: skip
    """The pooled images (..., H, W); None: not by us."""
    kernel, step = _pair(kernel_size), _pair(kernel_size if stride is None else stride)
    if ceil_mode or return_indices or _pair(padding) != (0, 0) or _pair(dilation) != (1, 1):
        return None
    if kernel is None or step is None or min(*kernel, *step) < 1 or max(kernel) >= _LARGE:
        return None
    if not _plain(input):
        return None
    (high, wide), (down, along) = kernel, step
    rows, columns = (input.shape[-2] - high) // down + 1, (input.shape[-1] - wide) // along + 1
    if min(rows, columns) < 1:
        return None
    last = down * (rows - 1) + 1
    found = input[..., :last:down, :]
    for k in range(1, high):
        found = torch.maximum(found, input[..., k : k + last : down, :])
    last = along * (columns - 1) + 1
    tall = found
    found = tall[..., :last:along]
    for k in range(1, wide):
        found = torch.maximum(found, tall[..., k : k + last : along])
    return found


def _pair(size: Any) -> tuple[int, int] | None:
    pair = (size, size) if isinstance(size, int) else tuple(size)
    pair = pair * 2 if len(pair) == 1 else pair
    return pair if len(pair) == 2 and all(isinstance(n, int) for n in pair) else None


def _plain(x: Any) -> bool:
    """Whether x is images on a CPU of which nobody wants a derivative."""
    if type(x) is not Tensor or x.ndim not in (3, 4) or x.device.type != "cpu":
        return False
    wanted = torch.is_grad_enabled() and x.requires_grad
    return x.is_floating_point() and not wanted and unpack_dual(x)[1] is None
