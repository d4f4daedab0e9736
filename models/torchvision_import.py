"""Import torchvision, also beside a CPU-only torch for which its wheel was not built."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import torch

# the operators that torchvision registers fake kernels for at import; they live in the compiled
# part of its wheel, which does not load beside a torch build of another kind
_SCHEMAS = {
    "torchvision::nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "torchvision::qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


def import_torchvision(submodule: str = "") -> ModuleType:
    """Return `torchvision` or one of its submodules; schemas are defined only if the import fails.

    With a matching wheel this is a plain import. Otherwise models, transforms and data sets work
    and only box suppression (nms) is missing.
    """
    name = f"torchvision.{submodule}" if submodule else "torchvision"
    try:
        return importlib.import_module(name)
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    for module in [m for m in sys.modules if m.split(".")[0] == "torchvision"]:
        del sys.modules[module]  # the failed import left half of itself behind
    for operator, schema in _SCHEMAS.items():
        torch.library.define(operator, schema)
    return importlib.import_module(name)
