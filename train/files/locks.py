"""One writer per output: two commands of different recipes must not mix their files."""

from __future__ import annotations

import atexit
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
    held = FileLock(path.with_name(f".{path.name}.lock"), timeout=0)
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
        _, held = _held.popitem()
        if held.is_locked:
            # while it is held: whoever opened this file meanwhile finds it unlinked and tries anew
            Path(held.lock_file).unlink(missing_ok=True)
            held.release()


atexit.register(release_all)
