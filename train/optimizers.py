"""Optimisers by name, with the option names of torch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from ridgeline.models.errors import InputError, unknown
from ridgeline.train.specs import number, parse_spec

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
_FLAGS = {"nesterov", "amsgrad", "centered", "decoupled_weight_decay"}
#: option -> test of a valid number, and the message if it fails: torch accepts most wrong values
_FRACTION = (lambda v: 0 <= v < 1, "at least 0 and below 1")
_NOT_NEGATIVE = (lambda v: v >= 0, "0 or more")
_POSITIVE = (lambda v: v > 0, "positive")
_RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "lr": (lambda v: v >= 0, "a learning rate of 0 or more"),
    "momentum": _FRACTION,
    "dampening": (lambda v: 0 <= v <= 1, "in 0..1"),
    "betas": _FRACTION,
    "alpha": _FRACTION,
    "rho": _FRACTION,
    "eps": _POSITIVE,
    "weight_decay": _NOT_NEGATIVE,
    "lr_decay": _NOT_NEGATIVE,
    "initial_accumulator_value": _NOT_NEGATIVE,
}


@dataclass(frozen=True)
class OptimizerSpec:
    """Name, learning rate and further options of a torch optimiser."""

    name: str
    lr: float
    options: dict[str, Any] = field(default_factory=dict)

    def build(self, parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
        """The optimiser over the given tensors; on CUDA fused, where torch has it."""
        given = list(parameters)
        kind, options = OPTIMIZERS[self.name], dict(self.options)
        if given and all(p.is_cuda and type(p) in (Tensor, Parameter) for p in given):
            accepted = "fused" in inspect.signature(kind).parameters
            options |= {"fused": True} if accepted else {}
        return kind(given, lr=self.lr, **options)


def parse_optimizer(text: str) -> OptimizerSpec:
    """Build from a spec such as name=sgd,lr=0.1,momentum=0.9,weight_decay=1e-4.

    `betas` is written 0.9:0.999. SGD's momentum defaults to 0.9. Raises InputError.
    """
    what = "--optim"
    spec = parse_spec(text, what)
    name = spec.pop("name", "")
    if name not in OPTIMIZERS:
        raise unknown(f"optimiser name in {what}", name, OPTIMIZERS)
    accepted = inspect.signature(OPTIMIZERS[name]).parameters.keys() & (_FLAGS | _RANGES.keys())
    options = dict(_DEFAULTS.get(name, {}))
    for key, value in spec.items():
        if key not in accepted:
            raise unknown(f"key in {what} for {name}", key, accepted)
        if key in _FLAGS:
            if value.lower() not in ("0", "1", "true", "false"):
                raise InputError(f"{what}: {key} must be one of 0, 1, true, false, got {value!r}")
            options[key] = value.lower() in ("1", "true")
        else:
            options[key] = _checked(key, value, what)
    if "lr" not in options:
        raise InputError(f"{what}: {name} needs lr, e.g. name={name},lr=0.1")
    lr = options.pop("lr")
    try:
        OPTIMIZERS[name]([torch.zeros(1, requires_grad=True)], lr=lr, **options)
    except (ValueError, TypeError) as error:
        raise InputError(f"{what}: {error}") from None
    return OptimizerSpec(name, lr, options)


def _checked(key: str, text: str, what: str) -> float | tuple[float, ...]:
    """The number of an option (two for betas). Raises InputError outside its range."""
    fits, allowed = _RANGES[key]
    parts = [number(part, f"{what}: {key}") for part in text.split(":")]
    if len(parts) != (2 if key == "betas" else 1) or not all(map(fits, parts)):
        count = "two numbers a:b, each " if key == "betas" else ""
        raise InputError(f"{what}: {key} must be {count}{allowed}, got {text!r}")
    return tuple(parts) if key == "betas" else parts[0]
