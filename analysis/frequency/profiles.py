"""Averages of spectra: over the layers or filters of a network, and over directions."""

from __future__ import annotations

import numpy as np
import xarray as xr

from ridgeline.models.errors import InputError


def relative_magnitudes(ds: xr.Dataset) -> xr.DataArray:
    """Mean |d_ij| of every layer, divided by its mean over all frequencies. A flat spectrum has 1.

    The result is (layer, horizontal, vertical): NaN outside a layer's kernel and for layers of
    zeros.
    """
    magnitude = ds["magnitude"]
    whole = magnitude.mean(("horizontal", "vertical"))
    return magnitude / whole.where(whole > 0)


def network_magnitudes(ds: xr.Dataset) -> xr.DataArray:
    """The maps of a whole network, one per kernel size (kernel, average, horizontal, vertical).

    - `average` = layers: the mean of the layers' relative maps. Each layer counts once.
    - `average` = filters: the mean |d_ij| over all kernel slices of this size, divided by its mean.

    A flat spectrum has 1. Layers whose input map is smaller than the kernel are left out; NaN if
    none is left. Raises InputError for a spectrum without the number of slices per layer.
    """
    if "slices" not in ds:
        raise InputError("this spectrum is of an earlier version: run calc_filter_spectrum again")
    seen = ds["seen"].astype(bool)
    relative, sizes = relative_magnitudes(ds), sorted({int(k) for k in ds["kernel_size"].values})
    maps = []
    for size in sizes:
        chosen = (ds["kernel_size"] == size) & seen
        every = ds["slices"].where(chosen, 0)
        summed = (ds["magnitude"].where(chosen) * every).sum("layer", min_count=1)
        filters = summed / summed.mean()
        maps.append([relative.where(chosen).mean("layer").values, filters.values])
    return xr.DataArray(
        np.array(maps),
        dims=("kernel", "average", "horizontal", "vertical"),
        coords={"kernel": sizes, "average": ["layers", "filters"],
                "horizontal": ds["horizontal"], "vertical": ds["vertical"]},
    )  # fmt: skip


def radial_profile(
    values: np.ndarray, first: np.ndarray, second: np.ndarray, width: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Mean of `values` (A, B) over rings around DC: mean distance and mean value of each ring.

    `first` (A,) and `second` (B,) are the frequencies. Rings are `width` wide and centred at
    multiples of `width`. NaN values and empty rings are left out.

    >>> radial_profile(np.array([[1.0, 2.0], [4.0, 9.0]]), np.arange(2), np.arange(2), 0.1)[1]
    array([1., 3., 9.])
    """
    radius = np.hypot(first[:, None], second[None, :])
    known = np.isfinite(values)
    ring = np.rint(radius / width).astype(int)[known]
    count = np.bincount(ring)
    full = count > 0
    at, mean = (np.bincount(ring, weights=w[known])[full] / count[full] for w in (radius, values))
    return at, mean
