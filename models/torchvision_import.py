"""Import torchvision, even if its wheel was built for another torch."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import torch

# torchvision registers fake kernels for these operators at import. They are defined in the compiled
# part of its wheel, which cannot be loaded with another torch build
_SCHEMAS = {
    "torchvision::nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "torchvision::qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


def import_torchvision(submodule: str = "") -> ModuleType:
    """Return `torchvision` or one of its submodules.

    With a matching wheel this is a plain import. If the import fails, operator schemas are defined
    first. Models, transforms and data sets then work; only box suppression (nms) is missing.
    """
    name = f"torchvision.{submodule}" if submodule else "torchvision"
    try:
        return importlib.import_module(name)
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    for module in [m for m in sys.modules if m.split(".")[0] == "torchvision"]:
        del sys.modules[module]  # partly loaded by the import that failed
    for operator, schema in _SCHEMAS.items():
        torch.library.define(operator, schema)
    return importlib.import_module(name)
