"""Errors and intervals of numbers that are not simple means."""

from __future__ import annotations

import numpy as np
import scipy  # its parts are loaded when used


def jackknife(left_out: np.ndarray) -> np.ndarray:
    """Standard error (...) of a statistic from its values (n, ...) with one sample left out each.

    It is sqrt((n - 1) / n sum_i (t_i - mean t)^2); for the mean this is s / sqrt(n). NaN for fewer
    than 2 samples (Efron and Stein 1981).

    >>> samples = np.array([1.0, 3.0, 8.0])
    >>> without = (samples.sum() - samples) / 2
    >>> bool(np.isclose(jackknife(without), samples.std(ddof=1) / np.sqrt(3)))
    True
    """
    count = len(left_out)
    if count < 2:
        return np.full(left_out.shape[1:], np.nan)
    return np.sqrt((count - 1) / count * ((left_out - left_out.mean(0)) ** 2).sum(0))


def wilson(hits: int, count: int) -> tuple[float, float]:
    """The 95 % Wilson interval of a share: `hits` of `count` examples.

    >>> low, high = wilson(0, 10)  # none of 10: 0 to z^2 / (n + z^2) with z = 1.96
    >>> low, round(float(high), 3), round(1.96**2 / (10 + 1.96**2), 3)
    (0.0, 0.278, 0.278)
    """
    interval = scipy.stats.binomtest(hits, count).proportion_ci(0.95, method="wilson")
    return interval.low, interval.high
