"""Locks: one writer per output, so that two commands cannot mix their files."""

from __future__ import annotations

import atexit
import contextlib
from collections.abc import Callable, Iterable
from pathlib import Path

from filelock import FileLock, Timeout

from ridgeline.models.errors import InputError
from ridgeline.train.exchange import leader

_held: dict[Path, FileLock] = {}


def lock(output: str | Path) -> None:
    """Lock an output (a file, or the stem of several) until `release_all` or the process ends.

    The lock is a file .NAME.lock beside the output. The system releases it when the process is
    killed. A process may lock an output twice. A missing folder is created. Raises InputError at
    once if another process has the lock.
    """
    path = Path(output).resolve()
    if path in _held or not leader():  # under torchrun only the first process locks
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{output} cannot be written: {path.parent} cannot be made "
                         f"({error.strerror})") from None  # fmt: skip
    held = FileLock(_lock_file(path), timeout=0)
    try:
        held.acquire()
    except Timeout:
        raise InputError(
            f"{output} is being written by another command; wait for it, or name another output"
        ) from None
    _held[path] = held


def holding() -> bool:
    """Whether this process has locked an output."""
    return bool(_held)


def release_all() -> None:
    """Release all locks and remove the lock files."""
    while _held:
        _release(_held.popitem()[1])


def tidy(output: str | Path, left: Callable[[], Iterable[Path]]) -> None:
    """Remove the files that a command killed at its very end has `left` beside a finished output.

    These are files for resuming, the lock file, and the lock files of outputs that begin with its
    name (STEM_vec1.ckpt). Nothing is removed if another command has locked the output or the folder
    cannot be written. `left` is called again after locking.
    """
    path = Path(output).resolve()
    if path in _held or not leader():
        return
    with contextlib.suppress(InputError, OSError):
        others = _locked_beside(path)
        if not _lock_file(path).exists() and not others and not list(left()):
            return
        lock(path)
        try:
            for file in left():
                file.unlink(missing_ok=True)
            for other in others:
                with contextlib.suppress(InputError):  # a command is at work there
                    lock(other)
                    _release(_held.pop(other))
        finally:
            _release(_held.pop(path))


def _locked_beside(path: Path) -> list[Path]:
    """Outputs that begin with the name of this one and have lock files, held or left."""
    files = (f.name for f in path.parent.iterdir() if f.name.endswith(".lock"))
    return [path.with_name(n[1:-5]) for n in files if n.startswith(f".{path.stem}_")]


def _lock_file(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


def _release(held: FileLock) -> None:
    if held.is_locked:
        # removed while locked: a process that has just opened it sees that and tries again
        Path(held.lock_file).unlink(missing_ok=True)
        held.release()


atexit.register(release_all)
