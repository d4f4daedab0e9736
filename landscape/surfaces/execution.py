"""How a scan runs fastest on this machine, found by a short timing that changes no number."""

from __future__ import annotations

import time
from collections.abc import Collection

import torch

from ridgeline.landscape.pieces import Instead
from ridgeline.landscape.problem import Problem
from ridgeline.landscape.weights.point import Point

_TURNS = 5  # the first is to warm up
_SHARE = 0.05  # of the scan that the timing may take
_CLEARLY = 0.9  # of the usual time, or chance and other programs would choose
_DIVISIBLE = 64  # examples from which on a piece is also tried in quarters, which caches may hold


def description(
    problem: Problem, first_layers: Collection[str], onednn: bool, compiled: bool = False
) -> str:
    """One line for the result: threads, what they share out, kernels, layers that are combined."""
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
    """The problem, whose pieces of data will run side by side or one by one on all threads.

    It is for `evaluate`: sums over examples, such as gradients, change with the pieces by rounding.
    Where these are asked for too, do without `quarters`: data are kept in pieces of one size.

    Pieces of `batch_size` side by side are usual; one by one, and quarters of them, are taken where
    that is clearly faster and gives the same bits. All are tried on the first pieces and a short
    last one, at a Point (default: the network's own, whose outputs may all be zeros) and with the
    scan's stand-ins for layers (`instead`), if `cells` evaluations to come make that worth while.
    On a GPU there is no choice.
    """
    if problem.chunk is not None:
        return problem  # one by one: it seeds what threads share
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
        # in a row: helpers of the way before spin for a while
        for _ in range(_TURNS):
            began = time.perf_counter()
            losses[together, each] = work.evaluate(point, instead=instead).losses
            seconds[together, each].append(time.perf_counter() - began)
    usual, *others = ways
    best = {way: min(found[1:]) for way, found in seconds.items()}
    same = [way for way in others if torch.equal(losses[way], losses[usual])]
    better = [way for way in same if best[way] < _CLEARLY * best[usual]]
    return problem.running(*min(better, key=best.__getitem__, default=usual))
