"""Whether tensors hold NaN or infinite entries."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor


def finite(tensors: Iterable[Tensor]) -> bool:
    """Whether no floating-point entry is NaN or infinite; each entry is read once."""
    return bool(finiteness(tensors))


def finiteness(tensors: Iterable[Tensor], device: torch.device | str = "cpu") -> Tensor:
    """The same as a tensor () on the tensors' device, without waiting for the device.

    `device` is the device of the result if there are no numbers.
    """
    real = [t.detach() for t in tensors if t.is_floating_point() and t.numel()]
    if not real:
        return torch.ones((), dtype=torch.bool, device=device)
    return torch.stack(torch._foreach_norm(real, math.inf)).isfinite().all()
