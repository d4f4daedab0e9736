"""Do the adversarial perturbations of two networks point the same way?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ridgeline.landscape.checksum import check_seal
from ridgeline.landscape.result import header, load_result, recipe_of
from ridgeline.models.errors import InputError
from ridgeline.train.options import Opt, Options
from ridgeline.train.statistics import mean_and_error

_LARGE = 2**24  # a file of more bytes is read in pieces: signs need 40 times that in memory


@dataclass(frozen=True)
class SimilarityOptions(Options):
    """Which images of the adversarial sets are compared."""

    only_correct: Annotated[
        bool, Opt("leave out images that a network gets wrong without attack")
    ] = False
    batch_size: Annotated[int, Opt("examples in memory at a time", low=1, decides=False)] = 1000


@dataclass(frozen=True)
class Similarity:
    """Cosines (N,) of two sets of perturbations, per example; NaN if a perturbation is NaN.

    `zero` (N,) marks the examples with a zero perturbation. They have no cosine (NaN).
    """

    cosine: Tensor
    sign_cosine: Tensor
    zero: Tensor

    @property
    def zeros(self) -> int:
        """Number of examples left out because a perturbation is zero."""
        return int(self.zero.sum())

    def mean_and_error(self, values: Tensor) -> tuple[float, float]:
        """Mean of values (N,) over the other examples, and its standard error (NaN below 2).

        An example with a NaN is not left out: the mean is NaN.
        """
        return mean_and_error(values[~self.zero])


def similarity(a: Tensor, b: Tensor) -> Similarity:
    """Cosine and sign cosine of perturbations a, b (N, ...), example by example, in float64.

    >>> similarity(torch.tensor([[1.0, 1.0]]), torch.tensor([[2.0, -2.0]])).cosine.tolist()
    [0.0]
    """
    a, b = a.flatten(1).double(), b.flatten(1).double()
    zero = (a == 0).all(1) | (b == 0).all(1)
    return Similarity(_cosines(a, b), _cosines(a.sign(), b.sign()), zero)


def _cosines(a: Tensor, b: Tensor) -> Tensor:
    norms = a.norm(dim=1) * b.norm(dim=1)
    cosines = (a * b).sum(1) / norms
    return torch.where(norms > 0, cosines.clamp(-1, 1), torch.nan)


def similarity_matrix(
    sets: Mapping[str, xr.Dataset],
    subsets: Sequence[str],
    *,
    only_correct: bool = False,
    batch_size: int = 1000,
) -> xr.Dataset:
    """Mean cosine and sign cosine, with standard errors, for every pair of adversarial sets.

    Dims are (subset, set_a, set_b). A pair compares draw 0 of the first set with draw 1 of the
    second. So the diagonal is the noise floor: one network, two attack seeds (NaN with one draw).
    `null` is 1/sqrt(D), the standard deviation of the cosine of independent directions.

    Args:
        sets: Adversarial sets by name.
        subsets: Names of the subsets to compare.
        only_correct: Use only examples that both networks get right on clean images.
        batch_size: Examples in memory at a time.

    Raises:
        InputError: if the sets have different examples.
    """
    names = list(sets)
    check_same_examples(sets)
    first = sets[names[0]]
    shape = (len(subsets), len(names), len(names))
    keys = ("cosine", "cosine_se", "sign_cosine", "sign_cosine_se", "zeros", "examples")
    table = {key: np.full(shape, np.nan) for key in keys}
    for s, subset in enumerate(subsets):
        for i, a in enumerate(names):
            for j, b in enumerate(names[i:], start=i):
                if i == j and sets[a].sizes["draw"] < 2:
                    continue
                use = first["subset"].values == subset
                if only_correct:
                    for name in (a, b):
                        use &= (sets[name]["clean_prediction"] == sets[name]["label"]).values
                pair = _pair(sets[a], sets[b], np.flatnonzero(use), batch_size)
                row = (
                    *pair.mean_and_error(pair.cosine),
                    *pair.mean_and_error(pair.sign_cosine),
                    pair.zeros,
                    int(use.sum()),
                )
                for key, value in zip(keys, row, strict=True):
                    table[key][s, i, j] = table[key][s, j, i] = value
    dataset = xr.Dataset(
        {key: (("subset", "set_a", "set_b"), value) for key, value in table.items()},
        coords={"subset": list(subsets), "set_a": names, "set_b": names},
    )
    dataset["null"] = 1 / math.sqrt(math.prod(first["perturbation"].shape[2:]))
    return dataset


def adversarial_sets(folder: str | Path, dataset: str | None = None) -> dict[str, xr.Dataset]:
    """The results of generate_adversary in a folder, by name.

    Raises InputError for a folder without results, for a result of another data set than
    `dataset` (if that is given), and for results of different examples.
    """
    if not Path(folder).is_dir():
        raise InputError(f"--folder: no such folder: {folder}")
    sets: dict[str, xr.Dataset] = {}
    for path in sorted(Path(folder).glob("*.nc")):
        check_seal(path)
        if header(path).attrs.get("kind") == "adversaries":
            large = path.stat().st_size > _LARGE
            sets[path.stem.removesuffix("_adversaries")] = load_result(path, lazy=large)
    if not sets:
        raise InputError(f"--folder: {folder} holds no result of generate_adversary (*.nc)")
    for name, ds in sets.items():
        made_from = recipe_of(ds)["data"]["dataset"]
        if dataset not in (None, made_from):
            raise InputError(f"--dataset {dataset}: {name} was made from {made_from}")
    check_same_examples(sets)
    return sets


def check_same_examples(sets: Mapping[str, xr.Dataset]) -> None:
    """Raise InputError unless all adversarial sets perturb the same examples in the same order."""
    (first_name, first), *others = sets.items()
    for name, other in others:
        if not (
            np.array_equal(first["index"].values, other["index"].values)
            and np.array_equal(first["subset"].values, other["subset"].values)
            and first["perturbation"].shape[2:] == other["perturbation"].shape[2:]
        ):
            raise InputError(f"{name} and {first_name} hold perturbations of different examples")


def _pair(a: xr.Dataset, b: xr.Dataset, places: np.ndarray, batch_size: int) -> Similarity:
    """Draw 0 of a against draw 1 of b (draw 0 if it is the only one), at the given examples."""
    parts = []
    for start in range(0, len(places), batch_size):
        chunk = places[start : start + batch_size]
        parts.append(
            similarity(
                torch.from_numpy(a["perturbation"][0, chunk].values),
                torch.from_numpy(b["perturbation"][min(1, b.sizes["draw"] - 1), chunk].values),
            )
        )
    return Similarity(
        torch.cat([p.cosine for p in parts] or [torch.empty(0)]),
        torch.cat([p.sign_cosine for p in parts] or [torch.empty(0)]),
        torch.cat([p.zero for p in parts] or [torch.empty(0, dtype=torch.bool)]),
    )
