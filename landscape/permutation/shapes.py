"""Rules of axes for operations that permute, split, join or repeat axes."""

from __future__ import annotations

import math

from ridgeline.landscape.permutation.axes import (
    NotFollowed,
    constant,
    extent,
    factors,
    free,
    is_fixed,
    part,
    product,
)
from ridgeline.landscape.permutation.calls import Axes, Call, broadcast, pointwise, same, still


def reshaped(call: Call) -> Axes:
    """Axes are flattened or split: the smallest groups of axes with equal size correspond."""
    axes, shape = same(call), list(call.out.shape)
    result: Axes = []
    if call.out.numel() == 0:
        return still(call.out)
    while axes or shape:
        run, sizes = axes[:1], shape[:1]
        axes, shape = axes[1:], shape[1:]
        while math.prod(map(extent, run)) != math.prod(sizes):
            if math.prod(map(extent, run)) < math.prod(sizes):
                run.append(axes.pop(0))
            else:
                sizes.append(shape.pop(0))
        result += factors(product(run), sizes)
    return result


def restrided(call: Call) -> Axes:
    """Strides of another memory layout; the shape must not change."""
    axes = same(call)
    if [*call.out.shape] != [*map(extent, axes)]:
        raise NotFollowed("it makes a view of other strides and another shape")
    return axes


def expanded(call: Call) -> Axes:
    """New and widened axes hold copies of one value: every permutation is allowed."""
    axes, shape = same(call), call.out.shape
    axes = [constant(1)] * (len(shape) - len(axes)) + axes
    return [t if extent(t) == n else free(n) for t, n in zip(axes, shape, strict=True)]


def repeated(call: Call) -> Axes:
    """The copies of an axis can change places with each other."""
    axes, times = same(call), call.given["repeats"]
    axes = [constant(1)] * (len(times) - len(axes)) + axes
    return [t if n == 1 else product([free(n), t]) for t, n in zip(axes, times, strict=True)]


def permuted(call: Call) -> Axes:
    """Axes in another order."""
    axes = same(call)
    return [axes[d] for d in call.given["dims"]]


def transposed(call: Call) -> Axes:
    """Two axes change places."""
    axes = same(call)
    a, b = call.given.get("dim0", 0), call.given.get("dim1", -1)
    if len(axes) > 1:
        axes[a], axes[b] = axes[b], axes[a]
    return axes


def unsqueezed(call: Call) -> Axes:
    """One more axis, of length 1."""
    axes = same(call)
    axes.insert(call.given["dim"] % (len(axes) + 1), constant(1))
    return axes


def squeezed(call: Call) -> Axes:
    """Axes of length 1 are removed."""
    axes = same(call)
    gone = call.dims("dim", len(axes))
    return [t for d, t in enumerate(axes) if d not in gone or extent(t) > 1]


def selected(call: Call) -> Axes:
    """One index of an axis: this unit must stay where it is."""
    axes = same(call)
    term = axes.pop(call.given["dim"])
    index = call.given["index"] % extent(term)
    part(term, index, index + 1)
    return axes


def sliced(call: Call) -> Axes:
    """A range of indices: no unit moves into it or out of it."""
    axes, dim = same(call), call.given["dim"]
    start, stop, step = slice(*(call.given[n] for n in ("start", "end", "step"))).indices(
        extent(axes[dim])
    )
    if step == 1:
        axes[dim] = part(axes[dim], start, max(start, stop))
    elif is_fixed(axes[dim]):
        axes[dim] = constant(call.out.shape[dim])
    else:
        raise NotFollowed(f"it takes every {step}th unit")
    return axes


def split(call: Call) -> list[Axes]:
    """A split, chunk or unbind: one list of axes for each output."""
    axes, dim = same(call), call.given["dim"]
    found, place = [], 0
    dropped = call.out[0].ndim < len(axes)
    for out in call.out:
        size = 1 if dropped else out.shape[dim]
        piece = part(axes[dim], place, place + size)
        found.append([t for d, t in enumerate(axes) if d != dim % len(axes)])
        if not dropped:
            found[-1].insert(dim % len(axes), piece)
        place += size
    return found


def concatenated(call: Call) -> Axes:
    """Several axes are concatenated into one; the other axes must agree."""
    tensors = [t for t in call.tensors() if t.shape != (0,)]
    dim = call.given["dim"] % tensors[0].ndim
    pieces = [list(call.axes_of(t)) for t in tensors]
    whole = tuple(segment for axes in pieces for segment in axes[dim])
    for axes in pieces:
        axes[dim] = constant(1)
    axes = broadcast(*pieces)
    axes[dim] = whole
    return axes


def stacked(call: Call) -> Axes:
    """A new axis over tensors whose axes must agree."""
    axes = pointwise(call)
    axes.insert(call.given["dim"] % (len(axes) + 1), constant(len(call.tensors())))
    return axes


def padded(call: Call) -> Axes:
    """Padding with a constant: the new elements can be permuted among themselves."""
    axes, pads = same(call), call.given["pad"]
    for number in range(len(pads) // 2):
        before, after = pads[2 * number : 2 * number + 2]
        d = len(axes) - 1 - number
        term = part(axes[d], max(-before, 0), extent(axes[d]) - max(-after, 0))
        axes[d] = (
            *(free(before) if before > 0 else ()),
            *term,
            *(free(after) if after > 0 else ()),
        )
    return axes
