"""The distance of two networks in weight space."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from torch import Tensor

from ridgeline.models.errors import InputError
from ridgeline.train.files.integrity import check_real

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def is_parameter(name: str) -> bool:
    """Whether a state-dict key is a parameter and not a BatchNorm statistic.

    >>> is_parameter("bn1.weight"), is_parameter("bn1.running_mean")
    (True, False)
    """
    return name.rpartition(".")[2] not in _STATISTICS


def parameter_distance(
    a: Mapping[str, Tensor], b: Mapping[str, Tensor], ties: Sequence[Sequence[str]] = ()
) -> xr.Dataset:
    """Euclidean distance of two state dicts, total and per tensor, without BatchNorm statistics.

    `ties` are groups of names of one shared tensor. It counts once, under the first name.

    Per tensor (dim `parameter`): `distance`, `relative` = ||a-b|| / ||a||, and the cosine between
    a and b. Scalars: `total_distance` and `total_relative`. Raises InputError for different keys
    or shapes, and for NaN values.
    """
    again = {name for group in ties for name in group[1:]}
    names, others = ([n for n in x if is_parameter(n) and n not in again] for x in (a, b))
    if set(names) != set(others):
        odd = sorted(set(names) ^ set(others))
        raise InputError(f"the checkpoints are of different architectures: see {odd[0]}")
    rows = []
    for name in names:
        if a[name].shape != b[name].shape:
            raise InputError(
                f"the checkpoints are of different architectures: {name} is "
                f"{tuple(a[name].shape)} and {tuple(b[name].shape)}"
            )
        for tensor in (a[name], b[name]):
            check_real(name, tensor, "the checkpoints")
        u, v = a[name].double().flatten(), b[name].double().flatten()
        rows.append((((u - v) ** 2).sum().item(), (u**2).sum().item(), (v**2).sum().item(),
                     (u @ v).item()))  # fmt: skip
    squares, a2, b2, ab = np.array(rows).T
    with np.errstate(divide="ignore", invalid="ignore"):
        relative, cosine = np.sqrt(squares / a2), ab / np.sqrt(a2 * b2)
    return xr.Dataset(
        {
            "distance": ("parameter", np.sqrt(squares)),
            "relative": ("parameter", relative),
            "cosine": ("parameter", cosine),
            "total_distance": math.sqrt(squares.sum()),
            "total_relative": math.sqrt(squares.sum() / a2.sum()) if a2.sum() else math.nan,
        },
        coords={"parameter": names},
    )
