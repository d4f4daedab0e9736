"""One rule per torch operation: how the axes of its inputs and its output are related.

A rule takes a `Call`, equates and fixes axes of the inputs, and returns the axes of the output. An
operation without a rule is allowed only if all axes of its inputs are fixed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ridgeline.landscape.permutation import shapes
from ridgeline.landscape.permutation.axes import (
    NotFollowed,
    constant,
    equate,
    extent,
    fix,
    free,
    is_fixed,
    product,
)
from ridgeline.landscape.permutation.calls import Axes, Call, broadcast, pointwise, same, still

Rule = Callable[[Call], list]


def rule_of(function: Any) -> Rule | None:
    """The rule of an operation, or None."""
    name = function._schema.name.split("::")[1]
    for spelling in (name, name.rstrip("_")):
        if spelling in RULES:
            return RULES[spelling]
    if torch.Tag.pointwise in function.tags:
        return pointwise
    return next((rule for pattern, rule in FAMILIES if re.fullmatch(pattern, name)), None)


def without_rule(call: Call) -> Axes:
    """The axes of an output whose inputs are all fixed; raises NotFollowed for other inputs."""
    for tensor in call.tensors():
        if not all(map(is_fixed, call.axes_of(tensor))):
            raise NotFollowed("no rule says how units pass through it")
    return still(call.out)


def _uniform(call: Call) -> Axes:
    """Tensors filled with one value: every permutation of their elements is allowed."""
    return [free(n) for n in call.out.shape]


def _ordered(call: Call) -> Axes:
    """An operation that depends on the order along its axes: cumsum, flip, roll."""
    axes = same(call)
    name = "dim" if "dim" in call.given else "dims"
    fix(*(axes[d] for d in call.dims(name, len(axes))))
    return axes


def _kept(call: Call, axes: Axes, dims: Sequence[int]) -> Axes:
    if call.given.get("keepdim"):
        return [constant(1) if d in dims else t for d, t in enumerate(axes)]
    return [t for d, t in enumerate(axes) if d not in dims]


def _reduced(call: Call) -> Axes:
    axes = same(call)
    return _kept(call, axes, call.dims("dim", len(axes)))


def _found(call: Call) -> Axes:
    """Reductions that return an index: argmax."""
    axes = same(call)
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
    return [*batch, made, *still(call.out)[-count:]]


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
    """The weight v g / |v|."""
    v, g = call.axes("v"), call.axes("g")
    broadcast(v, g)
    return v


def _spatial(call: Call) -> Axes:
    """Pooling, resizing, padding by reflection: windows over the last axes."""
    count = int(re.search(r"(\d)d", call.name)[1])
    axes = same(call)
    fix(*axes[-count:])
    return [*axes[:-count], *still(call.out)[-count:]]


def _product(call: Call) -> Axes:
    """mm, bmm, mv, dot: the inner axes have the same permutation."""
    left, right = (list(call.axes_of(t)) for t in call.tensors()[-2:])
    inner = max(len(right) - 2, 0)
    equate(left[-1], right[inner])
    if len(left) == 3:
        equate(left[0], right[0])
    return [*left[:-1], *right[inner + 1 :]]


def _sum_and_product(call: Call) -> Axes:
    """addmm, addmv, baddbmm."""
    return broadcast(_product(call), same(call))


def _outer(call: Call) -> Axes:
    left, right = (call.axes_of(t) for t in call.tensors())
    return [left[0], right[0]]


def _embedding(call: Call) -> Axes:
    weight = call.axes("weight")
    fix(weight[0])
    return [*call.axes("indices"), weight[1]]


def _copy(call: Call) -> Axes:
    broadcast(call.axes("self"), call.axes("src"))
    return call.axes("self")


_NAMES: dict[Rule, str] = {
    pointwise: "hardswish _prelu_kernel rsub log_sigmoid_forward where masked_fill",
    same: "clone detach alias _to_copy lift_fresh contiguous fill zero _softmax _log_softmax",
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
    shapes.reshaped: "view _unsafe_view _reshape_alias reshape",
    shapes.restrided: "as_strided",
    shapes.expanded: "expand",
    shapes.repeated: "repeat",
    shapes.permuted: "permute",
    shapes.transposed: "t transpose",
    shapes.unsqueezed: "unsqueeze",
    shapes.squeezed: "squeeze",
    shapes.selected: "select",
    shapes.sliced: "slice",
    shapes.split: "split split_with_sizes chunk unbind unsafe_split unsafe_split_with_sizes "
    "unsafe_chunk",
    shapes.concatenated: "cat",
    shapes.stacked: "stack",
    shapes.padded: "constant_pad_nd",
    _copy: "copy",
}
RULES: dict[str, Rule] = {name: rule for rule, names in _NAMES.items() for name in names.split()}
#: regular expressions of operations that exist in one, two and three dimensions
FAMILIES: tuple[tuple[str, Rule], ...] = (
    (r"_?(adaptive_)?(avg|max)_pool\dd(_with_indices)?", _spatial),
    (r"_?upsample_\w+\dd(_aa)?", _spatial),
    (r"(reflection|replication)_pad\dd", _spatial),
)
