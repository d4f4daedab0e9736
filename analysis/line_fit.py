"""A straight line fitted to points, with standard errors."""

from __future__ import annotations

import numpy as np


def line(
    x: np.ndarray, y: np.ndarray, weights: np.ndarray | float = 1.0
) -> tuple[float, float, float, float]:
    """Intercept and slope of the weighted least-squares line, and their standard errors.

    The points are x, y (n,); `weights` (n,) are proportional to 1 / variance. The errors come from
    the residuals and are NaN for fewer than three points. Intercept and slope are NaN for fewer
    than two. All are NaN if a y is not finite.

    >>> intercept, slope, *_ = line(np.array([0.0, 1.0, 2.0]), np.array([1.0, 3.0, 5.0]))
    >>> float(intercept), float(slope)
    (1.0, 2.0)
    """
    if len(x) < 2 or not np.isfinite(y).all():
        return (np.nan,) * 4
    weights = np.broadcast_to(weights, x.shape)
    total = weights.sum()
    centre = (weights * x).sum() / total
    spread = (weights * (x - centre) ** 2).sum()
    slope = (weights * (x - centre) * y).sum() / spread
    intercept = (weights * y).sum() / total - slope * centre
    if len(x) < 3:
        return intercept, slope, np.nan, np.nan
    variance = (weights * (y - intercept - slope * x) ** 2).sum() / (len(x) - 2)
    intercept_se = np.sqrt(variance * (1 / total + centre**2 / spread))
    return intercept, slope, intercept_se, np.sqrt(variance / spread)


def relative_line(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float, float]:
    """`line` for positive y with relative errors: weights 1 / y^2.

    If x spans decades, equal weights would let the largest values determine the intercept. If a y
    is not positive, all weights are equal.
    """
    return line(x, y, 1 / y**2 if (y > 0).all() else 1.0)
