"""Layers whose inputs are the data alone: on a path their outputs are linear combinations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from ridgeline.landscape.pieces import Instead, piece_by_piece
from ridgeline.landscape.problem import Problem
from ridgeline.landscape.resume import at_once
from ridgeline.landscape.surfaces.plain import plain_layer, plain_tensor
from ridgeline.landscape.weights.paths import Path
from ridgeline.models.copying import Replacements
from ridgeline.train.data.examples import Data, leaves

#: layers whose outputs are linear in their weights and biases together
_LINEAR = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
#: most numbers kept in memory (512 MiB in float32)
_ROOM = 2**27


class FirstLayers:
    """The outputs, at every knot of a path, of the layers whose inputs are the data alone.

    Such a layer is linear in its weights, and these are linear in the knots. So its outputs at any
    Point of the path are the same combination of its outputs at the knots. Combining needs one pass
    over memory; a convolution needs many. `names` are the names of the layers. If a layer gets
    other inputs than at the knots (because control flow depends on weights), it runs as usual.
    """

    def __init__(self, problem: Problem, path: Path, names: list[str], buffers: Any):
        self.path = path
        count = len(problem.data.pieces(problem.batch_size))
        #: (piece, name) -> inputs, and outputs at each knot
        self._held: list[dict[str, _Held]] = [{n: _Held() for n in names} for _ in range(count)]
        #: (piece, name) -> all coefficients but the last, and their combination
        self._rows: list[dict[str, tuple[list[float], Tensor]]] = [{} for _ in range(count)]

        def run(chunk: Data, options: dict[str, Any]) -> dict[str, float]:
            with torch.no_grad():
                options["predict"](chunk.whole(options["device"], options["dtype"]).x)
            return {}

        def record(knot: int, number: int) -> Replacements:
            return {n: partial(_kept, held, knot) for n, held in self._held[number].items()}

        for k, knot in enumerate(path.knots):
            work, instead = problem.resuming(at_once), partial(record, k)
            for _ in piece_by_piece(work, "first layers", run, knot, buffers, None, instead):
                pass
        # checked in every piece: control flow may depend on the number of examples
        every = len(path.knots)
        self.names = [n for n in names if all(len(held[n].outputs) == every for held in self._held)]
        self._held = [{n: held[n] for n in self.names} for held in self._held]

    @classmethod
    def of(cls, problem: Problem, path: Path, buffers: Mapping[str, Tensor]) -> Self | None:
        """The first layers of a problem without attack; None: no such layer, no memory, or a GPU.

        The gain on a GPU has not been measured. A layer counts if all of this holds:

        - every pass calls it once;
        - its inputs are the same at every knot and do not depend on weights;
        - its weights are those of the path, not computed from them.
        """
        if problem.device.type != "cpu":
            return None
        examples = torch.arange(min(2, len(problem.data)))
        x = problem.data.batch(examples, problem.device, problem.dtype).x
        names = [n for n, m in problem.network.named_modules() if plain_layer(m, _LINEAR)]
        sizes: dict[str, int] = {}
        inputs: dict[str, Tensor] = {}
        for number, knot in enumerate(path.knots):
            calls: dict[str, list] = {n: [] for n in names}
            with torch.enable_grad():  # shows which tensors depend on weights
                point = {n: t.clone().requires_grad_(t.is_floating_point())
                         for n, t in knot.items()}  # fmt: skip
                own = {id(t) for t in point.values()}
                watched = {n: partial(_noted, calls[n].append, own) for n in names}
                problem.predict(point, buffers, watched)(x)
            for name, found in calls.items():
                if len(found) != 1 or found[0] is None or found[0][0].requires_grad:
                    names = [n for n in names if n != name]
                    continue
                given, out = found[0]
                if number and not torch.equal(given, inputs[name]):
                    names = [n for n in names if n != name]
                inputs[name], sizes[name] = given, out.numel() // len(examples)
        data = {t.untyped_storage().data_ptr() for t in leaves(x)}  # in memory already
        made = [t for n in names if (t := inputs[n]).untyped_storage().data_ptr() not in data]
        kept = sum(t.numel() // len(examples) for t in made) * len(problem.data)
        held = sum(sizes[n] for n in names) * len(problem.data) * (len(path.knots) + 1)
        if not names or max(kept, held) > _ROOM:
            return None
        found = cls(problem, path, names, buffers)
        return found if found.names else None

    def at(self, *coordinates: float) -> Instead:
        """For a piece of the data: the functions that replace the layers at these coordinates."""
        *before, last = self.path.coefficients(*coordinates)

        def instead(number: int) -> Replacements:
            return {n: partial(self._outputs, number, n, before, last) for n in self.names}

        return instead

    def _outputs(
        self, number: int, name: str, before: list[float], last: float, module: nn.Module,
        *args: Any, **named: Any,
    ) -> Tensor:  # fmt: skip
        if named or len(args) != 1 or not self._held[number][name].of(args[0]):
            return type(module).forward(module, *args, **named)
        knots, rows = self._held[number][name].outputs, self._rows[number]
        kept = rows.get(name)  # read only once: another thread may replace it
        if kept is None or kept[0] != before:
            kept = rows[name] = (before, _combined(before, knots[:-1]))
        # new memory, for the same reason as in _kept
        row = kept[1]
        return torch.add(row, knots[-1], alpha=last) if last else row.clone()


class _Held:
    """The inputs of one layer in one piece of the data, and its outputs at each knot."""

    def __init__(self) -> None:
        self.inputs: Tensor | None = None
        self.version = 0
        self.outputs: list[Tensor] = []

    def of(self, x: Tensor) -> bool:
        """Whether these are the outputs for x."""
        held = self.inputs
        if held is None or held._version != self.version or not plain_tensor(x):
            return False  # the inputs have been overwritten since
        if (x.shape, x.dtype) != (held.shape, held.dtype):
            return False
        same = (x.data_ptr(), x.stride()) == (held.data_ptr(), held.stride())
        return same or torch.equal(x, held)


def _kept(held: _Held, knot: int, module: nn.Module, *args: Any, **named: Any) -> Tensor:
    simple = len(args) == 1 and not named and plain_tensor(args[0])
    if simple and not knot and held.inputs is None:
        held.inputs, held.version = args[0], args[0]._version
    known = simple and len(held.outputs) == knot and held.of(args[0])
    out = type(module).forward(module, *args, **named)
    if known:
        held.outputs.append(out.clone())  # the next layer may write into it
    return out


def _noted(
    note: Callable[[Any], None], own: set[int], module: nn.Module, *args: Any, **named: Any
) -> Tensor:
    out = type(module).forward(module, *args, **named)
    if torch.compiler.is_compiling():
        return out  # recording would force a new compilation in every cell
    # weights that hooks compute from others may not be linear in these
    pure = all(t is None or id(t) in own for t in (module.weight, module.bias))
    simple = pure and len(args) == 1 and not named and plain_tensor(args[0])
    note((args[0], out) if simple else None)
    return out


def _combined(coefficients: list[float], tensors: list[Tensor]) -> Tensor:
    """The linear combination; terms with coefficient 0 are skipped, as for Points."""
    total = None
    for c, t in zip(coefficients, tensors, strict=True):
        if c and total is None:
            total = t if c == 1 else c * t
        elif c:
            total = torch.add(total, t, alpha=c)
    return torch.zeros_like(tensors[0]) if total is None else total
