"""Detect changed files: digests of tensors, checksums and true sizes of zip archives."""

from __future__ import annotations

import hashlib
import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ridgeline.models.errors import InputError

#: a compressed array may unpack to this many times its file's size (enough for uniform images)
_LARGEST_RATIO = 100
#: ... or to this many bytes for any file's size
_SMALL = 2**26


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names (sorted), dtypes, shapes and bytes: equal networks have equal digests."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        head = [name, str(tensor.dtype), list(tensor.shape)]
        digest.update(json.dumps(head).encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def ties_of(tensors: Mapping[str, Tensor]) -> tuple[tuple[str, ...], ...]:
    """Groups of two or more names that share one tensor in memory."""
    groups: dict[tuple, list[str]] = {}
    for name, t in tensors.items():
        if t.numel():
            place = (t.data_ptr(), t.dtype, tuple(t.shape), t.stride())
            groups.setdefault(place, []).append(name)
    return tuple(sorted(tuple(sorted(names)) for names in groups.values() if len(names) > 1))


def check_real(name: str, tensor: Tensor, what: str) -> None:
    """Raise InputError for complex, NaN or infinite values."""
    if tensor.is_complex():
        raise InputError(f"{what}: {name} holds complex numbers")
    bad = ~tensor.isfinite()
    if bad.any():
        raise InputError(
            f"{what}: {name} holds {int(bad.sum())} of {bad.numel()} values that are NaN or "
            "infinite; the training that wrote it diverged"
        )


def check_torch_zip(path: Path) -> None:
    """Raise InputError if a zip file of torch.save is damaged or was not written by it.

    torch itself does not verify the checksums. It stores members uncompressed, so a compressed one
    may be a zip bomb. Files of another format are not checked here.
    """
    with open(path, "rb") as file:
        begins = file.read(4) == b"PK\x03\x04"
    if not begins and not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            packed = any(m.compress_type != zipfile.ZIP_STORED for m in members)
            if packed or sum(m.file_size for m in members) > path.stat().st_size:
                raise InputError(
                    f"{path} is damaged or not of torch.save, which writes no compressed and no "
                    "overlapping members"
                )
            bad = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError) as error:
        raise InputError(f"{path} is truncated or damaged ({error})") from None
    if bad is not None:
        raise InputError(f"{path} is damaged: the checksum of {bad} is wrong")


def array_headers(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape and dtype of every array of an .npz file, from the headers only.

    Raises InputError for a file that is not an .npz of plain arrays. Raises it too if the headers
    do not match the arrays, or if the file would unpack to far more than its own size.
    """
    found = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                with archive.open(member) as file:
                    read = _HEADERS[np.lib.format.read_magic(file)]
                    shape, _, dtype = read(file)
                    start = file.tell()
                if dtype.hasobject:
                    raise InputError(f"{path}: {member.filename} holds Python objects; "
                                     "save plain arrays")  # fmt: skip
                if member.file_size != start + math.prod(shape) * dtype.itemsize:
                    raise ValueError(f"the size of {member.filename} is not that of its header")
                found[member.filename.removesuffix(".npy")] = (shape, dtype)
            _check_size(path, archive.infolist())
    except InputError:
        raise
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile, zipfile.zlib.error,
            NotImplementedError, RuntimeError) as error:  # fmt: skip
        raise InputError(f"{path} is damaged or no .npz file of plain arrays ({error})") from None
    return found


_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def _check_size(path: Path, members: Sequence[zipfile.ZipInfo]) -> None:
    unpacked, size = sum(m.file_size for m in members), path.stat().st_size
    if unpacked > max(_SMALL, _LARGEST_RATIO * size):
        raise InputError(
            f"{path} is refused: its {size / 2**20:.1f} MiB would unpack to "
            f"{unpacked / 2**20:.0f} MiB"
        )
