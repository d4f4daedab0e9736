"""Are networks with less energy at high frequencies more robust? One point per checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import scipy  # its parts are loaded when used
import xarray as xr

from ridgeline.landscape.result import load_result, recipe_of
from ridgeline.models.errors import InputError
from ridgeline.train.data.noise import Purpose, check_seed, stream
from ridgeline.train.files.recipe import difference
from ridgeline.train.options import Opt, Options
from ridgeline.train.statistics import error_of_share

MEASURES = ("high_share", "centroid", "entropy")


@dataclass(frozen=True)
class BiasOptions(Options):
    """The measure that is compared with robustness."""

    measure: Annotated[str, Opt("measure of the spectra", choices=MEASURES)] = "high_share"
    seed: Annotated[int, Opt("seed of the bootstrap")] = 0

    def check(self) -> None:
        """Raise InputError for a wrong seed."""
        check_seed(self.seed)


class Pairs(NamedTuple):
    """Results by network: spectra, and robustness of the same networks."""

    spectra: dict[str, xr.Dataset]
    robustness: dict[str, xr.Dataset]


def load_pairs(spectra: Sequence[str], robustness: Sequence[str], label: Sequence[str]) -> Pairs:
    """The results in files, paired in order. Names are the labels, or those of the spectra.

    Raises InputError for lists of unequal length, for a name that occurs twice, and for a pair
    from two networks.
    """
    names = list(label) or [Path(p).stem for p in spectra]
    if not len(spectra) == len(robustness) == len(names) == len(set(names)):
        raise InputError("--spectra, --robustness and --label must name as many files, each once")
    left = {n: load_result(p, "spectrum") for n, p in zip(names, spectra, strict=True)}
    right = {n: load_result(p) for n, p in zip(names, robustness, strict=True)}
    check_pairs(left, right)
    return Pairs(left, right)


def network_spectrum(spectrum: xr.Dataset, only_seen: bool = True) -> dict[str, float]:
    """Means over layers of high share, centroid and entropy of a spectrum result.

    Layers whose input map is smaller than the kernel (`seen` is False) are left out. A layer of
    zeros has no spectrum and makes the means NaN.
    """
    if only_seen and "seen" in spectrum:
        spectrum = spectrum.isel(layer=np.flatnonzero(spectrum["seen"].values))
    return {name: float(spectrum[name].mean(skipna=False)) for name in MEASURES}


def check_pairs(spectra: Mapping[str, xr.Dataset], robustness: Mapping[str, xr.Dataset]) -> None:
    """Raise InputError unless each pair is of one network, and all used one recipe and images."""
    recipes = {name: recipe_of(ds) for name, ds in robustness.items()}
    for name, recipe in recipes.items():
        own, judged = recipe_of(spectra[name]).get("checkpoint"), recipe.get("checkpoint")
        if judged not in (own, [own]):
            raise InputError(f"{name}: spectrum and robustness are of different checkpoints")
    first, *others = [
        {k: r.get(k) for k in ("command", "attack", "budgets", "corruptions", "severities", "data")}
        for r in recipes.values()
    ]
    for name, other in zip(list(recipes)[1:], others, strict=True):
        if changed := difference(first, other):
            raise InputError(f"{name} was judged unlike {next(iter(recipes))} ({changed})")


def spectral_bias(
    spectra: Mapping[str, xr.Dataset],
    robustness: Mapping[str, tuple[float, float]],
    *,
    measure: str = "high_share",
    draws: int = 10_000,
    seed: int = 0,
) -> xr.Dataset:
    """Spearman's rank correlation of spectral bias and robust accuracy over checkpoints.

    `robustness` has accuracy and standard error by name. `rho` has a 95 % percentile bootstrap
    interval over checkpoints and a two-sided p value. Draws in which one side is constant are left
    out. Raises InputError for fewer than 3 checkpoints, for different names, and for NaN values.
    """
    names = list(spectra)
    if len(names) < 3 or set(names) != set(robustness):
        raise InputError("a correlation needs spectra and robustness of 3 or more networks")
    x = np.array([network_spectrum(spectra[n])[measure] for n in names])
    y, error = np.array([robustness[n] for n in names]).T
    for name, *pair in zip(names, x, y, strict=True):
        if not np.isfinite(pair).all():
            raise InputError(f"{name} has no {measure} (a layer of zeros?) or no accuracy: NaN")
    found = scipy.stats.spearmanr(x, y)
    picks = stream(seed, Purpose.BOOTSTRAP).integers(len(names), size=(draws, len(names)))
    samples = [
        scipy.stats.spearmanr(x[p], y[p]).statistic
        for p in picks
        if np.ptp(x[p]) > 0 and np.ptp(y[p]) > 0
    ]
    low, high = np.percentile(samples, [2.5, 97.5]) if samples else (np.nan, np.nan)
    return xr.Dataset(
        {
            "bias": ("network", x, {"long_name": measure.replace("_", " ")}),
            "accuracy": ("network", y),
            "accuracy_se": ("network", error),
            "rho": found.statistic,
            "rho_low": low,
            "rho_high": high,
            "p_value": found.pvalue,
        },
        coords={"network": names},
    )


def accuracy_of(result: xr.Dataset) -> tuple[float, float]:
    """Accuracy and standard error of a result: adversarial, clean, or mean under corruptions.

    Raises InputError for results of other kinds.
    """
    kind = result.attrs.get("kind")
    if kind == "corruptions":
        return float(result["mean_accuracy"]), float(result["mean_accuracy_se"])
    if kind != "robustness":
        raise InputError(f"robustness is read from results of kind robustness or corruptions, "
                         f"not {kind!r}")  # fmt: skip
    row = result.isel(condition=-1)  # adversarial if there is an attack
    p = float(row["accuracy"])
    return p, float(error_of_share(p, result.sizes["example"]))
