"""Whether tensors hold NaN or infinite entries."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor


def finite(tensors: Iterable[Tensor]) -> bool:
    """Whether no floating-point entry is NaN or infinite, at the cost of one look at each."""
    real = [t.detach() for t in tensors if t.is_floating_point() and t.numel()]
    if not real:
        return True
    return bool(torch.stack(torch._foreach_norm(real, math.inf)).isfinite().all())
