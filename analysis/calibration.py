"""Calibration: do confidences equal the accuracy? And the accuracy of each class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from ridgeline.analysis.statistics import wilson
from ridgeline.train.evaluation import Scores

BINS = 15


def confidences(scores: Scores) -> np.ndarray:
    """The probability (N,) of every example's predicted class, from cross-entropy and margin.

    If the prediction is the label, it is exp(-loss). If it is another class, it is
    exp(-loss) exp(-margin). NaN for outputs that are not finite.
    """
    losses, margins = scores.losses.numpy(), scores.margins.numpy()
    return np.exp(-losses - np.minimum(margins, 0)).clip(max=1)


def calibration(conditions: Sequence[Scores]) -> xr.Dataset:
    """The reliability diagram and its summary, over `condition`.

    Confidences are sorted into 15 equal bins of (0, 1]; `bin` has the middles. Each bin has
    `bin_count` examples, mean `bin_confidence` and `bin_accuracy` (NaN without examples). `ece` is
    the expected calibration error: |accuracy - confidence| of the bins, averaged over examples (Guo
    et al. 2017, eq. 3).
    """
    count = np.zeros((len(conditions), BINS))
    confidence, accuracy = np.full_like(count, np.nan), np.full_like(count, np.nan)
    ece = np.full(len(conditions), np.nan)
    for row, scores in enumerate(conditions):
        sure, right = confidences(scores), scores.correct.double().numpy()
        place = np.ceil(sure * BINS).clip(1, BINS) - 1
        for number in range(BINS):
            inside = place == number
            count[row, number] = inside.sum()
            if inside.any():
                confidence[row, number] = sure[inside].mean()
                accuracy[row, number] = right[inside].mean()
        if np.isfinite(sure).all():
            gaps = np.abs(accuracy[row] - confidence[row])
            ece[row] = np.nansum(gaps * count[row]) / len(sure)
    return xr.Dataset(
        {
            "ece": ("condition", ece),
            "bin_count": (("condition", "bin"), count),
            "bin_confidence": (("condition", "bin"), confidence),
            "bin_accuracy": (("condition", "bin"), accuracy),
        },
        coords={"bin": (np.arange(BINS) + 0.5) / BINS},
    )


def by_class(conditions: Sequence[Scores], labels: np.ndarray, classes: int) -> xr.Dataset:
    """Accuracy of every true class with its 95 % Wilson interval, over `condition` and `class`.

    The variables are `class_accuracy`, `class_accuracy_low` and `class_accuracy_high`. They are NaN
    for a class without examples. `class_count` is over `class`.
    """
    count = np.bincount(labels, minlength=classes)
    shares = np.full((3, len(conditions), classes), np.nan)
    for row, scores in enumerate(conditions):
        hits = np.bincount(labels[scores.correct.numpy().astype(bool)], minlength=classes)
        for k in np.flatnonzero(count):
            shares[:, row, k] = hits[k] / count[k], *wilson(int(hits[k]), int(count[k]))
    names = ("class_accuracy", "class_accuracy_low", "class_accuracy_high")
    return xr.Dataset(
        {
            **{n: (("condition", "class"), s) for n, s in zip(names, shares, strict=True)},
            "class_count": ("class", count),
        },
        coords={"class": np.arange(classes)},
    )
