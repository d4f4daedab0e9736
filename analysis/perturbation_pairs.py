"""Similarity and sign flips of pairs of perturbations: means over examples, with errors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ridgeline.analysis.perturbations import similarity
from ridgeline.train.statistics import mean_and_error

#: measures of two perturbations of one example
MEASURES = {
    "cosine": "cosine of the perturbations",
    "sign_cosine": "cosine of the perturbations' signs",
    "flipped": "fraction of pixels perturbed with opposite signs",
    "zero": "fraction of pixels where a perturbation is 0",
}
_ROWS = 1000  # examples compared at a time


def compare(a: Tensor, b: Tensor, pairs: Sequence[tuple[int, int]]) -> dict[str, float]:
    """MEASURES of perturbations a[i] and b[j] for every (i, j) in `pairs`; a, b (draws, N, ...).

    The numbers of an example are averaged over the pairs, then over the examples. `*_se` are
    standard errors over examples. Examples with a perturbation of 0 have no cosine: they are left
    out of both cosines and counted in `left_out`. A NaN in the input makes the mean NaN. Without
    pairs all is NaN.
    """
    names = [*MEASURES, *(f"{name}_se" for name in MEASURES), "left_out"]
    result = dict.fromkeys(names, math.nan)
    if not pairs:
        return result
    chunks = torch.arange(a.shape[1]).split(_ROWS)
    rows = torch.cat([_examples(a[:, chunk], b[:, chunk], pairs) for chunk in chunks], dim=1)
    *values, lacking = rows.numpy()
    for name, each in zip(MEASURES, values, strict=True):
        used = each[lacking == 0] if "cosine" in name else each
        if len(used):
            result[name], result[f"{name}_se"] = mean_and_error(used)
    result["left_out"] = float((lacking > 0).sum())
    return result


def _examples(a: Tensor, b: Tensor, pairs: Sequence[tuple[int, int]]) -> Tensor:
    """MEASURES and the share of pairs without a cosine: (5, N), averaged over the pairs."""
    return torch.stack([_pair(a[i], b[j]) for i, j in pairs]).mean(0)


def _pair(a: Tensor, b: Tensor) -> Tensor:
    found = similarity(a, b)
    signs = a.flatten(1).sign() * b.flatten(1).sign()
    unknown = (a + b).flatten(1).isnan().any(1)  # needed because torch's sign of NaN is 0
    flipped, zero = (
        torch.where(unknown, torch.nan, (signs == sign).double().mean(1)) for sign in (-1, 0)
    )
    return torch.stack([found.cosine, found.sign_cosine, flipped, zero, found.zero.double()])
