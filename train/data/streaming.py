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
#: images decoded together where the order is that of the set
_BLOCK = 128
#: batches that every worker may be ahead
_AHEAD = 1


def memory() -> int | None:
    """Bytes of this machine's memory; None where it does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def fits(size: int) -> bool:
    """Whether so many bytes of images can be held."""
    whole = memory()
    return whole is None or size <= _SHARE * whole


def check_memory(size: int, what: str) -> None:
    """Raise InputError if so many bytes cannot be held."""
    if not fits(size):
        raise InputError(
            f"{what}: its images take {size / 2**30:.1f} GiB, this machine has "
            f"{memory() / 2**30:.1f}; take a smaller side, FOLDER@SIDE, or fewer images, "
            "--subset_size"
        )


class ImageFiles:
    """Stands where pixels (N, C, H, W) uint8 do; `to` decodes them, `ahead` beforehand.

    `read` gives the pixels (H, W, 3) of a path, or raises InputError. `workers` processes decode
    the batches that come (None: one a core, 0: none, this process alone). Neither their number nor
    what is decoded beforehand changes a pixel or the order. At most `workers` batches are held.
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
        self._ready: tuple[dict[int, int], np.ndarray] | None = None  # by place, and decoded
        self._decoded: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def numel(self) -> int:
        """How many bytes all images have."""
        return self.shape.numel()

    nbytes = property(numel)

    def is_floating_point(self) -> bool:
        """No."""
        return False

    def __getitem__(self, places: Tensor | slice) -> ImageFiles:
        """Some of the files, not decoded unless they are those that `ahead` has just decoded."""
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
        """All pixels as a tensor on a device; InputError for a file that cannot be decoded."""
        pixels = self._decoded
        if pixels is None:
            with ThreadPoolExecutor(self.workers or 1) as pool:
                pixels = self._stacked(list(pool.map(self.read, self.paths)))
        return torch.from_numpy(pixels).to(device)

    def loaded(self) -> Tensor:
        """All pixels in memory; InputError if they do not fit."""
        check_memory(self.nbytes, self.what)
        parts = torch.arange(len(self)).split(_BLOCK)
        return torch.cat([self[places].to("cpu") for places in self.ahead(parts)])

    def blocks(self) -> Iterator[bytes]:
        """The bytes of all pixels in order, as a contiguous tensor holds them, part by part."""
        with progress(len(self), f"read {self.what}", "image") as bar:
            for places in self.ahead(torch.arange(len(self)).split(_BLOCK)):
                yield self[places].to("cpu").numpy().tobytes()
                bar.update(len(places))

    def ahead(self, parts: Sequence[Tensor]) -> Iterator[Tensor]:
        """The parts (positions) in turn; each is decoded when it comes, and the next begun."""
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
        with warnings.catch_warnings():  # more workers than cores: they may wait for a disk
            warnings.filterwarnings("ignore", message="This DataLoader will create")
            return iter(DataLoader(
                _Decoder(self), batch_size=None, sampler=parts, num_workers=workers,
                prefetch_factor=_AHEAD, collate_fn=_as_it_is, worker_init_fn=_begin,
                generator=torch.Generator(),  # or its seed would be drawn from torch's own
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
    """What a worker does with the positions of a batch; an error is a value, to stay one line."""

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
    """Arrays go through a pipe: tensors would need shared memory, which containers have little of.

    The loader makes nothing of them.
    """
    return pixels


def _begin(number: int) -> None:
    """A worker ends with its loader, not by the signals that are meant for the run."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
