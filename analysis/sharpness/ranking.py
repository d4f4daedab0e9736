"""Rank correlation of sharpness measures with the generalisation gap of networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import xarray as xr

from ridgeline.landscape.result import recipe_of
from ridgeline.models.errors import InputError
from ridgeline.train.data.noise import Purpose, check_seed, stream
from ridgeline.train.files.recipe import difference
from ridgeline.train.options import Opt, Options

GAPS = ("robust", "clean")
#: what must be equal in all results, or their values cannot be compared
_ALIKE = ("command", "attack", "data", "test", "streams")


@dataclass(frozen=True)
class RankingOptions(Options):
    """The gap that networks are ranked by."""

    gap: Annotated[str, Opt("loss of the generalisation gap", choices=GAPS)] = "robust"
    draws: Annotated[int, Opt("bootstrap samples of the networks", low=100)] = 2000
    seed: Annotated[int, Opt("seed of the bootstrap")] = 0

    def check(self) -> None:
        """Raise InputError for a wrong seed."""
        check_seed(self.seed)


def check_alike(results: Mapping[str, xr.Dataset], gap: str) -> None:
    """Raise InputError unless all results have that gap, with equal images, attack and radii."""
    if len(results) < 3:
        raise InputError(f"a ranking needs 3 or more results, got {len(results)}")
    first = None
    for label, ds in results.items():
        if "gap" not in ds or gap not in ds["loss"].values:
            raise InputError(f"{label} holds no {gap} gap: calc_sharpness --held_out and --attack")
        recipe = recipe_of(ds)
        left_out = {"checkpoint", "model", "seed", "measures", "logits", "also"}
        own = {k: v for k, v in recipe.items() if k in _ALIKE or k not in left_out}
        first = own if first is None else first
        if changed := difference(first, own):
            raise InputError(f"{label} was measured unlike the first result ({changed})")


def ranking(
    results: Mapping[str, xr.Dataset], *, gap: str = "robust", draws: int = 2000, seed: int = 0
) -> xr.Dataset:
    """Kendall's tau of every measure with the gap over networks, and its bootstrap interval.

    Args:
        results: Results of `calc_sharpness --held_out` by label.
        gap: Use the gap of the clean or of the robust loss.
        draws: Number of bootstrap samples; each draws networks with replacement.
        seed: Seed of the bootstrap.

    Returns:
        `tau` (tau-b) over `loss`, `logits` and `measure`, with the 95 % percentile interval
        `tau_low` to `tau_high`. Samples in which one side is constant are left out. NaN if a
        network has no finite value. Also the `value` of every `network`, and its `gap` with
        `gap_se`.

    Raises:
        InputError: for results that do not fit together.
    """
    check_alike(results, gap)
    table = xr.concat(
        [ds["value"] for ds in results.values()], xr.Variable("network", list(results)),
        join="inner", coords="minimal", compat="override", combine_attrs="drop",
    ).transpose("loss", "logits", "measure", "network")  # fmt: skip
    gaps = np.array([float(ds["gap"].sel(loss=gap)) for ds in results.values()])
    errors = [float(ds["gap_se"].sel(loss=gap)) for ds in results.values()]
    picks = stream(seed, Purpose.BOOTSTRAP).integers(len(gaps), size=(draws, len(gaps)))
    shape = table.shape[:3]
    found = np.full((3, *shape), np.nan)
    for place in np.ndindex(shape):
        values = table.values[place]
        if np.isfinite(values).all() and np.ptp(values) > 0 and np.ptp(gaps) > 0:
            found[(0, *place)] = _tau(values, gaps, np.arange(len(gaps))[None])[0]
            samples = _tau(values, gaps, picks)
            found[(slice(1, None), *place)] = np.nanpercentile(samples, [2.5, 97.5])
    dims = ("loss", "logits", "measure")
    return xr.Dataset(
        {
            **{n: (dims, v) for n, v in zip(("tau", "tau_low", "tau_high"), found, strict=True)},
            "value": table,
            "gap": ("network", gaps, {"long_name": f"generalisation gap of the {gap} loss"}),
            "gap_se": ("network", errors),
        }
    )


def _tau(x: np.ndarray, y: np.ndarray, picks: np.ndarray) -> np.ndarray:
    """Kendall's tau-b (draws,) of the entries of x and y (n,) that `picks` (draws, n) choose.

    Tau-b is (concordant - discordant pairs) / sqrt(pairs not tied in x * pairs not tied in y). NaN
    if x or y is constant. The sums below count every pair twice, which cancels.
    """
    pairs = picks[:, :, None], picks[:, None, :]
    left, right = (np.sign(v[:, None] - v)[pairs] for v in (x, y))
    untied = (left**2).sum((1, 2)) * (right**2).sum((1, 2))
    with np.errstate(invalid="ignore"):
        return (left * right).sum((1, 2)) / np.sqrt(untied)
