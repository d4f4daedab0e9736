"""The permutation symmetry of a network: which hidden units can change places.

Two hidden units of a layer can change places if every tensor that writes or reads them is permuted
in the same way. These are rows of one weight, columns of the next, BatchNorm's vectors between
them, and tensors added to their output. One traced forward pass finds them, operation by
operation, for any architecture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ridgeline.landscape.permutation.axes import (
    Atom,
    NotFollowed,
    Term,
    atoms,
    constant,
    fix,
    free,
    joined,
)
from ridgeline.landscape.permutation.rules import Axes, Call, rule_of, without_rule
from ridgeline.landscape.problem import Problem
from ridgeline.models.errors import InputError, reason_of
from ridgeline.train.data.noise import Purpose, stream

#: group -> order of its units: unit i is the former unit order[i]
Permutations = Mapping[str, Tensor]
#: an axis as consecutive segments, each a product of (group or None, size), the last one fastest
Axis = tuple[tuple[tuple[str | None, int], ...], ...]

#: a wrong symmetry changes outputs by about their own size, float64 rounding by far less than this
_ROUNDING = 1e-8


@dataclass(frozen=True)
class Symmetry:
    """The groups of units of a network that can change places, and where they are.

    `groups` maps name -> number of units. A group has the name of the first parameter that
    contains it. `axes` has the axes of every parameter and buffer with such units.
    """

    groups: Mapping[str, int]
    axes: Mapping[str, tuple[Axis, ...]]

    def apply(self, tensors: Mapping[str, Tensor], orders: Permutations) -> dict[str, Tensor]:
        """Parameters or buffers with their units in another order; exact, in any dtype.

        Groups that are not in `orders` keep their order.
        """
        return {name: self.reordered(name, tensor, orders) for name, tensor in tensors.items()}

    def reordered(self, name: str, tensor: Tensor, orders: Permutations) -> Tensor:
        """One parameter or buffer with its units in another order."""
        for number, axis in enumerate(self.axes.get(name, ())):
            if any(group in orders for segment in axis for group, _ in segment):
                index = _index(axis, orders)
                tensor = tensor.index_select(number, index.to(tensor.device))
        return tensor

    def places(self, group: str) -> Iterator[tuple[str, int, Tensor]]:
        """Where a group is: name of the tensor, axis, and indices (units, indices of each)."""
        for name, axes in self.axes.items():
            for number, axis in enumerate(axes):
                start = 0
                for segment in axis:
                    sizes = [size for _, size in segment]
                    grid = start + torch.arange(math.prod(sizes)).view(sizes)
                    for factor, (who, size) in enumerate(segment):
                        if who == group:
                            yield name, number, grid.movedim(factor, 0).reshape(size, -1)
                    start += grid.numel()

    def unchanged(self) -> dict[str, Tensor]:
        """The identity order of every group."""
        return {group: torch.arange(size) for group, size in self.groups.items()}

    def random(self, seed: int, number: int = 0) -> dict[str, Tensor]:
        """A random order of every group; `number` counts the draws of one seed."""
        draws = stream(seed, Purpose.PERMUTATION, 0, number)
        return {g: torch.from_numpy(draws.permutation(n)) for g, n in self.groups.items()}


def symmetry_of(problem: Problem) -> Symmetry:
    """The permutation symmetry of a problem's network, derived and checked.

    Units are in no group if the network's inputs, its outputs or the order of an operation fix
    them. Within grouped parts, such as attention heads written as products, only orders that are
    the same in every part are found. The result is checked in float64, at weights near the
    network's own that all differ from zero: random orders must not change the outputs.

    Raises InputError for a network without units that can change places. Raises it, with the
    names of module and operation, for an operation that cannot be followed: fused attention,
    convolutions in groups, GroupNorm with several groups.
    """
    twin = problem.under(None).to("cpu", torch.float64)
    kind = type(twin.network).__name__
    batch = twin.data.batch(torch.arange(2) % len(twin.data), "cpu", torch.float64)
    leaves = {**twin.buffers, **twin.origin}
    trace = _Trace(leaves)
    with torch.no_grad(), trace.modules_of(twin.network), trace:
        out = twin.predict(twin.origin)(batch.x)
    try:
        fix(*trace.axes_of(out))
        fix(*(a for t in leaves.values() if id(t) not in trace.used for a in trace.axes_of(t)))
        symmetry = _symmetry(twin, {name: trace.axes_of(t) for name, t in leaves.items()})
    except NotFollowed as error:
        raise InputError(f"the units of {kind} cannot be followed: {error}") from None
    if not symmetry.groups:
        raise InputError(f"{kind} has no hidden units that could change places")
    _check(twin, symmetry, batch.x)
    return symmetry


class _Trace(TorchDispatchMode):
    """Traces a forward pass and records the axes of every tensor, starting from `leaves`."""

    def __init__(self, leaves: Mapping[str, Tensor]):
        super().__init__()
        self.used: set[int] = set()
        self._axes: dict[int, Axes | None] = {}
        self._alive: list[Tensor] = []  # Python may reuse an id once its tensor is deleted
        self._inside: list[tuple[str, nn.Module]] = []
        for tensor in leaves.values():
            self._note(tensor, [free(n) for n in tensor.shape])

    def axes_of(self, tensor: Tensor) -> Axes:
        """The axes of a tensor; a tensor that no traced operation has made is a constant."""
        axes = self._axes.get(id(tensor), [constant(n) for n in tensor.shape])
        if axes is None:
            raise NotFollowed("it reads indices or statistics that another operation returned")
        return axes

    def _note(self, tensor: Tensor, axes: Axes | None) -> None:
        self._axes[id(tensor)] = axes
        self._alive.append(tensor)

    @contextmanager
    def modules_of(self, network: nn.Module) -> Iterator[None]:
        """Record inside which module of the network an operation is called."""
        hooks = []

        def enter(name: str) -> Callable[..., None]:
            return lambda module, _: self._inside.append((name, module))

        def leave(*_: Any) -> None:
            self._inside.pop()

        for name, module in network.named_modules():
            hooks.append(module.register_forward_pre_hook(enter(name), prepend=True))
            hooks.append(module.register_forward_hook(leave, always_call=True))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if not isinstance(out, Tensor | list | tuple):
            return out  # a Python number; `_check` finds errors that its use causes
        names = [argument.name for argument in func._schema.arguments]
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        for argument in func._schema.arguments:
            given.setdefault(argument.name, argument.default_value)
        call = Call(func._schema.name.split("::")[1], given, out, self.axes_of)
        self.used |= {id(t) for t in call.tensors()}
        try:
            axes = (rule_of(func) or without_rule)(call)
        except (LookupError, ValueError, TypeError, AttributeError) as error:
            why = str(error) if isinstance(error, NotFollowed) else reason_of(error)
            name, module = self._inside[-1] if self._inside else ("", None)
            where = f"module {name} ({type(module).__name__})" if name else "the network's forward"
            raise InputError(
                f"the units of the network cannot be followed through {call.name} in {where}: "
                f"{why}; its permutation symmetry is not known"
            ) from None
        if isinstance(out, Tensor):
            self._note(out, axes)
        elif len(func._schema.returns) == 1:
            for tensor, each in zip(out or (), axes, strict=True):
                self._note(tensor, each)
        else:
            tensors = [t for t in out if isinstance(t, Tensor)]
            for number, tensor in enumerate(tensors):
                self._note(tensor, axes if number == 0 or call.name == "var_mean" else None)
        return out


def _symmetry(problem: Problem, axes: Mapping[str, Axes]) -> Symmetry:
    """The groups of a network's parameters: all atoms that are still free."""
    names: dict[Atom, str] = {}
    for name in problem.origin:
        for number, term in enumerate(axes[name]):
            for atom in atoms(term):
                if atom not in names:
                    names[atom] = _fresh(name if number == 0 else f"{name}[{number}]", names)

    def readable(term: Term) -> Axis:
        return tuple(tuple((names.get(a), a.size) for a in segment) for segment in joined(term))

    found = {name: tuple(map(readable, terms)) for name, terms in axes.items()}
    moving = {
        name: each
        for name, each in found.items()
        if any(group for axis in each for segment in axis for group, _ in segment)
    }
    return Symmetry({name: atom.size for atom, name in names.items()}, moving)


