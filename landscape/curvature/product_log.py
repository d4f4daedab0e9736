"""Log every product to disk, so that a killed eigensolver can resume."""

from __future__ import annotations

import errno
import glob
import shutil
import zlib
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from ridgeline.landscape.curvature.operators import Products
from ridgeline.landscape.distributed import everywhere, sharing
from ridgeline.train.exchange import leader, processes, together
from ridgeline.train.files.recipe import Recipe, digest

_LIMIT = 2**36  # bytes of a file


class ProductLog(Products):
    """An operator that writes every product to a file and reads those already in the file.

    All algorithms are deterministic functions of seeds and products. So a command that was killed
    makes the same calls again. They are answered from the file, to the last bit, until it ends.

    - A record holds the checksums of vector and product, and the product.
    - Damaged or incomplete records are dropped, and all records after a vector that differs. So is
      a file of another recipe.
    - The file has at most `limit` bytes (None: 64 GiB, or half of the disk's free space if that is
      less). Products beyond it are computed again after a kill.
    - Under torchrun every process has its own file.

    Call `remove` at the end.
    """

    def __init__(
        self, operator: Products, path: str | Path, recipe: Recipe, limit: int | None = None
    ):
        self.operator = operator
        self.shape, self.dtype, self.device = operator.shape, operator.dtype, operator.device
        rank = dist.get_rank() if sharing() else 0
        self.path = Path(path) if rank == 0 else Path(f"{path}.{rank}")
        self._header = _header(recipe)
        self._bytes = 8 + operator.shape[0] * self.dtype.itemsize
        count = self._read()
        if limit is None:  # the space that the file has already counts as free
            held = self.path.stat().st_size
            limit = min(_LIMIT, held + shutil.disk_usage(self.path.parent).free // 2)
        self._most = max(0, limit - len(self._header)) // self._bytes
        self._waiting = self._written = self._common(count)
        self._done = 0
        self.replayed = 0

    @property
    def products(self) -> int:
        """Number of products, from the file or new."""
        return self._done

    def matmat(self, vectors: Tensor) -> Tensor:
        """The products (P, k) with vectors (P, k)."""
        checks = [zlib.crc32(_bytes(v)) for v in vectors.T]
        held = [self._held(self._done + n, check) for n, check in enumerate(checks)]
        if self._replays(all(h is not None for h in held), len(held)):
            self.replayed += len(held)
            products = torch.stack(held, dim=1).to(self.device)
        else:
            self._truncate()
            products = self.operator.matmat(vectors)
            self._write(checks, products)
        self._done += len(checks)
        return products

    def __getattr__(self, name: str):
        return getattr(self.operator, name)

    def _replays(self, here: bool, count: int) -> bool:
        """Whether `count` products are read from the file: by all processes or by none."""
        return here if self._done + count > self._waiting else everywhere(here)

    def remove(self) -> None:
        """Delete the file, once the results are saved elsewhere.

        Files of an earlier try with more processes are deleted too.
        """
        self.path.unlink(missing_ok=True)
        if leader():
            for number, file in _others(self.path):
                if number >= processes()[1]:
                    file.unlink(missing_ok=True)

    def _read(self) -> int:
        """Number of complete records in the file. A file of another recipe is emptied."""
        if self.path.is_file():
            with self.path.open("rb") as file:
                if file.read(len(self._header)) == self._header:
                    return (self.path.stat().st_size - len(self._header)) // self._bytes
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_bytes(self._header)
        return 0

    def _held(self, number: int, check: int) -> Tensor | None:
        if number >= self._waiting:
            return None
        with self.path.open("rb") as file:
            file.seek(len(self._header) + number * self._bytes)
            record = file.read(self._bytes)
        if record[:4] != check.to_bytes(4, "little") or record[4:8] != _crc(record[8:]):
            return None
        values = torch.frombuffer(bytearray(record[8:]), dtype=self.dtype)
        return values.clone()

    def _write(self, checks: list[int], products: Tensor) -> None:
        """Append the records, unless earlier ones are missing or the disk is full."""
        if self._written < self._done or self._done + len(checks) > self._most:
            return
        try:
            with self.path.open("ab") as file:
                for check, product in zip(checks, products.T, strict=True):
                    content = _bytes(product)
                    file.write(check.to_bytes(4, "little") + _crc(content) + content)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            self._most = self._written  # the result matters more than its log
        else:
            self._written += len(checks)

    def _truncate(self) -> None:
        """Cut the file after the products done so far: the rest was written by another run."""
        self._waiting = self._written = min(self._written, self._done)
        with self.path.open("r+b") as file:
            file.truncate(len(self._header) + self._written * self._bytes)

    def _common(self, count: int) -> int:
        """Number of records that all processes have: they must read the same ones."""
        if sharing():
            tensor = torch.tensor(count, device=self.device)
            with together():
                dist.all_reduce(tensor, dist.ReduceOp.MIN)
            return int(tensor.item())
        return count


def is_log_of(path: Path, recipe: Recipe) -> bool:
    """Whether the file is a log of this recipe, written by any process."""
    header = _header(recipe)
    with path.open("rb") as file:
        return file.read(len(header)) == header


def _others(path: Path) -> list[tuple[int, Path]]:
    """The logs of all processes but the first, with the numbers of the processes."""
    files = path.parent.glob(f"{glob.escape(path.name)}.*")
    return [(int(f.suffix[1:]), f) for f in files if f.suffix[1:].isdigit()]


def _header(recipe: Recipe) -> bytes:
    return digest(recipe).encode()[:32]


def _crc(content: bytes) -> bytes:
    return zlib.crc32(content).to_bytes(4, "little")


def _bytes(tensor: Tensor) -> bytes:
    return np.ascontiguousarray(tensor.detach().cpu().numpy()).tobytes()
