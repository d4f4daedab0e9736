"""Optimisers by name, with the option names of torch."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from models.errors import InputError, unknown
from train.specs import number, parse_spec

#: spec name -> optimiser
OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "adagrad": torch.optim.Adagrad,
    "adadelta": torch.optim.Adadelta,
    "rmsprop": torch.optim.RMSprop,
}
_DEFAULTS: dict[str, dict[str, Any]] = {"sgd": {"momentum": 0.9}}
_FLAGS = {"nesterov", "amsgrad", "centered"}


@dataclass(frozen=True)
class OptimizerSpec:
    """Name, learning rate and further options of a torch optimiser."""

    name: str
    lr: float
    options: dict[str, Any] = field(default_factory=dict)

    def build(self, parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
        """The optimiser over the given tensors."""
        return OPTIMIZERS[self.name](parameters, lr=self.lr, **self.options)


def parse_optimizer(text: str, what: str = "--optim") -> OptimizerSpec:
    """Build from a spec such as name=sgd,lr=0.1,momentum=0.9,weight_decay=1e-4.

    `betas` is written 0.9:0.999. SGD's momentum defaults to 0.9. Raises InputError.
    """
    spec = parse_spec(text, what)
    name = spec.pop("name", "")
    if name not in OPTIMIZERS:
        raise unknown(f"optimiser name in {what}", name, OPTIMIZERS)
    accepted = set(inspect.signature(OPTIMIZERS[name]).parameters)
    accepted -= {"params", "foreach", "fused", "capturable", "differentiable", "maximize"}
    options = dict(_DEFAULTS.get(name, {}))
    for key, value in spec.items():
        if key not in accepted:
            raise unknown(f"key in {what} for {name}", key, accepted)
        if key == "betas":
            options[key] = tuple(number(part, f"{what}: betas") for part in value.split(":"))
        elif key in _FLAGS:
            if value.lower() not in ("0", "1", "true", "false"):
                raise InputError(f"{what}: {key} must be one of 0, 1, true, false, got {value!r}")
            options[key] = value.lower() in ("1", "true")
        else:
            options[key] = number(value, f"{what}: {key}")
    if "lr" not in options:
        raise InputError(f"{what}: {name} needs lr, e.g. name={name},lr=0.1")
    lr = options.pop("lr")
    try:
        OPTIMIZERS[name]([torch.zeros(1, requires_grad=True)], lr=lr, **options)
    except (ValueError, TypeError) as error:
        raise InputError(f"{what}: {error}") from None
    return OptimizerSpec(name, lr, options)
