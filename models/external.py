"""Networks that Ridgeline does not define: any `package.module:factory`."""

from __future__ import annotations

import importlib
import inspect

from torch import nn

from models.errors import InputError


def external(model_type: str, **options: object) -> nn.Module:
    """Import `package.module:factory` and call it with those of `options` its signature names.

    Raises InputError when the module, the factory or its result is not usable. The import runs
    the named code: call this only with a name the user typed, never with one read from a file.
    """
    module_name, _, factory_name = model_type.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), factory_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"model_type {model_type!r} cannot be imported: {error}") from None
    if not callable(factory):
        raise InputError(f"model_type {model_type!r} is not a function or class")
    try:
        names = inspect.signature(factory).parameters
    except ValueError:
        names = {}
    network = factory(**{k: v for k, v in options.items() if k in names})
    if not isinstance(network, nn.Module):
        raise InputError(
            f"model_type {model_type!r} returned a {type(network).__name__}, not a torch.nn.Module"
        )
    return network
