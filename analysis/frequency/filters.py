"""The spatial frequencies of convolution filters."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import scipy  # its parts are loaded when used
import torch
import xarray as xr
from torch import Tensor

from ridgeline.analysis.statistics import jackknife
from ridgeline.models import build_model, is_external
from ridgeline.models.blocks import input_sizes
from ridgeline.models.dct import high_frequencies
from ridgeline.models.errors import InputError
from ridgeline.train.files.integrity import check_real
from ridgeline.train.precision import exact


def convolutions(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Square convolution kernels with K >= 3 in a state dict, float64 (out, in, K, K)."""
    kernels = {
        name: tensor
        for name, tensor in tensors.items()
        if tensor.ndim == 4 and tensor.shape[2] == tensor.shape[3] >= 3
    }
    for name, tensor in kernels.items():
        check_real(name, tensor, "the checkpoint")
    return {name: tensor.double().numpy() for name, tensor in kernels.items()}


def map_sizes(model: Mapping | None) -> dict[str, int]:
    """Weight name -> smaller side of the convolution's input map, in forward order.

    Determined from the `model` part of a recipe. Empty for unknown and external networks.
    """
    if not model or is_external(model.get("model_type", ":")):
        return {}
    with torch.random.fork_rng(devices=[]):
        network = build_model(model["model_type"], model["image_shape"], width=model["width"],
                              bias=model["bias"], num_classes=model["num_classes"])  # fmt: skip
    with exact():
        return {
            f"{n}.weight": size for n, size in input_sizes(network, model["image_shape"]).items()
        }


def filter_spectrum(
    tensors: Mapping[str, Tensor],
    *,
    initial: Mapping[str, Tensor] | None = None,
    sizes: Mapping[str, int] | None = None,
) -> xr.Dataset:
    """Orthonormal 2-D DCT-II spectrum of every convolution layer (Lukasik et al. 2023, figure 1).

    Args:
        tensors: The state dict.
        initial: The state dict at the start of the run, or None.
        sizes: Sizes of the input maps by weight (`map_sizes`), in forward order, or None.

    Returns:
        - Over (layer, horizontal, vertical), NaN outside a layer's kernel: `magnitude`, the mean
          |d_ij| over kernel slices, and `energy`, the share of sum d_ij^2.
        - Over layer, in the order of `sizes`: `slices`, their number; `high_share`, the share of
          energy at max(i,j) > K/2, with its jackknife standard error over output filters;
          `high_to_low`, high over low energy per coefficient (white noise: 1); `dc_share`;
          `centroid` in units of the frequency index; `entropy` in nats; `white_high_share`, the
          `high_share` of white noise. Layers of zeros give NaN.
        - `initial_high_share`: the `high_share` of the same layer in `initial`.
        - `seen`: False if the input map is smaller than the kernel. Some weights of such a kernel
          never see an image and keep their initial values.
        - `first_kernels`: the kernels of the first layer.

    Raises:
        InputError: if there is no kernel with K >= 3, or `initial` lacks one.

    >>> constant = {"conv.weight": torch.ones(2, 1, 3, 3)}
    >>> round(float(filter_spectrum(constant)["dc_share"][0]), 6)
    1.0
    """
    kernels = convolutions(tensors)
    if not kernels:
        raise InputError("no square convolution kernels of size 3 or more in this checkpoint")
    sizes = sizes or {}
    place = {name: n for n, name in enumerate(sizes)}
    kernels = dict(sorted(kernels.items(), key=lambda item: place.get(item[0], len(place))))
    largest = max(k.shape[-1] for k in kernels.values())
    maps = {n: np.full((len(kernels), largest, largest), np.nan) for n in ("magnitude", "energy")}
    columns: dict[str, list[float]] = {}
    columns["slices"] = [k.shape[0] * k.shape[1] for k in kernels.values()]
    for row, kernel in enumerate(kernels.values()):
        size = kernel.shape[-1]
        # scipy's axes are (vertical, horizontal); the map's are (horizontal, vertical)
        d = scipy.fft.dctn(kernel, axes=(2, 3), norm="ortho").swapaxes(2, 3)
        per_filter = (d**2).sum(axis=1)
        maps["magnitude"][row, :size, :size] = np.abs(d).mean(axis=(0, 1))
        with np.errstate(invalid="ignore"):
            share = per_filter.sum(axis=0) / per_filter.sum()
        maps["energy"][row, :size, :size] = share
        for name, value in _summary(share, per_filter).items():
            columns.setdefault(name, []).append(value)
    dims = ("layer", "horizontal", "vertical")
    if initial is not None:
        start = convolutions(initial)
        if {n: k.shape for n, k in start.items()} != {n: k.shape for n, k in kernels.items()}:
            raise InputError("the initial checkpoint is of another architecture")
        columns["initial_high_share"] = [float(_high_share(start[n])) for n in kernels]
    columns["seen"] = [sizes.get(n, k.shape[-1]) >= k.shape[-1] for n, k in kernels.items()]
    first = next(iter(kernels.values()))
    return xr.Dataset(
        {
            **{name: (dims, values) for name, values in maps.items()},
            **{name: ("layer", values) for name, values in columns.items()},
            "first_kernels": (("filter", "channel", "kernel_row", "kernel_column"), first),
        },
        coords={
            "layer": list(kernels),
            "horizontal": np.arange(largest),
            "vertical": np.arange(largest),
        },
    )


def _high_share(kernel: np.ndarray) -> float:
    """High-frequency share of the energy of one layer's kernels (out, in, K, K)."""
    energy = (scipy.fft.dctn(kernel, axes=(2, 3), norm="ortho") ** 2).sum((0, 1))
    return energy[high_frequencies(kernel.shape[-1]).numpy()].sum() / energy.sum()


def _summary(share: np.ndarray, per_filter: np.ndarray) -> dict[str, float]:
    """Scalars of one layer from energy shares (K, K) and energies per output filter (O, K, K)."""
    size = share.shape[0]
    high = high_frequencies(size).numpy()
    i = np.arange(size)
    radius = np.hypot(i[:, None], i[None, :])
    high_share = share[high].sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = (high_share / high.sum()) / ((1 - high_share) / (~high).sum())
        entropy = -np.nansum(np.where(share > 0, share * np.log(share), 0.0))
    return {
        "kernel_size": size,
        "high_share": high_share,
        "high_share_se": float(
            jackknife(_without_each(per_filter[:, high].sum(1), per_filter.sum((1, 2))))
        ),
        "high_to_low": ratio,
        "dc_share": share[0, 0],
        "centroid": (share * radius).sum(),
        "entropy": entropy if np.isfinite(high_share) else np.nan,
        "white_high_share": high.mean(),
    }


def _without_each(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """sum(part) / sum(whole), (n,), with one of the n terms left out."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return (part.sum() - part) / (whole.sum() - whole)