def _fresh(name: str, taken: Mapping[Atom, str]) -> str:
    """The name itself, or with a number if several groups begin in one parameter."""
    count = sum(t == name or t.startswith(f"{name}/") for t in taken.values())
    return f"{name}/{count + 1}" if count else name


def _index(axis: Axis, orders: Permutations) -> Tensor:
    """For each index of an axis: the index it had before."""
    parts, start = [], 0
    for segment in axis:
        index = torch.zeros(1, dtype=torch.long)
        for group, size in segment:
            order = orders.get(group) if group is not None else None
            order = torch.arange(size) if order is None else order
            index = (index[:, None] * size + order).flatten()
        parts.append(start + index)
        start += len(index)
    return torch.cat(parts)


def _check(problem: Problem, symmetry: Symmetry, x: Any) -> None:
    """Raise InputError if random orders of the units change the outputs.

    Zero or equal weights (fresh BatchNorm, zero-initialised branches) would hide an error. So
    noise is added to all tensors with units first.
    """
    draws = stream(0, Purpose.PERMUTATION, 1)

    def disturbed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {n: _disturbed(t, draws) if n in symmetry.axes else t for n, t in tensors.items()}

    point, buffers = disturbed(problem.origin), disturbed(problem.buffers)
    with torch.no_grad():
        wanted = problem.predict(point, buffers)(x)
        for number in range(2):
            orders = symmetry.random(0, number)
            moved = (symmetry.apply(tensors, orders) for tensors in (point, buffers))
            found = problem.predict(*moved)(x)
            error = (found - wanted).abs().max().item()
            if not error <= _ROUNDING * max(1e-30, wanted.abs().max().item()):
                raise InputError(
                    f"the permutation symmetry of {type(problem.network).__name__} could not be "
                    f"confirmed: units in another order change its outputs by {error:.2g}; "
                    "it has an operation that treats units differently"
                )


def _disturbed(tensor: Tensor, draws: np.random.Generator) -> Tensor:
    """A tensor plus positive noise of a tenth of its size: variances stay positive."""
    if not tensor.is_floating_point() or not tensor.isfinite().all():
        return tensor
    size = tensor.square().mean().sqrt().item() or 1.0
    return tensor + 0.1 * size * torch.from_numpy(draws.random(tensor.shape)).to(tensor)
