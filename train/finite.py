"""Whether tensors hold NaN or infinite entries."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor


def finite(tensors: Iterable[Tensor]) -> bool:
    """Whether no floating-point entry is NaN or infinite, at the cost of one look at each."""
    return bool(finiteness(tensors))


def finiteness(tensors: Iterable[Tensor], device: torch.device | str = "cpu") -> Tensor:
    """The same as a tensor () on the tensors' device, for which nobody waits.

    `device` is where the answer lies if there are no numbers.
    """
    real = [t.detach() for t in tensors if t.is_floating_point() and t.numel()]
    if not real:
        return torch.ones((), dtype=torch.bool, device=device)
    return torch.stack(torch._foreach_norm(real, math.inf)).isfinite().all()
