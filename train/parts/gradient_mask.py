"""Percentile masks of weights to update, per tensor or over all tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ridgeline.models.errors import unknown

SCOPES = ("layer", "global")


def update_masks(scores: Mapping[str, Tensor], percent: float, scope: str) -> dict[str, Tensor]:
    """True for weights that are updated: all except the `percent` % of lowest score, by tensor.

    The threshold is an order statistic of each tensor, or with "global" of all tensors together.
    Scores equal to it are updated. So all are updated if more than `percent` % of scores are 0.
    """
    if scope not in SCOPES:
        raise unknown("scope of the percentile", scope, SCOPES)
    if scope == "layer":
        return {name: s >= _threshold(s.flatten(), percent) for name, s in scores.items()}
    threshold = _threshold(torch.cat([s.flatten() for s in scores.values()]), percent)
    return {name: s >= threshold for name, s in scores.items()}


def _threshold(scores: Tensor, percent: float) -> Tensor | float:
    count = round(percent / 100 * len(scores))
    if count == 0:
        return -torch.inf
    if count == len(scores):
        return torch.inf
    return scores.kthvalue(count + 1).values
