"""How a network is evaluated when its graph is to be differentiated twice, and fast.

PyTorch's own second derivative of a convolution runs convolutions whose kernels are as large as
the image, BatchNorm's recomputes batch formulas in eval mode, and fused attention has none at all.
Inside `second_order()` these three are replaced by equal functions with good second derivatives.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from train.precision import exact

_convolution = torch.ops.aten.convolution
_convolution_backward = torch.ops.aten.convolution_backward


@contextmanager
def second_order() -> Iterator[None]:
    """Evaluate with kernels that have fast second derivatives; values are the same."""
    with exact(), sdpa_kernel(SDPBackend.MATH), _Replacements():
        yield


class _Replacements(TorchFunctionMode):
    """Catches the functions a module calls and answers convolutions and eval-mode BatchNorm."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in _CONVOLUTIONS:
            return _convolve(func, *args, **kwargs)
        if func is F.batch_norm:
            return _batch_norm(*args, **kwargs)
        return func(*args, **kwargs)


_CONVOLUTIONS = {F.conv1d: 1, F.conv2d: 2, F.conv3d: 3}
_BATCH_NORM = inspect.signature(F.batch_norm)


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
    bound = _BATCH_NORM.bind(*args, **kwargs)
    bound.apply_defaults()
    o = bound.arguments
    if o["training"] or o["running_mean"] is None:
        return F.batch_norm(*args, **kwargs)
    scale = (o["running_var"] + o["eps"]).rsqrt()
    scale = scale if o["weight"] is None else o["weight"] * scale
    shift = -o["running_mean"] * scale
    shift = shift if o["bias"] is None else o["bias"] + shift
    return _Affine.apply(o["input"], scale, shift)


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
    """The three derivatives of `_Affine` for the cotangent g, and theirs.

    Images are passed over as rarely as possible: fresh pages cost more than the arithmetic.
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
    """A vector (C,) in the shape that meets images (N, C, ...)."""
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

    All are bilinear, so their own derivative is made of convolutions and the two backward
    kernels, never of the image-sized kernels that PyTorch's double backward uses.
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
