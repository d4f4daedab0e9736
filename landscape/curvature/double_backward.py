"""Evaluate a network so that its graph can be differentiated twice, correctly and fast.

Inside `second_order()` equal functions replace those whose second derivative in PyTorch is slow,
missing or wrong:

- convolutions: PyTorch's double backward runs kernels as large as the image;
- BatchNorm in eval mode: PyTorch evaluates the formulas of training mode;
- fused attention and the hard sigmoid: PyTorch has no second derivative;
- fused weight normalisation: PyTorch's second derivative is wrong.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from ridgeline.train.data.examples import Inputs, map_tensors
from ridgeline.train.precision import exact

_convolution = torch.ops.aten.convolution
_convolution_backward = torch.ops.aten.convolution_backward


class Way(NamedTuple):
    """One of the ways to evaluate a network for its second derivatives."""

    replaced: bool  # the functions of this module (True) or PyTorch's own (False)
    channels_last: bool  # layout of images and kernels: faster on a CPU

    def __str__(self) -> str:
        kernels = "Ridgeline's kernels" if self.replaced else "PyTorch's kernels"
        return f"{kernels}, {'channels-last' if self.channels_last else 'contiguous'}"

    def logits(self, predict, x: Inputs) -> Tensor:
        """The network's outputs for inputs, with a graph that can be differentiated twice."""

        def laid_out(tensor: Tensor) -> Tensor:
            return tensor.to(memory_format=self._layout) if tensor.ndim == 4 else tensor

        with second_order(self.replaced), torch.enable_grad():
            return predict(map_tensors(laid_out, x))

    def leaf(self, tensor: Tensor) -> Tensor:
        """A copy of a tensor, in this layout, to differentiate by."""
        layout = self._layout if tensor.ndim == 4 else torch.contiguous_format
        return tensor.detach().clone(memory_format=layout).requires_grad_()

    @property
    def _layout(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format


def ways(device: torch.device) -> tuple[Way, ...]:
    """The ways on a device, fastest first, then the safer ones."""
    all_ways = (Way(True, True), Way(True, False), Way(False, False))
    return all_ways if device.type == "cpu" else all_ways[1:]


@contextmanager
def second_order(replaced: bool = True) -> Iterator[None]:
    """Evaluate with functions that have correct second derivatives; values are the same.

    Without `replaced` all functions are PyTorch's own, except fused attention: it has no second
    derivative, so attention is computed without fusion.
    """
    with exact(), sdpa_kernel(SDPBackend.MATH), _Replacements() if replaced else nullcontext():
        yield


class _Replacements(TorchFunctionMode):
    """Catches the functions a module calls and replaces those that have a replacement here."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in _CONVOLUTIONS:
            return _convolve(func, *args, **kwargs)
        return _REPLACED.get(func, func)(*args, **kwargs)


_CONVOLUTIONS = {F.conv1d: 1, F.conv2d: 2, F.conv3d: 3}


def _convolve(func, input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    rank = _CONVOLUTIONS[func]
    if isinstance(padding, str) or input.ndim != rank + 2:
        return func(input, weight, bias, stride, padding, dilation, groups)
    numbers = [
        [value] * rank if isinstance(value, int) else list(value)
        for value in (stride, padding, dilation)
    ]
    return _Convolution.apply(input, weight, bias, (*numbers, False, [0] * rank, groups))


def _batch_norm(*args, **kwargs) -> Tensor:
    o = _arguments(F.batch_norm, args, kwargs)
    if o["training"] or o["running_mean"] is None:
        return F.batch_norm(*args, **kwargs)
    return _normalised(o)


def _instance_norm(*args, **kwargs) -> Tensor:
    o = _arguments(F.instance_norm, args, kwargs)
    if o["use_input_stats"] or o["running_mean"] is None:
        return F.instance_norm(*args, **kwargs)
    return _normalised(o)


def _normalised(o: dict) -> Tensor:
    """Normalisation by running statistics, which is affine by channel."""
    scale = (o["running_var"] + o["eps"]).rsqrt()
    scale = scale if o["weight"] is None else o["weight"] * scale
    shift = -o["running_mean"] * scale
    shift = shift if o["bias"] is None else o["bias"] + shift
    return _Affine.apply(o["input"], scale, shift)


def _layer_norm(*args, **kwargs) -> Tensor:
    o = _arguments(F.layer_norm, args, kwargs)
    if o["weight"] is not None or o["bias"] is None:
        return F.layer_norm(*args, **kwargs)
    return F.layer_norm(o["input"], o["normalized_shape"], eps=o["eps"]) + o["bias"]


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    return v * (g / torch.norm_except_dim(v, 2, dim))


def _hard_sigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    return F.relu6(input + 3) / 6


_SIGNATURES = {f: inspect.signature(f) for f in (F.batch_norm, F.instance_norm, F.layer_norm)}


def _arguments(func, args, kwargs) -> dict:
    bound = _SIGNATURES[func].bind(*args, **kwargs)
    bound.apply_defaults()
    return bound.arguments


_REPLACED = {
    F.batch_norm: _batch_norm,
    F.instance_norm: _instance_norm,
    F.layer_norm: _layer_norm,
    F.hardsigmoid: _hard_sigmoid,
    torch._weight_norm: _weight_norm,
}


class _Affine(Function):
    """x * scale + shift by channel; its derivative is `_AffineDerivative`."""

    @staticmethod
    def forward(ctx, x, scale, shift):
        ctx.save_for_backward(x, scale)
        return torch.addcmul(_by_channel(shift, x), x, _by_channel(scale, x))

    @staticmethod
    def backward(ctx, g):
        return _AffineDerivative.apply(g, *ctx.saved_tensors, ctx.needs_input_grad[0])


class _AffineDerivative(Function):
    """The three derivatives of `_Affine` for the cotangent g, and their derivatives.

    Memory is reused where possible: allocating new pages costs more than the arithmetic.
    """

    @staticmethod
    def forward(ctx, g, x, scale, by_image):
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(g, x, scale)
        over = [d for d in range(x.ndim) if d != 1]
        product = g * x
        total = product.sum(over)
        dx = torch.mul(g, _by_channel(scale, g), out=product) if by_image else None
        return dx, total, g.sum(over)

    @staticmethod
    def backward(ctx, by_x, by_scale, by_shift):
        g, x, scale = ctx.saved_tensors
        by_image, by_vector = ctx.needs_input_grad[1:3]
        zero = torch.zeros_like(scale)
        b = _by_channel(zero if by_scale is None else by_scale, x)
        dg = torch.addcmul(_by_channel(zero if by_shift is None else by_shift, x), x, b)
        dx = dscale = product = None
        if by_x is not None:
            dg.addcmul_(by_x, _by_channel(scale, x))
            if by_vector:
                product = g * by_x
                dscale = product.sum([d for d in range(x.ndim) if d != 1])
        if by_image and by_scale is not None:
            dx = torch.mul(g, b, out=product)
        return dg, dx, dscale, None


def _by_channel(vector: Tensor, like: Tensor) -> Tensor:
    """A vector (C,) in the shape that broadcasts over images (N, C, ...)."""
    return vector.view(1, -1, *(1,) * (like.ndim - 2))


class _Convolution(Function):
    """A convolution; its derivative is `_Derivative`, which can be differentiated once more."""

    @staticmethod
    def forward(ctx, x, weight, bias, geometry):
        ctx.save_for_backward(x, weight)
        ctx.geometry, ctx.bias = geometry, None if bias is None else list(bias.shape)
        return _convolution(x, weight, bias, *geometry)

    @staticmethod
    def backward(ctx, g):
        wanted = list(ctx.needs_input_grad[:3])
        return *_Derivative.apply(g, *ctx.saved_tensors, ctx.geometry, ctx.bias, wanted), None


class _Derivative(Function):
    """The three derivatives of a convolution for the cotangent g.

    All three are bilinear. So their derivatives need only convolutions and the two backward
    kernels. PyTorch's double backward uses kernels as large as the image instead.
    """

    @staticmethod
    def forward(ctx, g, x, weight, geometry, bias, wanted):
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(g, x, weight)
        ctx.geometry = geometry
        return tuple(_convolution_backward(g, x, weight, bias, *geometry, wanted))

    @staticmethod
    def backward(ctx, by_x, by_weight, by_bias):
        g, x, weight = ctx.saved_tensors
        geometry, needs = ctx.geometry, ctx.needs_input_grad
        dg = dx = dweight = None
        if needs[0]:
            if by_x is not None:
                dg = _convolution(by_x, weight, by_bias, *geometry)
                by_bias = None
            if by_weight is not None:
                more = _convolution(x, by_weight, by_bias, *geometry)
                by_bias = None
                dg = more if dg is None else dg.add_(more)
            if by_bias is not None:
                dg = by_bias.view(1, -1, *(1,) * (g.ndim - 2)).expand_as(g)
        if needs[1] and by_weight is not None:
            dx = _convolution_backward(g, x, by_weight, None, *geometry, [True, False, False])[0]
        if needs[2] and by_x is not None:
            only = [False, True, False]
            dweight = _convolution_backward(g, by_x, weight, None, *geometry, only)[1]
        return dg, dx, dweight, None, None, None
