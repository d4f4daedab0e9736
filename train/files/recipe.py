"""The record of a result: the recipe determines the numbers, the provenance is added to it."""

from __future__ import annotations

import contextlib
import functools
import glob
import hashlib
import json
import os
import platform
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from ridgeline.models.errors import InputError

Recipe = dict[str, Any]

_PACKAGES = ("ridgeline", "torch", "numpy", "scipy", "xarray", "pyautoattack")


#: the call of the running command: its name, its options, its working folder
_call: ContextVar[dict[str, Any] | None] = ContextVar("call", default=None)


@contextlib.contextmanager
def called(command: str, options: Mapping[str, Any], folder: str) -> Iterator[None]:
    """Record the call of a command in the provenance of all files written inside.

    `options` are those that differ from the command's defaults. They must be valid in JSON.
    """
    token = _call.set({"command": command, "options": normal_form(options), "folder": folder})
    try:
        yield
    finally:
        _call.reset(token)


def provenance() -> dict[str, Any]:
    """Command, time, threads, versions and source commit: recorded, but never compared.

    Inside a command also its `call`, which `ridgeline redo` uses to run it again.
    """
    call = _call.get()
    return {
        **({} if call is None else {"call": call}),
        "command": shlex.join([os.path.basename(sys.executable), *sys.argv]),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),  # changes the last digits of sums
        "commit": _commit(),
        **_versions(),
    }


@functools.cache  # reading the versions takes longer than writing a small checkpoint
def _versions() -> dict[str, str]:
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


@functools.cache
def _commit() -> str:
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():  # an installed package, maybe inside another repository
        return "unknown"
    try:
        out = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return out.stdout.strip() or "unknown"


def normal_form(recipe: Mapping[str, Any]) -> Recipe:
    """The recipe as JSON returns it, so that stored and new recipes can be compared."""
    return json.loads(json.dumps(recipe, sort_keys=True, default=repr))


def digest(recipe: Mapping[str, Any]) -> str:
    """SHA-256 of a recipe's normal form."""
    return hashlib.sha256(json.dumps(normal_form(recipe), sort_keys=True).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def difference(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """One line naming the first options in which two recipes differ; empty if they agree."""
    stored, wanted = normal_form(stored), normal_form(wanted)
    parts = [
        f"{key} was {json.dumps(stored.get(key))}, now {json.dumps(wanted.get(key))}"
        for key in sorted(stored.keys() | wanted.keys())
        if stored.get(key) != wanted.get(key)
    ]
    return "; ".join(p if len(p) < 200 else p[:200] + "..." for p in parts[:3])


def check_same(path: Path, stored: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> None:
    """Raise InputError unless the file at `path` was made by the wanted recipe."""
    if stored is None:
        raise InputError(
            f"{path} exists and holds no recipe of ours; name another output or pass --overwrite"
        )
    changed = difference(stored, wanted)
    if changed:
        raise InputError(
            f"{path} exists and was made by another recipe ({changed}); "
            "name another output or pass --overwrite"
        )


def check_folder(path: Path) -> None:
    """Raise InputError unless a file can be written at `path`. Call it before computing."""
    if path.is_dir():
        raise InputError(f"{path} is a folder; name a file")
    folder = path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise InputError(f"{path} cannot be written: {folder} is not a folder that can be written")


def check_new(path: Path, overwrite: bool) -> None:
    """Raise InputError unless a file can be written at --out_file without replacing another one."""
    check_folder(path)
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists; name another --out_file or pass --overwrite")


def write_atomically(
    path: Path, write: Callable[[Path], None], verify: Callable[[Path], None] | None = None
) -> None:
    """Write a temporary file beside `path` by `write`, then rename it to `path` in one step.

    - `verify` reads the temporary file before it replaces the old one, and raises if it is not
      complete.
    - If writing fails (a full disk), an OSError names `path` and the reason. The old file is not
      changed.
    - The file mode follows the user's umask.
    - Temporary files of killed processes of this machine are removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _drop_leftovers(path)
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    try:
        write(temporary)
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        if verify is not None:
            verify(temporary)
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise OSError(f"{path} cannot be written ({error}); what was there is kept") from None
    finally:
        temporary.unlink(missing_ok=True)


def _drop_leftovers(path: Path) -> None:
    """Remove temporary files of `path` that killed processes of this machine left."""
    for old in path.parent.glob(f".{glob.escape(path.name)}.{socket.gethostname()}.*.tmp"):
        try:
            os.kill(int(old.name.split(".")[-2]), 0)
        except ProcessLookupError:
            old.unlink(missing_ok=True)
        except (PermissionError, ValueError):
            pass  # a file of another user, or not one of our temporary files
