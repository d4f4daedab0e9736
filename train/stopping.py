"""SIGTERM, by which schedulers end a job: finish the current step, then stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Stopped(BaseException):
    """The process received SIGTERM. Unfinished work can be resumed."""


class _Asked:
    """Whether SIGTERM has come, and how many callers defer it."""

    def __init__(self) -> None:
        self.asked = False
        self.deferring = 0


_state = _Asked()


@contextmanager
def stoppable() -> Iterator[None]:
    """Raise `Stopped` on SIGTERM inside, in the main thread. The old handler is restored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _stop)
    _state.asked = False
    try:
        yield
    finally:
        _state.asked = False
        signal.signal(signal.SIGTERM, before)


def _stop(number: int, frame: object) -> None:
    if _state.deferring and not _state.asked:
        _state.asked = True  # the caller stops when it can; a second SIGTERM stops at once
        return
    raise Stopped


@contextmanager
def deferred() -> Iterator[None]:
    """Defer SIGTERM inside. Call `asked` where the work can stop."""
    _state.deferring += 1
    try:
        yield
    finally:
        _state.deferring -= 1


def asked() -> bool:
    """Whether SIGTERM came while it was deferred."""
    return _state.asked
