"""A digest at the end of a file, so that reading detects every changed bit."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ridgeline.models.errors import InputError

_MARK = b"ridgeline sha256"
_SIZE = len(_MARK) + hashlib.sha256().digest_size
_CHUNK = 2**20


def seal(path: Path) -> None:
    """Append the SHA-256 of all bytes of a file to it.

    HDF5 stores the length of its data in the header and ignores all bytes after it. So every
    netCDF reader opens a sealed file. HDF5's own checksums do not cover attributes or metadata.
    """
    digest = _digest(path, path.stat().st_size)
    with path.open("ab") as file:
        file.write(_MARK + digest)


def check_seal(path: Path) -> None:
    """Raise InputError if a sealed file has changed. Files without a seal are accepted."""
    size = path.stat().st_size - _SIZE
    if size < 0:
        return
    with path.open("rb") as file:
        file.seek(size)
        end = file.read()
    if end.startswith(_MARK) and end[len(_MARK) :] != _digest(path, size):
        raise InputError(f"{path} is damaged: its content is not what was written")


def _digest(path: Path, size: int) -> bytes:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(min(_CHUNK, size)):
            digest.update(piece)
            size -= len(piece)
    return digest.digest()
