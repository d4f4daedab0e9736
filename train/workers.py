"""Run independent jobs on the cores of a CPU."""

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

#: waiting jobs per worker: enough that none is idle, few enough that results do not fill memory
_AHEAD = 4
Result = TypeVar("Result")


def in_order(
    jobs: Iterable[Callable[[], Result]], count: int, device: torch.device
) -> Iterator[Result]:
    """The results of `count` independent jobs, in their order.

    On a CPU with several threads, jobs run in parallel, each with its share of the threads. Small
    operations are not faster with a second thread, but whole batches are. Jobs must not use global
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
        for future in waiting:  # wait for running jobs: they use the caller's network
            if not future.cancelled():
                future.exception()


@contextmanager
def alone() -> Iterator[None]:
    """Run the operations of this thread on one thread only.

    It is for small operations between two calls of `in_order`. Helper threads of such an operation
    would stay busy for some milliseconds, on the cores that the next call needs.
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
    """A pool of threads; the operations of each use `threads` threads."""
    before = torch.get_num_threads()

    def start() -> None:
        torch.get_num_threads()  # the first call initialises the thread and would reset the number
        torch.set_num_threads(threads)

    pool = ThreadPoolExecutor(workers, POOL, start)
    together = Barrier(workers)  # all threads have started before the next line
    for job in [pool.submit(together.wait) for _ in range(workers)]:
        job.result()
    torch.set_num_threads(before)  # the number with which other threads start
    return pool
