"""Finished parts of a result on disk: after a kill, only the last part is computed again."""

from __future__ import annotations

import glob
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as unpack
from safetensors.torch import save as pack
from torch import Tensor

from ridgeline.train.exchange import processes
from ridgeline.train.files.recipe import Recipe, digest

Values = Mapping[str, Any]
Compute = Callable[[], Values]
#: keep(what, compute): the values of `compute`, new or from before the process was killed
Keep = Callable[[str, Compute], Values]

_FRAME = 16  # bytes before each record: check sum, length of the name, length of the content


def at_once(what: str, compute: Compute) -> Values:
    """The `Keep` that stores nothing."""
    del what
    return compute()


@contextmanager
def resumable(path: str | Path | None, recipe: Recipe) -> Iterator[Keep]:
    """A context that stores parts of the result at `path` until the result is saved.

    Without a path nothing is stored. The parts are in files beside `path`, whose name contains the
    recipe's digest: parts of other recipes are not touched. Save the result inside the context.
    When it ends without an exception, the parts are deleted. Every process of torchrun has its
    own file.
    """
    if path is None:
        yield at_once
        return
    number, first = processes()[0], _parts_file(path, recipe)
    yield Parts(first.with_name(f"{first.name}.{number}") if number else first)
    if number == 0:  # also the files of an earlier try with more processes
        for file in left(path, recipe):
            file.unlink(missing_ok=True)


def left(path: str | Path, recipe: Recipe) -> list[Path]:
    """The files of all processes with finished parts of the result of this recipe at `path`."""
    first = _parts_file(path, recipe)
    return sorted(first.parent.glob(f"{glob.escape(first.name)}*"))


def _parts_file(path: str | Path, recipe: Recipe) -> Path:
    path = Path(path)
    return path.with_name(f".{path.name}.{digest(recipe)[:16]}.parts")


class Parts:
    """A `Keep` that writes the values of every call to one file and reads those already there.

    All diagnostics are deterministic functions of recipe and seed, so a command that was killed
    makes the same calls again. They are answered from the file in order, to the last bit.

    - A record holds the call's name and its values (tensors; numbers as float64) with a checksum.
    - A call without a record is computed and written at the current position. All later records
      are dropped: incomplete ones, those of another run, and those of calls nested inside it.
    - The values are on the CPU.
    """

    def __init__(self, path: str | Path):
        self.path, self._place = Path(path), 0

    def __call__(self, what: str, compute: Compute) -> Values:
        """The values of the part `what`, from the file or new."""
        start = self._place
        held = self._read(start, what.encode())
        if held is None:
            held = _tensors(compute())
            self._write(start, what.encode(), pack(held))
        return held

    def again(self) -> Parts:
        """The same file from its beginning: earlier calls are answered again."""
        return Parts(self.path)

    def _read(self, start: int, name: bytes) -> dict[str, Tensor] | None:
        if not self.path.is_file():
            return None
        frame = self._bytes(start, _FRAME)
        check, length, size = (int.from_bytes(frame[a:b], "little")
                               for a, b in ((0, 4), (4, 8), (8, _FRAME)))  # fmt: skip
        if len(frame) < _FRAME or length != len(name):
            return None
        body = self._bytes(start + _FRAME, length + size)
        if len(body) < length + size or zlib.crc32(body) != check or body[:length] != name:
            return None
        self._place = start + _FRAME + length + size
        return unpack(body[length:])

    def _write(self, start: int, name: bytes, content: bytes) -> None:
        body = name + content
        frame = (zlib.crc32(body).to_bytes(4, "little") + len(name).to_bytes(4, "little")
                 + len(content).to_bytes(8, "little"))  # fmt: skip
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.touch()
        try:
            with self.path.open("r+b") as file:
                file.truncate(start)
                file.seek(start)
                file.write(frame + body)
        except OSError as error:
            error.filename = str(self.path)  # the error of a full disk has no file name
            raise
        self._place = start + len(frame) + len(body)

    def _bytes(self, start: int, count: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(start)
            return file.read(min(count, self.path.stat().st_size))  # a damaged count may be huge


def _tensors(values: Values) -> dict[str, Tensor]:
    """Numbers and arrays as tensors on the CPU; Python's numbers in float64."""
    tensors = {}
    for name, value in values.items():
        dtype = torch.float64 if isinstance(value, float | int) else None
        tensors[name] = torch.as_tensor(value, dtype=dtype).detach().cpu().contiguous()
    return tensors
