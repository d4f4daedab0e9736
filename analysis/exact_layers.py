"""Layers and the same functions in elementary operations, to check the layers' derivatives."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from ridgeline.landscape.weights.point import Point


class _Attention(nn.MultiheadAttention):
    """Self-attention over the rows of a one-channel image."""

    def forward(self, x: Tensor) -> Tensor:
        rows = x[:, 0]
        return super().forward(rows, rows, rows, need_weights=False)[0]


def _patches(kernel: Tensor, bias: Tensor, x: Tensor) -> Tensor:
    """A 3x3 convolution as a matrix product."""
    y = kernel.flatten(1) @ F.unfold(x, 3) + bias[:, None]
    return y.view(len(x), len(kernel), 2, 2)


def _running(p: Point, x: Tensor) -> Tensor:
    """A convolution, then normalisation by running statistics (an affine map per channel)."""
    y = _patches(p["0.0.weight"], p["0.0.bias"], x).movedim(1, -1)
    scale = p["0.1.weight"] / (p["0.1.running_var"] + 1e-5).sqrt()
    return ((y - p["0.1.running_mean"]) * scale + p["0.1.bias"]).movedim(-1, 1)


def _weight_norm(p: Point, x: Tensor) -> Tensor:
    g, v = (p[f"0.parametrizations.weight.original{n}"] for n in (0, 1))
    length = v.square().sum((1, 2, 3), keepdim=True).sqrt()
    return _patches(g * v / length, p["0.bias"], x)


def _heads(p: Point, x: Tensor) -> Tensor:
    """Attention with two heads, as matrix products."""
    q, k, v = (x[:, 0] @ p["0.in_proj_weight"].T + p["0.in_proj_bias"]).chunk(3, -1)
    shares = [(a @ b.mT / 2**0.5).softmax(-1) @ c
              for a, b, c in zip(*(t.split(2, -1) for t in (q, k, v)), strict=True)]  # fmt: skip
    return torch.cat(shares, -1) @ p["0.out_proj.weight"].T + p["0.out_proj.bias"]


#: layer -> (its module for images 1 x 4 x 4, the same written out in elementary operations)
LAYERS: dict[str, tuple[Callable[[], nn.Module], Callable[[Point, Tensor], Tensor]]] = {
    "a convolution": (
        lambda: nn.Conv2d(1, 2, 3), lambda p, x: _patches(p["0.weight"], p["0.bias"], x),
    ),
    "BatchNorm": (lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)), _running),
    "weight_norm": (lambda: parametrizations.weight_norm(nn.Conv2d(1, 2, 3)), _weight_norm),
    "InstanceNorm": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 2, 3), nn.InstanceNorm2d(2, affine=True, track_running_stats=True)
        ),
        _running,
    ),
    "attention": (lambda: _Attention(4, 2, batch_first=True), _heads),
}  # fmt: skip
