"""Read a user's data: a DataLoader, a Dataset, a pair (x, y), or our own Data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ridgeline.models.errors import InputError
from ridgeline.train.data.examples import Data, Examples, Images
from ridgeline.train.progress import progress

#: the keys under which a dict batch may have its targets
TARGETS = ("labels", "label", "targets", "target", "y")
_ALLOWED = (
    "allowed are a pair (x, y), a torch DataLoader or Dataset that yields (x, y), and what "
    "rl.load_images gives"
)


def examples_of(data: Any, name: str = "data") -> Data:
    """Examples in memory from a user's data. Our own Data are returned unchanged.

    - A pair (x, y): x is a tensor or array (N, ...), a tuple of them (the network's arguments) or a
      dict (its keyword arguments).
    - A DataLoader or Dataset: it is read once, with the order and augmentation of that reading. Its
      batches are (x, y), (x1, x2, ..., y), or a dict with the targets under one of TARGETS.

    Four-dimensional x with whole-number labels (N,) become Images, which can be attacked. All else
    becomes Examples. Raises InputError for other data.
    """
    if isinstance(data, Data):
        return data
    if _is_pair(data):
        x, y = (each_array(part, name) for part in data)
    elif isinstance(data, Dataset | DataLoader) or (
        isinstance(data, Iterable) and not isinstance(data, Tensor | np.ndarray | Mapping | str)
    ):
        x, y = _read(data, name)
    else:
        raise InputError(f"cannot read data of type {type(data).__name__}; {_ALLOWED}")
    if not isinstance(y, Tensor):
        raise InputError(f"{name}: the targets must be one tensor (N, ...)")
    count = len(y) if y.ndim else 0
    index = torch.arange(count)
    whole = not y.is_floating_point() and not y.is_complex() and y.dtype != torch.bool
    y = y.long() if whole else y
    if whole and y.ndim == 1 and count and int(y.min()) >= 0 and _pixels(x):
        return Images(x, y, index, name, int(y.max()) + 1)
    return Examples(x, y, index, name)


def each_array(part: Any, name: str) -> Any:
    """Tensors or arrays, alone or in tuples or dicts, as tensors on the CPU without a graph."""
    if isinstance(part, Tensor):
        return part.detach().cpu()
    if isinstance(part, np.ndarray):
        if part.dtype.kind not in "biuf":
            raise InputError(f"{name}: an array of {part.dtype} holds no numbers")
        return torch.from_numpy(np.require(part, requirements=["C", "W"]))
    if isinstance(part, Mapping) and part:
        return {str(k): each_array(v, name) for k, v in part.items()}
    if isinstance(part, list | tuple) and part:
        if all(isinstance(v, int | float) for v in part):
            return torch.tensor(part)
        return tuple(each_array(v, name) for v in part)
    raise InputError(f"{name}: cannot use a {type(part).__name__} as inputs or targets; {_ALLOWED}")


def _is_pair(data: Any) -> bool:
    """Whether the data are a pair (x, y) and not a sequence of batches."""
    if not isinstance(data, tuple | list) or len(data) != 2:
        return False
    x, y = data
    if isinstance(x, Tensor | np.ndarray | Mapping):
        return isinstance(y, Tensor | np.ndarray | list)
    # ((x1, x2), y) has tensors inside x; in a list of two batches both have targets
    return isinstance(x, tuple | list) and isinstance(y, Tensor | np.ndarray)


def _pixels(x: Any) -> bool:
    """Whether inputs can be images (N, C, H, W)."""
    if not isinstance(x, Tensor) or x.ndim != 4:
        return False
    return x.dtype == torch.uint8 or x.is_floating_point()


def _read(data: Any, name: str) -> tuple[Any, Tensor]:
    """All batches of a loader, joined."""
    if isinstance(data, Dataset) and not isinstance(data, DataLoader):
        data = DataLoader(data, batch_size=256)
    parts: list[tuple[Any, Any]] = []
    try:
        total = len(data)
    except TypeError:  # an iterable data set, or its loader, has no length
        total = None
    with progress(total, f"reading {name}", "batch") as bar:
        for batch in data:
            parts.append(_split(batch, name))
            bar.update(1)
    if not parts:
        raise InputError(f"{name}: the loader yields no batch")
    try:
        x = _joined([x for x, _ in parts])
        return x, torch.cat([y for _, y in parts])
    except (RuntimeError, KeyError, ValueError, TypeError) as error:
        first = str(error).splitlines()[0]
        raise InputError(f"{name}: its batches do not fit together ({first})") from None


def _split(batch: Any, name: str) -> tuple[Any, Tensor]:
    """Inputs and targets of a batch."""
    if isinstance(batch, Mapping):
        key = next((k for k in TARGETS if k in batch), None)
        if key is None:
            raise InputError(
                f"{name}: a batch that is a dict needs its targets under one of "
                f"{', '.join(TARGETS)}; it holds {', '.join(map(str, batch))}"
            )
        x: Any = {k: v for k, v in batch.items() if k != key}
        y = batch[key]
    elif isinstance(batch, tuple | list) and len(batch) >= 2:
        *inputs, y = batch
        x = inputs[0] if len(inputs) == 1 else tuple(inputs)
    else:
        raise InputError(
            f"{name}: the loader yields {type(batch).__name__}, not (x, y); "
            "where there are no targets, as for an autoencoder, yield (x, x)"
        )
    y = each_array(y, name)
    if not isinstance(y, Tensor):
        raise InputError(f"{name}: the targets must be one tensor (N, ...), got {type(y).__name__}")
    return each_array(x, name), y


def _joined(parts: list[Any]) -> Any:
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(parts)
    if isinstance(first, Mapping):
        return {k: _joined([p[k] for p in parts]) for k in first}
    return tuple(_joined(list(each)) for each in zip(*parts, strict=True))
