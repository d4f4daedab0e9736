"""Linear layers by oneDNN, for CPUs on which MKL (PyTorch's matrix products) is slow."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ridgeline.landscape.problem import Problem
from ridgeline.landscape.surfaces.plain import plain_layer
from ridgeline.models.copying import Replacements

#: least number of weights for which the change of layout is worth it. It does not depend on the
#: number of examples, or the size of a piece would change the last digits
_LARGE = 2**15


def stand_ins(problem: Problem) -> Replacements:
    """The functions that replace linear layers of a problem's network, where they are faster.

    For float32 and without gradients only. Outputs are the same up to rounding.
    """
    if problem.device.type != "cpu" or problem.dtype != torch.float32 or not faster_here():
        return {}
    modules = problem.network.named_modules()
    return {name: _product for name, module in modules if plain_layer(module, (nn.Linear,))}


@functools.cache
def faster_here() -> bool:
    """Whether the CPU is AMD's: MKL runs there at about half of the possible speed."""
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):
        return False
    try:
        return "AuthenticAMD" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def _product(module: nn.Linear, x: Tensor, *others: Any, **named: Any) -> Tensor:
    large = isinstance(x, Tensor) and x.ndim == 2 and module.weight.numel() >= _LARGE
    weights = [w for w in (module.weight, module.bias) if w is not None]
    usual = large and all(t.dtype == torch.float32 for t in (x, *weights))
    if not usual or others or named or torch.is_grad_enabled():
        return type(module).forward(module, x, *others, **named)
    return F.linear(x.contiguous().to_mkldnn(), module.weight, module.bias).to_dense()
