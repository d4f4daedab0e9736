"""Convolutions with kernels in the DCT basis (Lukasik et al. 2023), and the inverse transform.

Kernels are w = sum_ij c_ij B_ij over the 2-D DCT-II basis. i is the horizontal, j the vertical
frequency. The absolute entries of each B_ij sum to 1, as in the paper's code. This is a change of
variables: functions and number of weights are those of the plain convolution.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ridgeline.models.copying import copy_of
from ridgeline.models.errors import InputError, unknown

#: how a layer computes: kernels from coefficients, or a fixed basis convolution and a 1x1 one
KINDS = ("WD", "SD")
#: initial coefficients: those of the layer that is replaced; the others
#: only to repeat released code (Lukasik et al. 2023)
INITS = ("same", "kaiming_uniform", "kaiming_normal", "signal")


@lru_cache
def dct_basis(size: int) -> Tensor:
    """B (K, K, K, K) float64 over (i, j, row, column), sum |B_ij| = 1."""
    n = torch.arange(size, dtype=torch.float64)
    wave = torch.cos(math.pi * n[:, None] * (n[None, :] + 0.5) / size)  # frequency, place
    basis = wave[:, None, None, :] * wave[None, :, :, None]
    return basis / basis.abs().sum((2, 3), keepdim=True)


def analyse(kernels: Tensor) -> Tensor:
    """Coefficients c (..., i, j) of kernels (..., K, K): c_ij = <w, B_ij> / ||B_ij||^2."""
    basis = dct_basis(kernels.shape[-1]).to(kernels)
    dots = torch.einsum("...mn,ijmn->...ij", kernels, basis)
    return dots / basis.square().sum((2, 3))


def synthesise(coefficients: Tensor) -> Tensor:
    """Kernels (..., K, K) of coefficients (..., i, j).

    >>> kernels = torch.rand(2, 1, 3, 3)
    >>> torch.allclose(synthesise(analyse(kernels)), kernels, atol=1e-6)
    True
    """
    basis = dct_basis(coefficients.shape[-1]).to(coefficients)
    return torch.einsum("...ij,ijmn->...mn", coefficients, basis)


def high_frequencies(size: int, device: torch.device | str = "cpu") -> Tensor:
    """The high frequencies max(i, j) > K/2 of a K x K kernel, bool (K, K).

    >>> high_frequencies(3).int().tolist()
    [[0, 0, 1], [0, 0, 1], [1, 1, 1]]
    """
    i = torch.arange(size, device=device)
    return torch.maximum(i[:, None], i[None, :]) > size / 2


class DctConv2d(nn.Module):
    """A convolution with trainable DCT `coefficients` (out, in / groups, K, K), and its bias.

    `kind` WD computes the kernels and convolves. `kind` SD convolves every channel with all K^2
    basis images and mixes them by a grouped 1x1 convolution. It needs K^2 times the memory and
    gives the same function. The basis is a constant and not in the state dict.
    """

    def __init__(self, plain: nn.Conv2d, kind: str = "WD", init: str = "same"):
        super().__init__()
        if kind not in KINDS:
            raise unknown("--basis_filter", kind, KINDS)
        if init not in INITS:
            raise unknown("--init_scale", init, INITS)
        if plain.padding_mode != "zeros":
            raise InputError(f"DCT convolutions pad with zeros, not with {plain.padding_mode!r}")
        self.kind, self.stride, self.padding = kind, plain.stride, plain.padding
        self.dilation, self.groups = plain.dilation, plain.groups
        self.coefficients = nn.Parameter(_initial(plain, init))
        self.bias = plain.bias

    @property
    def weight(self) -> Tensor:
        """The plain kernels (out, in / groups, K, K)."""
        return synthesise(self.coefficients)

    def forward(self, x: Tensor) -> Tensor:
        """The convolution of x (N, in, H, W)."""
        geometry = (self.stride, self.padding, self.dilation)
        if self.kind == "WD":
            return F.conv2d(x, self.weight, self.bias, *geometry, self.groups)
        channels, size = x.shape[1], self.coefficients.shape[-1]
        basis = dct_basis(size).to(x).view(size**2, 1, size, size).repeat(channels, 1, 1, 1)
        maps = F.conv2d(x, basis, None, *geometry, channels)  # order: channel, then frequency
        mixing = self.coefficients.flatten(1)[..., None, None]
        return F.conv2d(maps, mixing, self.bias, groups=self.groups)

    def plain(self) -> nn.Conv2d:
        """The same function as a plain convolution."""
        out, per_group = self.coefficients.shape[:2]
        layer = nn.Conv2d(
            per_group * self.groups, out, self.coefficients.shape[-1], self.stride, self.padding,
            self.dilation, self.groups, bias=self.bias is not None,
        ).to(self.coefficients)  # fmt: skip
        with torch.no_grad():
            layer.weight.copy_(self.weight)
            if self.bias is not None:
                layer.bias.copy_(self.bias)
        return layer


def decompose(
    network: nn.Module,
    kind: str = "WD",
    init: str = "same",
    min_kernel_size: int = 3,
    seed: int = 0,
) -> nn.Module:
    """A copy of a network with `DctConv2d` for every square convolution of at least that size.

    With init "same" the function does not change. Other inits are drawn from `seed`. Raises
    InputError if there is no such convolution.
    """
    network = copy_of(network)
    found = [
        name
        for name, m in network.named_modules()
        if isinstance(m, nn.Conv2d)
        and m.kernel_size[0] == m.kernel_size[1] >= max(min_kernel_size, 2)
    ]
    if not found:
        raise InputError(
            f"{type(network).__name__} has no square convolution of size {min_kernel_size} or more "
            "to write in the DCT basis"
        )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed CUDA too
        for name in found:
            layer = DctConv2d(network.get_submodule(name), kind, init)
            network.set_submodule(name, layer, strict=True)
    return network


def dct_layers(network: nn.Module) -> dict[str, DctConv2d]:
    """The DCT convolutions of a network in module order."""
    return {name: m for name, m in network.named_modules() if isinstance(m, DctConv2d)}


def plain_state(network: nn.Module) -> dict[str, Tensor]:
    """The state dict with plain convolutions: NAME.weight instead of coefficients."""
    layers = dct_layers(network)
    state: Mapping[str, Tensor] = network.state_dict()
    plain = {}
    for key, tensor in state.items():
        owner, _, last = key.rpartition(".")
        if owner in layers and last == "coefficients":
            plain[f"{owner}.weight"] = synthesise(tensor)
        else:
            plain[key] = tensor
    return plain


def _initial(plain: nn.Conv2d, init: str) -> Tensor:
    """Initial coefficients (out, in / groups, K, K) by a name of INITS."""
    weight = plain.weight.detach()
    if init == "same":
        return analyse(weight)
    size, channels = weight.shape[-1], plain.in_channels
    drawn = torch.empty_like(weight)
    if init == "kaiming_normal":
        return drawn.normal_(0, math.sqrt(2 / (channels * size**2)))
    # "signal": PyTorch's default for the 1x1 convolution of the SD layer
    fan, gain = (weight[0].numel(), 1) if init == "signal" else (channels * size**2, 6)
    bound = math.sqrt(gain / fan)
    return drawn.uniform_(-bound, bound)
