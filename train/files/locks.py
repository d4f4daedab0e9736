"""One writer per output: two commands of different recipes must not mix their files."""

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
    """Hold an output (a file, or the stem of several) until `release_all` or the process ends.

    The lock is a file .NAME.lock beside it, which the system frees when the process is killed.
    Holding it already is fine. Raises InputError at once if another process holds it, and creates
    the folder if there is none.
    """
    path = Path(output).resolve()
    if path in _held or not leader():  # under torchrun the first process holds it
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(_lock_file(path), timeout=0)
    try:
        held.acquire()
    except Timeout:
        raise InputError(
            f"{output} is being written by another command; wait for it, or name another output"
        ) from None
    _held[path] = held


def holding() -> bool:
    """Whether this process holds an output."""
    return bool(_held)


def release_all() -> None:
    """Give every held output free and remove the lock files."""
    while _held:
        _release(_held.popitem()[1])


def tidy(output: str | Path, left: Callable[[], Iterable[Path]]) -> None:
    """Remove what is `left` beside a finished output by a command killed in its last moments.

    These are files for resuming, and the lock files of the output and of those that begin with its
    name (STEM_vec1.ckpt). All stays if another command holds the output (`left` is asked again once
    it is ours), or if the folder cannot be written: it does no harm.
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
        # while it is held: whoever opened this file meanwhile finds it unlinked and tries anew
        Path(held.lock_file).unlink(missing_ok=True)
        held.release()


atexit.register(release_all)
