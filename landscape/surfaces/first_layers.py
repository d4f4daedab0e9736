"""Layers that see nothing but the data: on a path their outputs are combinations of a few."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from ridgeline.landscape.pieces import piece_by_piece
from ridgeline.landscape.problem import Problem
from ridgeline.landscape.resume import at_once
from ridgeline.landscape.surfaces.linear_layers import plain
from ridgeline.landscape.weights.paths import Path
from ridgeline.train.data.examples import Data

#: layers whose outputs are linear in their weights and biases together
_LINEAR = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
#: numbers that may be held (512 MiB in float32)
_ROOM = 2**27

Instead = Mapping[str, Callable[..., Tensor]]


class FirstLayers:
    """The outputs of the layers that see the data alone, at every knot of a path.

    Such a layer is linear in its weights, and these are linear in the knots. So its outputs
    anywhere on the path are the same combination of its outputs at the knots, which takes one pass
    over memory where a convolution takes many. `names` are the layers'.
    """

    def __init__(self, problem: Problem, path: Path, names: list[str], buffers: Any):
        self.path, self.names = path, names
        count = len(problem.data.pieces(problem.batch_size))
        #: piece, name, knot -> outputs
        self._held: list[dict[str, list[Tensor]]] = [{n: [] for n in names} for _ in range(count)]
        #: piece, name -> all but the last coefficient, and what they combine to
        self._rows: list[dict[str, tuple[list[float], Tensor]]] = [{} for _ in range(count)]

        def record(number: int) -> Instead:
            return {n: partial(_kept, self._held[number][n].append) for n in names}

        def run(chunk: Data, options: dict[str, Any]) -> dict[str, float]:
            with torch.no_grad():
                options["predict"](chunk.whole(options["device"], options["dtype"]).x)
            return {}

        for knot in path.knots:
            work = problem.resuming(at_once)
            for _ in piece_by_piece(work, "first layers", run, knot, buffers, None, record):
                pass

    @classmethod
    def of(cls, problem: Problem, path: Path, buffers: Mapping[str, Tensor]) -> Self | None:
        """Those of a problem without attack; None: no such layer, no room, or a GPU.

        Whether a GPU gains anything has not been measured. A layer counts if every pass calls it
        once, with inputs that are the same at every knot and that no weight has touched.
        """
        if problem.device.type != "cpu":
            return None
        examples = torch.arange(min(2, len(problem.data)))
        x = problem.data.batch(examples, problem.device, problem.dtype).x
        names = [n for n, m in problem.network.named_modules() if plain(m, _LINEAR)]
        sizes: dict[str, int] = {}
        inputs: dict[str, Tensor] = {}
        for number, knot in enumerate(path.knots):
            calls: dict[str, list] = {n: [] for n in names}
            point = {n: t.clone().requires_grad_(t.is_floating_point()) for n, t in knot.items()}
            watched = {n: partial(_noted, calls[n].append) for n in names}
            problem.predict(point, buffers, watched)(x)
            for name, found in calls.items():
                if len(found) != 1 or found[0] is None or found[0][0].requires_grad:
                    names = [n for n in names if n != name]
                    continue
                given, out = found[0]
                if number and not torch.equal(given, inputs[name]):
                    names = [n for n in names if n != name]
                inputs[name], sizes[name] = given, out.numel() // len(examples)
        held = sum(sizes[n] for n in names) * len(problem.data) * (len(path.knots) + 1)
        return cls(problem, path, names, buffers) if names and held <= _ROOM else None

    def at(self, *coordinates: float) -> Callable[[int], Instead]:
        """For a piece of the data: what stands in the place of each layer at these coordinates."""
        *before, last = self.path.coefficients(*coordinates)

        def instead(number: int) -> Instead:
            return {n: partial(self._outputs, number, n, before, last) for n in self.names}

        return instead

    def _outputs(self, number: int, name: str, before: list[float], last: float, *_: Any) -> Tensor:
        knots, rows = self._held[number][name], self._rows[number]
        if name not in rows or rows[name][0] != before:
            rows[name] = (before, _combined(before, knots[:-1]))
        # new memory, for the same reason as in _kept
        row = rows[name][1]
        return torch.add(row, knots[-1], alpha=last) if last else row.clone()


def _kept(keep: Callable[[Tensor], None], module: nn.Module, *args: Any, **named: Any) -> Tensor:
    out = type(module).forward(module, *args, **named)
    keep(out.clone())  # the next layer may write into it
    return out


def _noted(note: Callable[[Any], None], module: nn.Module, *args: Any, **named: Any) -> Tensor:
    out = type(module).forward(module, *args, **named)
    note((args[0], out) if len(args) == 1 and not named else None)
    return out


def _combined(coefficients: list[float], tensors: list[Tensor]) -> Tensor:
    """The combination, without terms of coefficient 0 as in a Point's."""
    total = None
    for c, t in zip(coefficients, tensors, strict=True):
        if c and total is None:
            total = t if c == 1 else c * t
        elif c:
            total = torch.add(total, t, alpha=c)
    return torch.zeros_like(tensors[0]) if total is None else total
