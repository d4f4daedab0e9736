"""One operation of torch in the form that the rules of axes use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ridgeline.landscape.permutation.axes import Term, constant, equate, extent

Axes = list[Term]


@dataclass(frozen=True)
class Call:
    """One operation: its name, its arguments by name, its output, and the axes of tensors."""

    name: str
    given: dict[str, Any]
    out: Any
    axes_of: Callable[[Tensor], Axes]

    def axes(self, name: str) -> Axes:
        """The axes of the argument of that name."""
        return list(self.axes_of(self.given[name]))

    def tensors(self) -> list[Tensor]:
        """All tensors among the arguments, those in lists included."""
        values = [v if isinstance(v, list | tuple) else [v] for v in self.given.values()]
        return [t for each in values for t in each if isinstance(t, Tensor)]

    def dims(self, name: str, count: int) -> list[int]:
        """The axes named by an argument; all `count` axes if it names none."""
        value = self.given.get(name)
        value = [value] if isinstance(value, int) else value
        return [d % count for d in (value or range(count))]


def same(call: Call) -> Axes:
    """The axes of the first tensor."""
    return list(call.axes_of(call.tensors()[0]))


def still(out: Any) -> list:
    """Fixed axes for an output, or for each output of a list."""
    if isinstance(out, list):
        return [still(each) for each in out]
    first = out[0] if isinstance(out, tuple) else out
    return [constant(n) for n in first.shape]


def broadcast(*tensors: Axes) -> Axes:
    """The axes of tensors that are combined element by element, aligned at the last axis."""
    rank = max(map(len, tensors))
    result: Axes = [constant(1)] * rank
    for axes in tensors:
        for place, term in enumerate(axes, rank - len(axes)):
            if extent(term) == 1:
                continue
            if extent(result[place]) == 1:
                result[place] = term
            else:
                equate(result[place], term)
    return result


def pointwise(call: Call) -> Axes:
    """The axes of an element-wise operation: those of its tensors, which must agree."""
    return broadcast(*(call.axes_of(t) for t in call.tensors()))
