"""SIGTERM, by which schedulers end a job: finish what must not be cut, then stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Stopped(BaseException):
    """The process was asked to end by SIGTERM; what is unfinished can be resumed."""


class _Asked:
    """Whether SIGTERM has come, and how many callers put it off."""

    def __init__(self) -> None:
        self.asked = False
        self.deferring = 0


_state = _Asked()


@contextmanager
def stoppable() -> Iterator[None]:
    """Turn SIGTERM into `Stopped` inside, in the main thread; the handler before is restored."""
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
        _state.asked = True  # whoever defers it stops at the next good moment; a second one at once
        return
    raise Stopped


@contextmanager
def deferred() -> Iterator[None]:
    """Hold SIGTERM back inside: call `asked` at moments when it is good to stop."""
    _state.deferring += 1
    try:
        yield
    finally:
        _state.deferring -= 1


def asked() -> bool:
    """Whether SIGTERM came while it was held back."""
    return _state.asked
