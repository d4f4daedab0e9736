"""Means with their standard errors and intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import scipy  # its parts are loaded when used
import torch
from torch import Tensor


def mean_and_error(samples: np.ndarray | Tensor) -> tuple[float, float]:
    """Mean of samples (n,) and its standard error s / sqrt(n), with n - 1 in s.

    The error is NaN for a single sample. Both are NaN without samples, or if a sample is NaN.

    >>> mean_and_error(np.array([1.0, 3.0]))
    (2.0, 1.0)
    """
    count = len(samples)
    if count < 2:
        return (float(samples[0]) if count else math.nan), math.nan
    spread = samples.std() if isinstance(samples, Tensor) else samples.std(ddof=1)
    return float(samples.mean()), float(spread / math.sqrt(count))


def mean_and_interval(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means over the first axis of samples (n, ...) and half widths of their 95 % t intervals.

    The half widths are NaN for a single sample.

    >>> mean, half = mean_and_interval(np.array([1.0, 3.0]))  # t of 1 degree of freedom: 12.706
    >>> float(mean), round(float(half), 3)
    (2.0, 12.706)
    """
    count = len(samples)
    mean = samples.mean(0)
    if count < 2:
        return mean, np.full_like(mean, np.nan)
    return mean, scipy.stats.t.ppf(0.975, count - 1) * samples.std(0, ddof=1) / math.sqrt(count)


def error_of_share(share: float | np.ndarray, count: int) -> float | np.ndarray:
    """Binomial standard error sqrt(p (1 - p) / n) of a share p of `count` examples.

    >>> float(error_of_share(0.5, 100))
    0.05
    """
    return np.sqrt(share * (1 - share) / count)


def merged_moments(parts: Sequence[tuple[int, Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Mean and variance (channels,) of all samples, from (count, mean, variance) of every batch.

    Variances are biased (divided by the count), so batches of any size give the same result.

    >>> one, three = torch.ones(1), torch.full((1,), 3.0)
    >>> [moment.tolist() for moment in merged_moments([(2, one, one), (2, three, one)])]
    [[2.0], [2.0]]
    """
    counts = torch.tensor([n for n, _, _ in parts], dtype=torch.float64)
    shares = (counts / counts.sum())[:, None].to(parts[0][1].device)
    means, variances = (torch.stack([part[k] for part in parts]) for k in (1, 2))
    mean = (shares * means).sum(0)
    return mean, (shares * (variances + (means - mean).square())).sum(0)
