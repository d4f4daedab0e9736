"""How a scan runs fastest on this machine, found by a short timing that changes no number."""

from __future__ import annotations

import time
from collections.abc import Collection

import torch

from ridgeline.landscape.problem import Problem

_TURNS = 4  # the first is to warm up
_SHARE = 0.05  # of the scan that the timing may take
_CLEARLY = 0.95  # of the usual time, or chance and other programs would choose


def description(problem: Problem, first_layers: Collection[str]) -> str:
    """One line for the result: threads, what they share out, kernels, layers that are combined."""
    threads, parts = torch.get_num_threads(), []
    if problem.device.type == "cpu":
        how = "a piece of the data each" if problem.together else "each operation together"
        parts = [f"{threads} threads, {how}" if threads > 1 else "1 thread", "channels-last"]
    else:
        parts = [torch.cuda.get_device_name(problem.device)]
    if first_layers:
        parts.append(f"{', '.join(first_layers)} combined from the knots'")
    return "; ".join(parts)


def fastest(problem: Problem, cells: int) -> Problem:
    """The problem, whose pieces of data will run side by side or one by one on all threads.

    Side by side is what pieces do unless the other way is clearly faster and gives the same bits.
    Both are tried on the first pieces, at the network's own weights, if `cells` evaluations to come
    make that worth while. On a GPU there is no choice.
    """
    if problem.attack is not None and problem.attack.chunk is not None:
        return problem  # one by one: it seeds what threads share
    size = problem.batch_size
    pieces, threads = -(-len(problem.data) // size), torch.get_num_threads()
    tried = min(pieces, 2 * threads)
    worth = 2 * _TURNS * tried <= _SHARE * cells * pieces
    if problem.device.type != "cpu" or threads == 1 or pieces == 1 or not worth:
        return problem
    first = problem.on(problem.data.take(slice(0, tried * size)))
    ways = {together: first.running(together) for together in (True, False)}
    seconds: dict[bool, list[float]] = {True: [], False: []}
    losses = {}
    for _ in range(_TURNS):
        for together, work in ways.items():
            began = time.perf_counter()
            losses[together] = work.evaluate().losses
            seconds[together].append(time.perf_counter() - began)
    best = {together: min(found[1:]) for together, found in seconds.items()}
    same = torch.equal(losses[True], losses[False])
    return problem.running(not (same and best[False] < _CLEARLY * best[True]))
