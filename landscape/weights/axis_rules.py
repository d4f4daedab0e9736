"""What each operation of torch tells about the axes of its inputs and its output.

A rule takes a `Call` and returns the axes of the output; it equates and fixes axes of the inputs on
the way. Operations without a rule are followed only where nothing moves along their inputs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ridgeline.landscape.weights.axes import (
    NotFollowed,
    Term,
    constant,
    equate,
    extent,
    factors,
    fix,
    free,
    is_fixed,
    part,
    product,
)

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
        """The axes that an argument names, all `count` where it names none."""
        value = self.given.get(name)
        value = [value] if isinstance(value, int) else value
        return [d % count for d in (value or range(count))]


Rule = Callable[[Call], list]


def rule_of(function: Any) -> Rule | None:
    """The rule of an operation, if there is one."""
    name = function._schema.name.split("::")[1]
    for spelling in (name, name.rstrip("_")):
        if spelling in RULES:
            return RULES[spelling]
    if torch.Tag.pointwise in function.tags:
        return _pointwise
    return next((rule for pattern, rule in FAMILIES if re.fullmatch(pattern, name)), None)


def without_rule(call: Call) -> Axes:
    """The axes of an output where nothing moves along the inputs; NotFollowed elsewhere."""
    for tensor in call.tensors():
        if not all(map(is_fixed, call.axes_of(tensor))):
            raise NotFollowed("no rule says how units pass through it")
    return _still(call.out)


def broadcast(*tensors: Axes) -> Axes:
    """The axes of tensors that are combined place by place, the last ones aligned."""
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


def _still(out: Any) -> list:
    """Axes along which nothing moves, for the first output, or for each of a list."""
    if isinstance(out, list):
        return [_still(each) for each in out]
    first = out[0] if isinstance(out, tuple) else out
    return [constant(n) for n in first.shape]


def _pointwise(call: Call) -> Axes:
    return broadcast(*(call.axes_of(t) for t in call.tensors()))


def _same(call: Call) -> Axes:
    return list(call.axes_of(call.tensors()[0]))


def _uniform(call: Call) -> Axes:
    """Tensors of one value: their places can move as one likes."""
    return [free(n) for n in call.out.shape]


def _ordered(call: Call) -> Axes:
    """An operation along axes whose order counts: cumsum, flip, roll."""
    axes = _same(call)
    name = "dim" if "dim" in call.given else "dims"
    fix(*(axes[d] for d in call.dims(name, len(axes))))
    return axes


def _shuffle_free(call: Call) -> Axes:
    """Softmax: any order of the places will do."""
    return _same(call)


def _kept(call: Call, axes: Axes, dims: Sequence[int]) -> Axes:
    if call.given.get("keepdim"):
        return [constant(1) if d in dims else t for d, t in enumerate(axes)]
    return [t for d, t in enumerate(axes) if d not in dims]


def _reduced(call: Call) -> Axes:
    axes = _same(call)
    return _kept(call, axes, call.dims("dim", len(axes)))


def _found(call: Call) -> Axes:
    """Reductions that tell a place: argmax."""
    axes = _same(call)
    dims = call.dims("dim", len(axes))
    fix(*(axes[d] for d in dims))
    return _kept(call, axes, dims)


def _convolution(call: Call) -> Axes:
    x, weight, groups = call.axes("input"), call.axes("weight"), call.given["groups"]
    count = len(weight) - 2
    fix(*x[-count:], *weight[2:])
    batch, channels = x[: -count - 1], x[-count - 1]
    entering, leaving = (0, 1) if call.given.get("transposed") else (1, 0)
    made = weight[leaving]
    if groups == 1:
        equate(channels, weight[entering])
    elif groups == extent(channels) and leaving == 0:
        equate(made, product([channels, constant(extent(made) // groups)]))
    elif not all(map(is_fixed, (channels, weight[0], weight[1]))):
        raise NotFollowed(f"its {extent(channels)} channels form {groups} groups")
    else:
        made = constant(call.out.shape[-count - 1])
    if call.given.get("bias") is not None:
        equate(call.axes("bias")[0], made)
    return [*batch, made, *_still(call.out)[-count:]]


def _batch_norm(call: Call) -> Axes:
    axes = call.axes("input")
    for name in ("weight", "bias", "running_mean", "running_var"):
        if call.given.get(name) is not None:
            equate(axes[1], call.axes(name)[0])
    return axes


def _layer_norm(call: Call) -> Axes:
    axes = call.axes("input")
    for name in ("weight", "bias"):
        if call.given.get(name) is not None:
            affine = call.axes(name)
            for one, other in zip(axes[-len(affine) :], affine, strict=True):
                equate(one, other)
    return axes


def _group_norm(call: Call) -> Axes:
    axes, groups = call.axes("input"), call.given["group"]
    if groups not in (1, extent(axes[1])) and not is_fixed(axes[1]):
        raise NotFollowed(f"its {extent(axes[1])} channels form {groups} groups")
    return _batch_norm(call)


def _weight_norm(call: Call) -> Axes:
    v, g = call.axes("v"), call.axes("g")
    broadcast(v, g)
    return v


def _spatial(call: Call) -> Axes:
    """Pooling, resizing, padding by reflection: windows over the last axes."""
    count = int(re.search(r"(\d)d", call.name)[1])
    axes = _same(call)
    fix(*axes[-count:])
    return [*axes[:-count], *_still(call.out)[-count:]]


def _product(call: Call) -> Axes:
    """mm, bmm, mv, dot: the inner axes move alike."""
    left, right = (list(call.axes_of(t)) for t in call.tensors()[-2:])
    inner = max(len(right) - 2, 0)
    equate(left[-1], right[inner])
    if len(left) == 3:
        equate(left[0], right[0])
    return [*left[:-1], *right[inner + 1 :]]


def _sum_and_product(call: Call) -> Axes:
    """addmm, addmv, baddbmm."""
    return broadcast(_product(call), _same(call))


def _outer(call: Call) -> Axes:
    left, right = (call.axes_of(t) for t in call.tensors())
    return [left[0], right[0]]


def _embedding(call: Call) -> Axes:
    weight = call.axes("weight")
    fix(weight[0])
    return [*call.axes("indices"), weight[1]]


def _view(call: Call) -> Axes:
    """Reshape: axes are flattened into one, or split, in the smallest runs of equal size."""
    axes, shape = _same(call), list(call.out.shape)
    result: Axes = []
    if call.out.numel() == 0:
        return _still(call.out)
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


def _expand(call: Call) -> Axes:
    axes, shape = _same(call), call.out.shape
    axes = [constant(1)] * (len(shape) - len(axes)) + axes
    return [t if extent(t) == n else free(n) for t, n in zip(axes, shape, strict=True)]


def _repeat(call: Call) -> Axes:
    axes, times = _same(call), call.given["repeats"]
    axes = [constant(1)] * (len(times) - len(axes)) + axes
    return [t if n == 1 else product([free(n), t]) for t, n in zip(axes, times, strict=True)]


def _permute(call: Call) -> Axes:
    axes = _same(call)
    return [axes[d] for d in call.given["dims"]]


def _transpose(call: Call) -> Axes:
    axes = _same(call)
    a, b = call.given.get("dim0", 0), call.given.get("dim1", -1)
    if len(axes) > 1:
        axes[a], axes[b] = axes[b], axes[a]
    return axes


def _unsqueeze(call: Call) -> Axes:
    axes = _same(call)
    axes.insert(call.given["dim"] % (len(axes) + 1), constant(1))
    return axes


def _squeeze(call: Call) -> Axes:
    axes = _same(call)
    gone = call.dims("dim", len(axes))
    return [t for d, t in enumerate(axes) if d not in gone or extent(t) > 1]


def _select(call: Call) -> Axes:
    axes = _same(call)
    term = axes.pop(call.given["dim"])
    index = call.given["index"] % extent(term)
    part(term, index, index + 1)
    return axes


def _slice(call: Call) -> Axes:
    axes, dim = _same(call), call.given["dim"]
    size = extent(axes[dim])
    start, stop, step = slice(call.given["start"], call.given["end"]).indices(size)[:2] + (
        call.given["step"],
    )
    if step == 1:
        axes[dim] = part(axes[dim], start, max(start, stop))
    elif is_fixed(axes[dim]):
        axes[dim] = constant(call.out.shape[dim])
    else:
        raise NotFollowed(f"it takes every {step}th unit")
    return axes


def _split(call: Call) -> list[Axes]:
    """split, chunk, unbind: one list of axes for each output."""
    axes, dim = _same(call), call.given["dim"]
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


def _cat(call: Call) -> Axes:
    tensors = [t for t in call.tensors() if t.shape != (0,)]
    dim = call.given["dim"] % tensors[0].ndim
    pieces = [list(call.axes_of(t)) for t in tensors]
    whole = tuple(segment for axes in pieces for segment in axes[dim])
    for axes in pieces:
        axes[dim] = constant(1)
    axes = broadcast(*pieces)
    axes[dim] = whole
    return axes


def _stack(call: Call) -> Axes:
    axes = _pointwise(call)
    axes.insert(call.given["dim"] % (len(axes) + 1), constant(len(call.tensors())))
    return axes


def _pad(call: Call) -> Axes:
    """Padding with a number: the new places can move among themselves."""
    axes, pads = _same(call), call.given["pad"]
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


def _copy(call: Call) -> Axes:
    broadcast(call.axes("self"), call.axes("src"))
    return call.axes("self")


_NAMES: dict[Rule, str] = {
    _pointwise: "hardswish _prelu_kernel rsub log_sigmoid_forward where masked_fill",
    _same: "clone detach alias _to_copy lift_fresh contiguous fill zero _softmax _log_softmax",
    _uniform: "zeros ones full empty zeros_like ones_like full_like empty_like new_zeros new_ones "
    "new_full new_empty",
    _ordered: "cumsum cumprod flip roll logcumsumexp",
    _reduced: "mean sum amax amin var std var_mean prod logsumexp linalg_vector_norm norm any all "
    "max min",
    _found: "argmax argmin",
    _convolution: "convolution",
    _batch_norm: "native_batch_norm _native_batch_norm_legit_no_training cudnn_batch_norm",
    _layer_norm: "native_layer_norm _fused_rms_norm",
    _group_norm: "native_group_norm",
    _weight_norm: "_weight_norm_interface",
    _product: "mm bmm mv dot vdot",
    _sum_and_product: "addmm addmv baddbmm",
    _outer: "outer ger",
    _embedding: "embedding",
    _view: "view _unsafe_view _reshape_alias reshape",
    _expand: "expand",
    _repeat: "repeat",
    _permute: "permute",
    _transpose: "t transpose",
    _unsqueeze: "unsqueeze",
    _squeeze: "squeeze",
    _select: "select",
    _slice: "slice",
    _split: "split split_with_sizes chunk unbind unsafe_split unsafe_split_with_sizes unsafe_chunk",
    _cat: "cat",
    _stack: "stack",
    _pad: "constant_pad_nd",
    _copy: "copy",
}
RULES: dict[str, Rule] = {name: rule for rule, names in _NAMES.items() for name in names.split()}
#: regular expressions of names that mean the same in one, two and three dimensions
FAMILIES: tuple[tuple[str, Rule], ...] = (
    (r"_?(adaptive_)?(avg|max)_pool\dd(_with_indices)?", _spatial),
    (r"_?upsample_\w+\dd(_aa)?", _spatial),
    (r"(reflection|replication)_pad\dd", _spatial),
)
