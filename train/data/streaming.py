"""Images that do not fit in memory: decoded by worker processes, batch by batch, in order."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ridgeline.models.errors import InputError
from ridgeline.train.progress import progress

#: share of the machine's memory that a set may take
_SHARE = 0.8
#: number of images decoded together when they are read in the order of the set
_BLOCK = 128
#: number of batches that each worker may decode in advance
_AHEAD = 1


def memory() -> int | None:
    """Bytes of this machine's memory; None if unknown."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def fits(size: int) -> bool:
    """Whether images of so many bytes fit in memory."""
    whole = memory()
    return whole is None or size <= _SHARE * whole


def check_memory(size: int, what: str) -> None:
    """Raise InputError if images of so many bytes do not fit in memory."""
    if not fits(size):
        raise InputError(
            f"{what}: its images take {size / 2**30:.1f} GiB, this machine has "
            f"{memory() / 2**30:.1f}; take a smaller side, FOLDER@SIDE, or fewer images, "
            "--subset_size"
        )


class ImageFiles:
    """Replaces a tensor of pixels (N, C, H, W) uint8; the files are decoded when needed.

    `to` decodes the files. `ahead` decodes batches in advance, by `workers` processes (None: one
    per core; 0: in this process). `read` returns the pixels (H, W, 3) of a path, or raises
    InputError. The number of workers does not change pixels or their order. At most `workers`
    batches are in memory.
    """

    dtype = torch.uint8
    device = torch.device("cpu")
    ndim = 4

    def __init__(
        self, paths: Sequence[Path], read: Callable[[Path], tuple[np.ndarray, bool]],
        shape: tuple[int, int, int], what: str, workers: int | None = None,
    ):  # fmt: skip
        self.paths, self.read, self.what = paths, read, what
        self.shape = torch.Size((len(paths), *shape))
        self.workers = (os.cpu_count() or 1) if workers is None else workers
        self._ready: tuple[dict[int, int], np.ndarray] | None = None  # index -> row, and the rows
        self._decoded: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def numel(self) -> int:
        """The number of bytes of all images."""
        return self.shape.numel()

    nbytes = property(numel)

    def is_floating_point(self) -> bool:
        """False: pixels are bytes."""
        return False

    def __getitem__(self, places: Tensor | slice) -> ImageFiles:
        """Some of the files. They are not decoded, unless `ahead` has just decoded them."""
        if isinstance(places, slice):
            paths = self.paths[places]
        else:
            chosen = places.tolist()
            paths = [self.paths[n] for n in chosen]
        found = ImageFiles(paths, self.read, tuple(self.shape[1:]), self.what, self.workers)
        if self._ready is not None and not isinstance(places, slice):
            rows, pixels = self._ready
            if all(n in rows for n in chosen):
                found._decoded = pixels[[rows[n] for n in chosen]]
        return found

    def to(self, device: torch.device | str) -> Tensor:
        """All pixels as a tensor on a device. Raises InputError if a file cannot be decoded."""
        pixels = self._decoded
        if pixels is None:
            with ThreadPoolExecutor(self.workers or 1) as pool:
                pixels = self._stacked(list(pool.map(self.read, self.paths)))
        return torch.from_numpy(pixels).to(device)

    def loaded(self) -> Tensor:
        """All pixels in memory. Raises InputError if they do not fit."""
        check_memory(self.nbytes, self.what)
        parts = torch.arange(len(self)).split(_BLOCK)
        return torch.cat([self[places].to("cpu") for places in self.ahead(parts)])

    def blocks(self) -> Iterator[bytes]:
        """The bytes of all pixels in the order of a contiguous tensor, part by part."""
        with progress(len(self), f"read {self.what}", "image") as bar:
            for places in self.ahead(torch.arange(len(self)).split(_BLOCK)):
                yield self[places].to("cpu").numpy().tobytes()
                bar.update(len(places))

    def ahead(self, parts: Sequence[Tensor]) -> Iterator[Tensor]:
        """The parts (positions) in turn. Each is decoded when it is due, the next in advance."""
        workers = min(self.workers, len(parts))
        if workers == 0 or len(parts) < 2:
            yield from parts
            return
        try:
            batches = self._coming([p.tolist() for p in parts], workers)
            for places in parts:
                pixels = self._next(batches)
                self._ready = {n: row for row, n in enumerate(places.tolist())}, pixels
                yield places
        finally:
            self._ready = None

    def _coming(self, parts: list[list[int]], workers: int) -> Iterator[np.ndarray | InputError]:
        with warnings.catch_warnings():  # more workers than cores are useful if disks are slow
            warnings.filterwarnings("ignore", message="This DataLoader will create")
            return iter(DataLoader(
                _Decoder(self), batch_size=None, sampler=parts, num_workers=workers,
                prefetch_factor=_AHEAD, collate_fn=_as_it_is, worker_init_fn=_begin,
                generator=torch.Generator(),  # else its seed is drawn from torch's global generator
            ))  # fmt: skip

    def _next(self, batches: Iterator[np.ndarray | InputError]) -> np.ndarray:
        try:
            found = next(batches)
        except (RuntimeError, OSError) as error:
            said = str(error).splitlines()[0]
            raise InputError(f"{self.what}: a process that decodes images ended ({said}); fewer "
                             "--workers take less memory") from None  # fmt: skip
        if isinstance(found, InputError):
            raise found
        return found

    def _stacked(self, images: Sequence[tuple[np.ndarray, bool]]) -> np.ndarray:
        """Images (H, W, 3) as one array (N, C, H, W)."""
        channels, height, width = self.shape[1:]
        found = np.empty((len(images), channels, height, width), np.uint8)
        for row, (image, _) in zip(found, images, strict=True):
            row[:] = image.transpose(2, 0, 1)[:channels]
        return found


class _Decoder:
    """Decodes a batch in a worker. Errors are returned as values, to keep one-line messages."""

    def __init__(self, files: ImageFiles):
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, places: list[int]) -> np.ndarray | InputError:
        files = self.files
        try:
            return files._stacked([files.read(files.paths[n]) for n in places])
        except InputError as error:
            return error


def _as_it_is(pixels: np.ndarray | InputError) -> np.ndarray | InputError:
    """Return the arrays unchanged (the loader's collate function).

    Arrays go through a pipe. Tensors would need shared memory, which is small in containers.
    """
    return pixels


def _begin(number: int) -> None:
    """Ignore signals that are meant for the run: a worker ends with its loader."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
