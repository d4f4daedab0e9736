"""Data in memory as tensors, in a fixed order, every batch with its examples' indices."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from ridgeline.models.errors import InputError
from ridgeline.train.data.noise import Purpose, stream
from ridgeline.train.data.streaming import ImageFiles

#: largest set, in numbers, whose converted batches stay in memory (512 MiB in float32)
_REMEMBERED = 2**27
#: largest training set, in bytes, that is kept on an accelerator: CIFAR takes 0.15 GiB
_KEPT = 2**31

#: inputs of a network: a tensor, a tuple of tensors (its arguments) or a dict (keyword arguments)
Inputs = Tensor | tuple[Any, ...] | dict[str, Any]


def map_tensors(function: Callable[[Tensor], Any], inputs: Inputs) -> Any:
    """Apply the function to every tensor of inputs; the structure stays the same."""
    if isinstance(inputs, Tensor):
        return function(inputs)
    if isinstance(inputs, Mapping):
        return {name: map_tensors(function, part) for name, part in inputs.items()}
    return tuple(map_tensors(function, part) for part in inputs)


def leaves(inputs: Inputs) -> list[Tensor]:
    """The tensors of inputs, in order."""
    found: list[Tensor] = []
    map_tensors(found.append, inputs)
    return found


def arguments_of(inputs: Inputs) -> tuple[tuple, dict]:
    """Positional and keyword arguments of the network's forward."""
    if isinstance(inputs, Tensor):
        return (inputs,), {}
    return ((), inputs) if isinstance(inputs, Mapping) else (inputs, {})


class Batch(NamedTuple):
    """x and targets y of some examples, first axis B, and their indices in the data set (B,).

    Of images: x (B, C, H, W) in [0,1], labels y (B,).
    """

    x: Any
    y: Tensor
    index: Tensor


