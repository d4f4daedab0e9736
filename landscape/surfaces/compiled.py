"""The forward passes of a scan by compiled code."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Self
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ridgeline.landscape.batchnorm import place_on
from ridgeline.landscape.pieces import Instead, laid_out
from ridgeline.landscape.problem import Problem
from ridgeline.landscape.surfaces.plain import hooked
from ridgeline.landscape.weights.paths import Path
from ridgeline.landscape.weights.point import Point
from ridgeline.models.copying import NOTHING, Replacements, Replicas, copy_of
from ridgeline.models.errors import is_out_of_memory, reason_of
from ridgeline.train.workers import alone

log = logging.getLogger(__name__)
#: compiled functions, for further scans of the same network
_FUNCTIONS: WeakKeyDictionary[Replicas, Callable[..., Tensor]] = WeakKeyDictionary()


class Compiled:
    """A network as one function of its weights, compiled once for all cells of a scan.

    It runs pieces of the usual size; a shorter last piece runs without compilation. It always
    uses one thread, because compiled sums depend on the number of threads.
    """

    def __init__(self, problem: Problem):
        self._dtype, count = problem.dtype, len(problem.data)
        self._full = count // min(problem.batch_size, count)
        if problem.replicas not in _FUNCTIONS:
            _FUNCTIONS[problem.replicas] = _function(problem.network)
        self._outputs = _FUNCTIONS[problem.replicas]

    @classmethod
    def of(cls, problem: Problem, path: Path, batchnorm: str) -> Self | None:
        """The compiled network of a problem without attack; None if it cannot be compiled.

        None means: no compiler, a network that the compiler does not support, a network with
        hooks, or outputs that differ from the usual ones by more than rounding. The outputs are
        compared at one fixed point of the path, which does not depend on the first cell.
        """
        if problem.device.type != "cpu" or problem.chunk is not None or hooked(problem.network):
            return None
        at = tuple(0.7 * path.ends[1] for _ in path.axes)
        point, buffers = place_on(problem, path, at, batchnorm)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            usual = _outputs(problem, point, buffers, NOTHING)
            try:
                found = cls(problem)
                ours = _outputs(problem, point, buffers, found.at(point, buffers)(0))
            except Exception as error:  # of many types, some of the compiler's own
                if is_out_of_memory(error):
                    raise
                log.info("not compiled: %s", reason_of(error))
                return None
        finite = usual[usual.isfinite()]
        near = torch.finfo(usual.dtype).eps ** 0.5 * (finite.abs().max() if len(finite) else 0)
        return found if torch.allclose(ours, usual, 0, float(near), equal_nan=True) else None

    def at(self, point: Point, buffers: Mapping[str, Tensor]) -> Instead:
        """For a piece of the data: the function that replaces the network at a Point."""
        state = {n: t.to(self._dtype) if t.is_floating_point() else t
                 for n, t in {**buffers, **point}.items()}  # fmt: skip

        def call(module: nn.Module, *args: Any, **named: Any) -> Tensor:
            with alone():
                return self._outputs(state, args, named)

        return lambda number: {"": call} if number < self._full else {}


def _outputs(
    problem: Problem, point: Point, buffers: Mapping[str, Tensor], instead: Replacements
) -> Tensor:
    """The network's outputs for the first piece of the data."""
    x = problem.data.pieces(problem.batch_size)[0].whole(problem.device, problem.dtype).x
    return problem.predict(laid_out(problem, point), buffers, instead)(x)


def _function(network: nn.Module) -> Callable[..., Tensor]:
    """The function of (state, arguments, named arguments)."""
    network = copy_of(network)

    def outputs(state: dict[str, Tensor], args: tuple, named: dict[str, Any]) -> Tensor:
        with torch.no_grad():
            return functional_call(network, state, args, named)

    # a new code object: the compiler counts its compilations per code object
    outputs.__code__ = outputs.__code__.replace()
    return torch.compile(outputs, fullgraph=True, dynamic=False)
