"""Networks that Ridgeline does not define: `package.module:factory` or `file.py:factory`.

Options of the factory follow after a comma, as in a call: `torchvision.models:resnet18,
num_classes=2`. Importing runs the named code. So the name must be typed by the user; names from
files are never imported.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin

from ridgeline.models.errors import InputError, reason_of, unknown
from ridgeline.models.torchvision_import import import_torchvision


def external(model_type: str, **options: object) -> nn.Module:
    """Import the factory and call it with those `options` that its signature has.

    Options that the user wrote after the factory's name replace `options`. Raises InputError if the
    module, the factory, an option or the result cannot be used.
    """
    source, _, call = model_type.partition(":")
    name, _, text = call.partition(",")
    factory = _factory(source, name, model_type)
    given = options_in(text, model_type)
    try:
        known = inspect.signature(factory).parameters
    except ValueError:  # a class written in C has no signature
        known = {}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in known.values())
    for key in given:
        if key not in known and not takes_any:
            raise unknown(f"option of {source}:{name}", key, known)
    own = {key: value for key, value in options.items() if key in known}
    handed_on = takes_any and "num_classes" in options and "num_classes" not in {*own, *given}

    def make() -> Any:
        if handed_on:  # torchvision's factories accept it although their signature lacks it
            try:
                return factory(**{**own, **given, "num_classes": options["num_classes"]})
            except TypeError as error:
                if "num_classes" not in str(error):
                    raise
        return factory(**{**own, **given})

    network = in_one_line(make, f"{source}:{name} failed")
    if not isinstance(network, nn.Module):
        raise InputError(
            f"model_type {model_type!r} returned a {type(network).__name__}, not a torch.nn.Module"
        )
    return network


def code_of(network: nn.Module) -> str:
    """Digest of a network's structure and of the source files of its own classes.

    With it in a recipe, networks of the same name but with changed code can be distinguished.
    """
    classes = {type(m) for m in network.modules()}
    names = {cls.__module__ for cls in classes if cls.__module__.partition(".")[0] != "torch"}
    files = {getattr(sys.modules.get(name), "__file__", None) for name in names} - {None}
    digest = hashlib.sha256(repr(network).encode())
    for file in sorted(files):
        digest.update(Path(file).read_bytes())
    return digest.hexdigest()


def materialise(network: nn.Module, image_shape: Sequence[int]) -> nn.Module:
    """Initialise lazy modules by one black image (C, H, W). Other modules do not change."""
    if any(isinstance(module, LazyModuleMixin) for module in network.modules()):
        training = network.training
        with torch.no_grad():
            blank = torch.zeros(1, *image_shape)
            in_one_line(lambda: network.eval()(blank), "the network's lazy modules got no size")
        network.train(training)
    return network


def _factory(source: str, name: str, model_type: str) -> Callable[..., Any]:
    what = f"model_type {model_type!r} cannot be imported"
    if not (source and name.isidentifier()):
        raise InputError(f"{what}: write package.module:factory or file.py:factory")
    read = _from_file if source.endswith(".py") else _from_module
    module = in_one_line(lambda: read(source), what)
    factory = getattr(module, name, None)
    if factory is None:
        file = getattr(module, "__file__", None) or "a package without a file"
        raise InputError(f"{what}: there is no {name!r} in {file}; a file is named by its path, "
                         "e.g. ./nets.py:factory")  # fmt: skip
    if not callable(factory):
        raise InputError(f"model_type {model_type!r} is not a function or class")
    return factory


def _from_module(source: str) -> ModuleType:
    """Import a module. The working folder is searched first, as by Python itself."""
    with _searched(os.getcwd()):
        return importlib.import_module(source)


def _from_file(source: str) -> ModuleType:
    """Run a Python file as a module. It can import other files of its folder."""
    path = Path(source).resolve()
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {source}")
    name = f"ridgeline_external_{path.stem}_{abs(hash(path))}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        try:
            with _searched(str(path.parent)):
                spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


@contextmanager
def _searched(folder: str) -> Iterator[None]:
    before = list(sys.path)
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = before


def in_one_line(act: Callable[[], Any], what: str) -> Any:
    """The result of the user's code. Every exception becomes an InputError."""
    try:
        try:
            return act()
        except RuntimeError as error:
            if "operator torchvision::" not in str(error):
                raise
        import_torchvision()  # works around a torchvision wheel that does not fit this torch
        return act()
    except (Exception, SystemExit) as error:
        raise InputError(f"{what}: {reason_of(error)}") from None


def options_in(text: str, model_type: str) -> dict[str, Any]:
    """The options of a factory, written as in a call. A bare word is a string."""
    try:
        call = ast.parse(f"f({text})", mode="eval").body
        if not isinstance(call, ast.Call) or call.args or any(k.arg is None for k in call.keywords):
            raise ValueError
        return {
            k.arg: k.value.id if isinstance(k.value, ast.Name) else ast.literal_eval(k.value)
            for k in call.keywords
        }
    except (ValueError, SyntaxError):
        raise InputError(
            f"model_type {model_type!r}: cannot read the options {text!r}; "
            "write them as key=value,key=value"
        ) from None
