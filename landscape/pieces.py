"""Work on a problem's data piece by piece, on all cores of the machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ridgeline.landscape.distributed import all_pieces, own_pieces
from ridgeline.landscape.resume import Compute, Values, at_once
from ridgeline.landscape.weights.point import Point
from ridgeline.models.copying import Replacements
from ridgeline.train.data.examples import Data
from ridgeline.train.data.noise import Purpose, number_of, seeded
from ridgeline.train.workers import in_order

if TYPE_CHECKING:
    from ridgeline.landscape.problem import Problem

#: number of a piece -> name of a module -> function that is called instead of its forward
Instead = Callable[[int], Replacements]


def piece_by_piece(
    problem: Problem,
    what: str,
    compute: Callable[[Data, dict[str, Any]], Values],
    point: Point | None,
    buffers: Mapping[str, Tensor] | None,
    tick: Callable[[int], None] | None,
    instead: Instead | None = None,
) -> Iterator[tuple[Data, Values]]:
    """The data in pieces of `batch_size` examples, each with the values of `compute`.

    An attack may require pieces of another size. `compute` gets the keywords of `evaluate` and
    `attacked`: predict, dtype, seed, device, batch_size.
    """
    point = laid_out(problem, problem.origin if point is None else point)
    size = problem.chunk or problem.batch_size
    options = {
        "predict": problem.predict(point, buffers), "dtype": next(iter(point.values())).dtype,
        "seed": problem.seed, "device": problem.device, "batch_size": size,
    }  # fmt: skip
    chunks = problem.data.pieces(size)

    def job(number: int, chunk: Data) -> Values:
        here = options
        if instead is not None:
            here = options | {"predict": problem.predict(point, buffers, instead(number))}
        draws = nullcontext()
        if problem.randomised:
            number = number_of(problem.seed, Purpose.NETWORK, int(chunk.index[0]))
            draws = seeded(number, problem.device)
        with draws, torch.enable_grad():  # attacks need gradients, even under torch.no_grad
            return compute(chunk, here)

    jobs = [partial(job, number, chunk) for number, chunk in enumerate(chunks)]
    own = own_pieces(len(jobs))
    if len(own) < len(jobs):
        found = {n: _on_cpu(_kept(problem, what, chunks[n], jobs[n])) for n in own}
        yield from _ticking(chunks, all_pieces(found), tick)
        return
    # an attack that sets its own piece size seeds the global generator, which threads share
    if problem.keep is at_once and problem.chunk is None and problem.together:
        problem.replicas.provide(min(torch.get_num_threads(), len(jobs)))
        results = in_order(jobs, len(jobs), problem.device)
    else:  # finished parts are read in the order they were written
        pairs = zip(chunks, jobs, strict=True)
        results = (_kept(problem, what, chunk, job) for chunk, job in pairs)
    yield from _ticking(chunks, results, tick)


def _ticking(
    chunks: Sequence[Data], results: Iterable[Values], tick: Callable[[int], None] | None
) -> Iterator[tuple[Data, Values]]:
    for chunk, found in zip(chunks, results, strict=True):
        if tick is not None:
            tick(len(chunk))
        yield chunk, found


def _on_cpu(values: Values) -> Values:
    return {k: v.cpu() if isinstance(v, Tensor) else v for k, v in values.items()}


def laid_out(problem: Problem, point: Point) -> Point:
    """The Point with its convolution kernels in the memory layout that runs fastest."""
    if problem.device.type != "cpu":
        return point
    layout = torch.channels_last
    return {n: t.to(memory_format=layout) if t.ndim == 4 else t for n, t in point.items()}


def _kept(problem: Problem, what: str, chunk: Data, compute: Compute) -> Values:
    """The values of one chunk, kept under a name with the work and its examples."""
    first, last = chunk.index[0], chunk.index[-1]
    name = f"{what} of {chunk.name} {first}..{last}, {problem.attack!r}, seed {problem.seed}"
    return problem.keep(name, compute)
