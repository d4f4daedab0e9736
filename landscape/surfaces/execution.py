"""Choose the fastest way to run a scan on this machine by a short timing. No number changes."""

from __future__ import annotations

import time
from collections.abc import Collection

import torch

from ridgeline.landscape.pieces import Instead
from ridgeline.landscape.problem import Problem
from ridgeline.landscape.weights.point import Point

_TURNS = 5  # repetitions; the first is a warm-up
_SHARE = 0.05  # share of the scan's work that the timing may take
_CLEARLY = 0.9  # another way must need less than this share of the usual time, or noise decides
_DIVISIBLE = 64  # least examples of a piece that is also tried in quarters, which fit into caches


def description(
    problem: Problem, first_layers: Collection[str], onednn: bool, compiled: bool = False
) -> str:
    """One line for the result: threads and their work, kernels, layers that are combined."""
    threads, parts = torch.get_num_threads(), [f"pieces of {problem.batch_size}"]
    if problem.device.type == "cpu":
        how = "a piece or a short cell each" if problem.together else "every operation together"
        parts += [f"{threads} threads, {how}" if threads > 1 else "1 thread", "channels-last"]
    else:
        parts += [_device_name(problem.device)]
    if onednn:
        parts.append("linear layers by oneDNN")
    if compiled:
        parts.append("compiled")
    if first_layers:
        parts.append(f"{', '.join(first_layers)} combined from the knots'")
    return "; ".join(parts)


def _device_name(device: torch.device) -> str:
    known = device.type == "cuda" and torch.cuda.is_available()
    return torch.cuda.get_device_name(device) if known else str(device)


def fastest(
    problem: Problem, cells: int, point: Point | None = None, quarters: bool = True,
    instead: Instead | None = None,
) -> Problem:  # fmt: skip
    """The problem with its pieces of data run in parallel, or one by one on all threads.

    The usual way is pieces of `batch_size` in parallel. Pieces one by one, and quarters of them,
    are chosen if they are clearly faster and give the same bits. All ways are timed on the first
    pieces and a short last one. On a GPU there is no choice.

    Args:
        problem: The problem.
        cells: Number of evaluations to come. The timing is skipped if they are too few.
        point: Where to time; None: the network's own weights (whose outputs may all be 0).
        quarters: Try quarters of the pieces too. Use False if sums over examples, such as
            gradients, are needed: their rounding depends on the size of the pieces.
        instead: The functions that replace layers in the scan.
    """
    if problem.chunk is not None:
        return problem  # one by one: each piece seeds the generator that threads share
    size, threads = min(problem.batch_size, len(problem.data)), torch.get_num_threads()
    tried = min(len(problem.data), 2 * threads * size)
    sizes = [size, size // 4] if quarters and size >= _DIVISIBLE else [size]
    ways = [(together, each) for each in sizes for together in (True, False)
            if (threads > 1 and each < tried) or together]  # fmt: skip
    worth = len(ways) * _TURNS * tried <= _SHARE * cells * len(problem.data)
    if problem.device.type != "cpu" or len(ways) == 1 or not worth:
        return problem
    short = torch.arange(len(problem.data) // size * size if tried < len(problem.data) else tried,
                         len(problem.data))  # fmt: skip
    first = problem.on(problem.data.take(torch.cat([torch.arange(tried), short])))
    seconds, losses = {way: [] for way in ways}, {}
    for together, each in ways:
        work = first.running(together, each)
        # repetitions in a row: threads of the previous way stay busy for a moment
        for _ in range(_TURNS):
            began = time.perf_counter()
            losses[together, each] = work.evaluate(point, instead=instead).losses
            seconds[together, each].append(time.perf_counter() - began)
    usual, *others = ways
    best = {way: min(found[1:]) for way, found in seconds.items()}
    same = [way for way in others if torch.equal(losses[way], losses[usual])]
    better = [way for way in same if best[way] < _CLEARLY * best[usual]]
    return problem.running(*min(better, key=best.__getitem__, default=usual))
