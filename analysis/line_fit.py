"""A straight line through measured points, with its errors."""

from __future__ import annotations

import numpy as np


def line(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float, float]:
    """Intercept and slope of the least-squares line through (x, y), and their standard errors.

    The errors come from the residuals: NaN for fewer than three points, as are the intercept and
    the slope for fewer than two, and all for a y that is NaN.
    """
    if len(x) < 2 or not np.isfinite(y).all():
        return (np.nan,) * 4
    centred = x - x.mean()
    spread = (centred**2).sum()
    slope = (centred * y).sum() / spread
    intercept = y.mean() - slope * x.mean()
    if len(x) < 3:
        return intercept, slope, np.nan, np.nan
    variance = ((y - intercept - slope * x) ** 2).sum() / (len(x) - 2)
    return (intercept, slope, np.sqrt(variance * (1 / len(x) + x.mean() ** 2 / spread)),
            np.sqrt(variance / spread))  # fmt: skip
