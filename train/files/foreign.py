"""State dicts in foreign files of torch.save. Only plain data are unpickled, never code."""

from __future__ import annotations

import logging
import pickle
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ridgeline.models.errors import InputError, is_out_of_memory
from ridgeline.train.files.integrity import check_torch_zip

log = logging.getLogger(__name__)

#: entries under which training scripts store the trained network; the first one found is used
NESTS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network")
#: path segments that wrappers of torch add to names: DataParallel, torch.compile, FSDP, recompute
WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
#: types of numbers that scripts save beside the weights; plain data, like tensors
_DATA = [
    np.dtype,
    np._core.multiarray.scalar,
    (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),
    *(type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "?")),
]


def read_torch(path: Path) -> Any:
    """The content of a file of torch.save, on the CPU.

    Raises InputError for a damaged file and for one that contains code.
    """
    check_torch_zip(path)
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_DATA):
            warnings.simplefilter("ignore")  # the warnings address the author of the file
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        held = re.search(r"(?:GLOBAL|class) (\S+\.\S+)", str(error))
        if held is None:
            raise InputError(
                f"{path} is refused: it is truncated, damaged, not a checkpoint, or holds code "
                "besides tensors; allowed are safetensors and torch.save of a dict of tensors"
            ) from None
        raise InputError(
            f"{path} is refused: it holds the class or function {held[1]}, and loading that runs "
            "code; where you trust the file, load it in Python yourself and write its weights anew "
            "with torch.save(network.state_dict(), NEW)"
        ) from None
    except Exception as error:  # torch's reader raises many types for damaged files
        if is_out_of_memory(error):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path} is damaged, truncated or not a checkpoint ({reason})") from None


def state_in(content: Any, path: Path, key: str | None = None) -> dict[str, Tensor]:
    """The state dict in the content of a file; `key` is the dotted path of its entry.

    Entries that are not tensors (epochs, options) are left out. Without `key` it is the entry with
    a name in `NESTS`, else the tensors at the top level, else the only other state dict. Raises
    InputError if there is none, and if several are possible.
    """
    found = {name: tensors for name, tensors in _state_dicts(content) if tensors}
    if not any(t.ndim for t in found.get("", {}).values()):
        found.pop("", None)  # a number, such as an accuracy, beside the weights
    if key is not None:
        return _entry(found, key, path)
    ranked = [n for n in NESTS if n in found] or [n for n in ("",) if n in found]
    if not ranked and len(found) > 1:
        raise InputError(
            f"{path} holds several state dicts: name one with --state_key, {' or '.join(found)}"
        )
    if not (ranked or found):
        raise InputError(
            f"{path} holds no state dict; allowed are a dict of tensors, bare or under "
            f"{', '.join(NESTS)} or the entry named by --state_key"
        )
    chosen, *_ = ranked or found
    others = [n for n in found if n not in (chosen, "")]
    if others:
        log.warning(
            "%s: taking %s; --state_key takes %s",
            path, chosen or "the tensors at its top", " or ".join(others),
        )  # fmt: skip
    return _plain(found[chosen], path)


def _state_dicts(content: Any, name: str = "", depth: int = 6) -> Iterator[tuple[str, dict]]:
    """Every mapping in the content that directly contains tensors, by its dotted path.

    Mappings with numbers as keys belong to an optimiser (momentum) and are skipped.
    """
    if isinstance(content, list | tuple) and len(content) == 1:
        content = content[0]
    if not isinstance(content, Mapping) or not depth:
        return
    yield name, {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
    for key, value in content.items():
        if isinstance(key, str):
            yield from _state_dicts(value, f"{name}.{key}" if name else key, depth - 1)


def _entry(found: Mapping[str, Mapping[str, Tensor]], key: str, path: Path) -> dict[str, Tensor]:
    """The state dict whose dotted path is `key`, or the tensors whose names begin with it."""
    for name, tensors in found.items():
        if name == key:
            return _plain(tensors, path)
        rest = key.removeprefix(f"{name}." if name else "") + "."
        inside = {n.removeprefix(rest): t for n, t in tensors.items() if n.startswith(rest)}
        if key.startswith(name) and inside:
            return _plain(inside, path)
    names = sorted({n or "the tensors at its top" for n in found})
    raise InputError(f"--state_key: {path} has no entry {key!r}; there are {', '.join(names)}")


def _plain(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors without graph. Raises InputError if one is not dense or larger than the file."""
    size = path.stat().st_size
    for name, tensor in tensors.items():
        if tensor.layout is not torch.strided or tensor.is_quantized:
            raise InputError(f"{path}: {name} is not a dense tensor but {tensor.layout}")
        if tensor.numel() * tensor.element_size() > size:
            raise InputError(
                f"{path} is refused: {name} claims more elements than the file can hold"
            )
    return {name: tensor.detach() for name, tensor in _unwrapped(tensors).items()}


def _unwrapped(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The tensors, without wrapper segments at the beginning of all names."""
    first = {name.partition(".")[0] for name in tensors if "." in name}
    if len(first) != 1 or not first <= WRAPPERS:
        return tensors
    (wrapper,) = first
    short = {name.removeprefix(f"{wrapper}."): t for name, t in tensors.items()}
    return _unwrapped(short) if len(short) == len(tensors) else tensors
