"""Independent pieces of work on the cores of a CPU."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier
from typing import TypeVar

import torch

from ridgeline.models.copying import POOL

#: jobs a worker that may wait for it: none idles while results are fetched, nor do results pile up
_AHEAD = 4
Result = TypeVar("Result")


def in_order(
    jobs: Iterable[Callable[[], Result]], count: int, device: torch.device
) -> Iterator[Result]:
    """The results of `count` independent jobs, in their order.

    On a CPU with several threads, jobs run beside each other, each with its share of the threads:
    small operations gain nothing from a second thread, whole batches do. Jobs must not touch global
    state, such as torch's random generators. On a GPU they run one after the other.
    """
    threads = torch.get_num_threads()
    workers = min(threads, count)
    if device.type != "cpu" or workers <= 1:
        for job in jobs:
            yield job()
        return
    pool, waiting = _pool(workers, threads // workers), deque[Future[Result]]()
    try:
        for job in jobs:
            waiting.append(pool.submit(job))
            if len(waiting) > _AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
        for future in waiting:  # what has begun still uses the caller's network
            if not future.cancelled():
                future.exception()


@contextmanager
def alone() -> Iterator[None]:
    """Let the operations of this thread do without helpers.

    For small operations between two rounds of `in_order`: threads that have helped with one spin
    for some milliseconds, on the cores that the next round wants.
    """
    before = torch.get_num_threads()
    if before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@functools.cache
def _pool(workers: int, threads: int) -> ThreadPoolExecutor:
    """Threads whose operations have `threads` threads each."""
    before = torch.get_num_threads()

    def start() -> None:
        torch.get_num_threads()  # the first question sets the thread up, which undoes what is set
        torch.set_num_threads(threads)

    pool = ThreadPoolExecutor(workers, POOL, start)
    together = Barrier(workers)  # so that every thread has begun before the next line
    for job in [pool.submit(together.wait) for _ in range(workers)]:
        job.result()
    torch.set_num_threads(before)  # what threads of others begin with
    return pool