class Data(ABC):
    """A finite set of examples in a fixed order; `index` (N,) is their index in the whole set."""

    index: Tensor
    name: str
    _pieces: ClassVar[Any] = None
    _ready: ClassVar[Any] = None
    _remembers: ClassVar[bool] = False

    def __len__(self) -> int:
        return len(self.index)

    @abstractmethod
    def tensors(self) -> list[Tensor]:
        """All tensors of the examples, first axis N."""

    @abstractmethod
    def take(self, positions: Tensor | slice) -> Self:
        """The examples at the given positions, in that order. A slice shares memory."""

    @abstractmethod
    def batch(self, positions: Tensor, device: torch.device | str, dtype: torch.dtype) -> Batch:
        """The examples at some positions, on a device and in a dtype."""

    def on(self, device: torch.device) -> Self:
        """The same examples, on an accelerator if that is faster; see Images."""
        return self

    @cached_property
    def sha256(self) -> str:
        """Digest of all tensors of the examples."""
        digest = hashlib.sha256()
        for tensor in self.tensors():
            if isinstance(tensor, ImageFiles):
                for block in tensor.blocks():
                    digest.update(block)
            else:
                digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def pieces(self, size: int) -> tuple[Self, ...]:
        """The examples in pieces of `size`. Small sets cache each piece as a batch."""
        if self._pieces is None or self._pieces[0] != size:
            found = tuple(self.take(slice(n, n + size)) for n in range(0, len(self), size))
            numbers = sum(t.numel() for t in self.tensors())
            for piece in found:
                object.__setattr__(piece, "_remembers", numbers <= _REMEMBERED)
            object.__setattr__(self, "_pieces", (size, found))
        return self._pieces[1]

    def whole(self, device: torch.device | str, dtype: torch.dtype) -> Batch:
        """All examples as one batch, on a device and in a dtype."""
        key = (torch.device(device), dtype)
        if self._ready is not None and self._ready[0] == key:
            return self._ready[1]
        batch = self.batch(torch.arange(len(self)), device, dtype)
        if self._remembers:
            object.__setattr__(self, "_ready", (key, batch))
        return batch

    def subset(self, size: int | None, seed: int = 0) -> Self:
        """A fixed random subset (the whole set if `size` is None), ordered by index."""
        if size is None or size == len(self):
            return self
        if not 1 <= size <= len(self):
            raise InputError(f"{self.name}: a subset needs 1..{len(self)} examples, got {size}")
        chosen = np.sort(stream(seed, Purpose.SUBSET).permutation(len(self))[:size])
        return self.take(torch.from_numpy(chosen))

    def split(self, fraction: float) -> tuple[Self, Self]:
        """The set without a fixed random fraction (0..1, at least one example), and that part."""
        count = max(1, round(fraction * len(self)))
        if not 0 < fraction < 1 or count == len(self):
            raise InputError(f"{self.name}: a split needs a fraction between 0 and 1 that leaves "
                             f"examples on both sides, got {fraction:g}")  # fmt: skip
        order = torch.from_numpy(stream(0, Purpose.SPLIT).permutation(len(self)))
        return self.take(order[count:].sort().values), self.take(order[:count].sort().values)

    def batches(
        self,
        batch_size: int,
        *,
        order: Tensor | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Iterator[Batch]:
        """Yield each example once, in the set's order or `order`. The last batch may be short."""
        if order is None and len(self) <= batch_size:
            yield self.whole(device, dtype)
            return
        positions = torch.arange(len(self)) if order is None else order
        for chunk in self.ahead(positions.split(batch_size)):
            yield self.batch(chunk, device, dtype)

    def ahead(self, parts: Sequence[Tensor]) -> Iterator[Tensor]:
        """The parts (positions) in turn. Files that `batch` needs are read in advance."""
        return iter(parts)

    def shuffled(self, seed: int, epoch: int) -> Tensor:
        """The order of one training epoch, which depends only on the seed and the epoch."""
        return torch.from_numpy(stream(seed, Purpose.ORDER, epoch).permutation(len(self)))


@dataclass(frozen=True, repr=False)
class Examples(Data):
    """Any data: `inputs` of the network and `targets`; the first axis of every tensor is N.

    The network gets floats in its own dtype, and whole numbers (tokens, masks) unchanged.
    """

    inputs: Inputs
    targets: Tensor
    index: Tensor
    name: str

    def __post_init__(self) -> None:
        for tensor in self.tensors():
            if tensor.ndim == 0 or len(tensor) != len(self.index) or not len(self.index):
                raise InputError(
                    f"{self.name}: inputs and targets need the same number of examples, at least "
                    f"one, as their first axis; got {', '.join(map(_shape, self.tensors()[:-1]))}"
                )
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise InputError(f"{self.name}: the data hold NaN or infinite numbers")

    def __repr__(self) -> str:
        shapes = ", ".join(_shape(t[0]) for t in leaves(self.inputs))
        return f"Examples({self.name}: {len(self)} of {shapes}, targets {_shape(self.targets[0])})"

    def tensors(self) -> list[Tensor]:
        """Inputs, targets and indices."""
        return [*leaves(self.inputs), self.targets, self.index]

    def take(self, positions: Tensor | slice) -> Examples:
        """The examples at the given positions, in that order."""
        return replace(
            self,
            inputs=map_tensors(lambda t: t[positions], self.inputs),
            targets=self.targets[positions],
            index=self.index[positions],
        )

    def batch(self, positions: Tensor, device: torch.device | str, dtype: torch.dtype) -> Batch:
        """The examples at some positions; floats in `dtype`."""

        def ready(tensor: Tensor) -> Tensor:
            here = tensor[positions].to(device)
            return here.to(dtype) if here.is_floating_point() else here

        return Batch(map_tensors(ready, self.inputs), ready(self.targets), self.index[positions])


@dataclass(frozen=True, repr=False)
class Images(Data):
    """A labelled image set: `pixels` (N, C, H, W) uint8, or float in [0,1]; `labels` (N,) int64.

    Pixels that do not fit in memory are `streaming.ImageFiles`. `index` (N,) are the examples'
    indices in the set they were taken from.
    """

    pixels: Tensor | ImageFiles
    labels: Tensor
    index: Tensor
    name: str
    num_classes: int

    def __post_init__(self) -> None:
        if self.pixels.ndim != 4 or len(self.pixels) != len(self.labels) or not len(self.labels):
            raise InputError(
                f"{self.name}: needs as many labels as images (N, C, H, W) and at least one, got "
                f"images {tuple(self.pixels.shape)} and labels {tuple(self.labels.shape)}"
            )
        if self.pixels.is_floating_point() and not self.pixels.isfinite().all():
            raise InputError(f"{self.name}: the images hold NaN or infinite pixels")
        if int(self.labels.min()) < 0 or int(self.labels.max()) >= self.num_classes:
            raise InputError(f"{self.name}: labels must lie in 0..{self.num_classes - 1}")

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.image_shape))
        return f"Images({self.name}: {len(self)} of {shape}, {self.num_classes} classes)"

    def check_beside(self, other: Images) -> None:
        """Raise InputError unless the other images are of the same shape."""
        if self.image_shape != other.image_shape:
            raise InputError(
                f"{self.name}: its splits are of different shapes, "
                f"{self.image_shape} and {other.image_shape}"
            )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return tuple(self.pixels.shape[1:])

    def tensors(self) -> list[Tensor]:
        """Pixels, labels and indices."""
        return [self.pixels, self.labels, self.index]

    def ahead(self, parts: Sequence[Tensor]) -> Iterator[Tensor]:
        """The parts in turn. Worker processes decode images that are not in memory."""
        return self.pixels.ahead(parts) if isinstance(self.pixels, ImageFiles) else iter(parts)

    def loaded(self) -> Images:
        """The same images, all in memory. Raises InputError if they do not fit."""
        if not isinstance(self.pixels, ImageFiles):
            return self
        return replace(self, pixels=self.pixels.loaded())

    def take(self, positions: Tensor | slice) -> Images:
        """The examples at the given positions, in that order."""
        return replace(
            self,
            pixels=self.pixels[positions],
            labels=self.labels[positions],
            index=self.index[positions],
        )

    def on(self, device: torch.device) -> Images:
        """The same images with pixels and labels on an accelerator, if they take up to 2 GiB.

        Batches are then made on the accelerator. `index` stays on the CPU.
        """
        streamed = isinstance(self.pixels, ImageFiles)
        if device.type == "cpu" or streamed or self.pixels.nbytes > _KEPT:
            return self
        return replace(self, pixels=self.pixels.to(device), labels=self.labels.to(device))

    def batch(self, positions: Tensor, device: torch.device | str, dtype: torch.dtype) -> Batch:
        """The images at some positions. Bytes are divided by 255."""
        there = positions.to(self.pixels.device)
        pixels = self.pixels[there].to(device)
        x = pixels.to(dtype).div(255) if pixels.dtype == torch.uint8 else pixels.to(dtype)
        return Batch(x, self.labels[there].to(device), self.index[positions])


def _shape(tensor: Tensor) -> str:
    sizes = "x".join(map(str, tensor.shape)) or "1"
    return f"{sizes} {str(tensor.dtype).removeprefix('torch.')}"
