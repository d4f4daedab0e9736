"""The forward passes of a scan by compiled code."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Self
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ridgeline.landscape.batchnorm import place_on
from ridgeline.landscape.pieces import Instead, laid_out
from ridgeline.landscape.problem import Problem
from ridgeline.landscape.surfaces.first_layers import FirstLayers
from ridgeline.landscape.weights.paths import Path
from ridgeline.landscape.weights.point import Point
from ridgeline.models.copying import Replacements, Replicas, copy_of
from ridgeline.train.workers import alone

#: compiled functions by the names of first layers, for further scans of the same network
_FUNCTIONS: WeakKeyDictionary[Replicas, dict[tuple[str, ...], Any]] = WeakKeyDictionary()
_CLEARLY = 0.95  # of the time without


class Compiled:
    """A network as one function of its weights, compiled once for all cells of a scan.

    Pieces of the usual size run by it, a shorter last one as ever. The outputs of first layers, of
    which there are combinations already, are inputs of the function too.
    """

    def __init__(self, problem: Problem, first: FirstLayers | None):
        self._first, self._dtype = first, problem.dtype
        self._full = len(problem.data) // problem.batch_size
        known = _FUNCTIONS.setdefault(problem.replicas, {})
        names = tuple(first.names) if first else ()
        if names not in known:
            known[names] = _function(problem.network, names)
        self._outputs, self._names = known[names]

    @classmethod
    def of(
        cls, problem: Problem, path: Path, batchnorm: str, first: FirstLayers | None,
        others: Replacements,
    ) -> Self | None:  # fmt: skip
        """That of a problem without attack; None: no compiler, or a network that it cannot follow.

        Networks with hooks, whose effects may be any, are left alone too, and such as it does not
        give the usual outputs, up to rounding, at a place of the path that is the same whatever
        cell comes first. Usual are passes with first layers and `others` replaced.
        """
        if problem.device.type != "cpu" or _hooked(problem.network):
            return None
        at = tuple(0.7 * path.ends[1] for _ in path.axes)
        point, buffers = place_on(problem, path, at, batchnorm)
        with warnings.catch_warnings(), alone(), torch.no_grad():
            warnings.simplefilter("ignore")
            known = {**others, **(first.at(*at)(0) if first else {})}
            usual = _outputs(problem, point, buffers, known)
            try:
                found = cls(problem, first)
                ours = _outputs(problem, point, buffers, found.at(point, buffers, at)(0))
            except Exception:  # of many kinds, some of the compiler's own
                return None
        finite = usual[usual.isfinite()]
        near = torch.finfo(usual.dtype).eps ** 0.5 * (finite.abs().max() if len(finite) else 0)
        return found if torch.allclose(ours, usual, 0, float(near), equal_nan=True) else None

    def at(self, point: Point, buffers: Mapping[str, Tensor], at: tuple[float, ...]) -> Instead:
        """For a piece of the data: what stands in for the whole network at a place of the path."""
        state = {n: t.to(self._dtype) if t.is_floating_point() else t
                 for n, t in {**buffers, **point}.items() if n in self._names}  # fmt: skip
        values = self._first.values(*at) if self._first else lambda number: {}

        def call(number: int, module: nn.Module, *args: Any, **named: Any) -> Tensor:
            given = {f"{n}.value": t for n, t in values(number).items()}
            return self._outputs({**state, **given}, args, named)

        return lambda number: {"": partial(call, number)} if number < self._full else {}


def _function(network: nn.Module, first: tuple[str, ...]) -> tuple[Callable[..., Tensor], set[str]]:
    """The function of (state, arguments, named arguments), and the names in its state."""
    network = copy_of(network)
    for name in first:
        parent, _, own = name.rpartition(".")
        setattr(network.get_submodule(parent), own, _Given())

    def outputs(state: dict[str, Tensor], args: tuple, named: dict[str, Any]) -> Tensor:
        with torch.no_grad():
            return functional_call(network, state, args, named)

    names = {n for n, _ in (*network.named_parameters(), *network.named_buffers())}
    return torch.compile(outputs, fullgraph=True, dynamic=False), names


class _Given(nn.Module):
    """In the place of a layer whose outputs are known."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("value", torch.zeros(0))

    def forward(self, *inputs: Tensor) -> Tensor:
        """The known outputs."""
        return self.value


def _outputs(
    problem: Problem, point: Point, buffers: Mapping[str, Tensor], instead: Replacements
) -> Tensor:
    """Of the first piece of the data."""
    x = problem.data.pieces(problem.batch_size)[0].whole(problem.device, problem.dtype).x
    return problem.predict(laid_out(problem, point), buffers, instead)(x)


def _hooked(network: nn.Module) -> bool:
    return any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
