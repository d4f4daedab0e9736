"""Trace and diagonal of an operator with their standard errors, at a fixed number of products."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ridgeline.landscape.curvature.operators import Operator, dense
from ridgeline.landscape.weights.point import Point
from ridgeline.models.errors import InputError, unknown
from ridgeline.train.data.noise import Purpose, number_of, seeded
from ridgeline.train.statistics import mean_and_error

#: name -> (name of the estimator in curvlinops, products of one independent estimate)
ESTIMATORS = {"hutchinson": ("hutchinson_trace", 1), "hutchpp": ("hutchpp_trace", 12),
              "xtrace": ("xtrace", 12)}  # fmt: skip


@dataclass(frozen=True)
class Estimate:
    """Mean and standard error over independent estimates, number of products, estimator."""

    mean: Any
    se: Any
    products: int
    estimator: str


class _OnHost:
    """The operator as curvlinops needs it: random vectors are drawn on the CPU for every device."""

    def __init__(self, operator: Operator):
        self.operator, self.shape = operator, operator.shape
        self.dtype, self.device = operator.dtype, torch.device("cpu")

    def __matmul__(self, vectors: Tensor) -> Tensor:
        return (self.operator @ vectors).cpu()


def estimate_trace(
    operator: Operator, *, products: int = 60, estimator: str = "hutchinson", seed: int = 0
) -> Estimate:
    """The trace from `products` products, split into independent estimates for the error.

    `hutchpp` (Meyer et al. 2021) and `xtrace` (Epperly et al. 2024) need 12 products for one
    estimate. They have a smaller error if few eigenvalues make up most of the trace. If the matrix
    has no more rows than one estimate needs products, its diagonal is summed instead: `estimator`
    is then "exact" and the error 0. Raises InputError for fewer products than two estimates need,
    and where xtrace fails.

    >>> from ridgeline.landscape.curvature.operators import Matrix
    >>> estimate_trace(Matrix(torch.diag(torch.tensor([1.0, 2.0, 3.0])))).mean
    6.0
    """
    if estimator not in ESTIMATORS:
        raise unknown("trace estimator", estimator, ESTIMATORS)
    name, each = ESTIMATORS[estimator]
    size = operator.shape[0]
    if each >= size:
        return Estimate(dense(operator).double().trace().item(), 0.0, size, "exact")
    import curvlinops  # takes as long as a third of torch

    repeats, estimate = _repeats(products, each), getattr(curvlinops, name)
    with seeded(number_of(seed, Purpose.TRACE)):
        try:
            samples = [estimate(_OnHost(operator), each).item() for _ in range(repeats)]
        except torch.linalg.LinAlgError:  # xtrace inverts a matrix that low rank makes singular
            raise InputError(
                f"--trace_estimator {estimator} fails on a matrix of such a low rank; "
                "use hutchpp, which is exact there"
            ) from None
    return Estimate(*mean_and_error(np.array(samples)), repeats * each, estimator)


def estimate_diagonal(
    operator: Operator, *, products: int = 60, seed: int = 0
) -> tuple[Point, Point]:
    """The diagonal and its standard errors by Hutchinson's estimator, as two Points.

    Parameters outside the operator's are 0.
    """
    from curvlinops import hutchinson_diag

    count = _repeats(products, 1)
    total = torch.zeros(operator.shape[0], dtype=torch.float64)
    square = torch.zeros_like(total)
    with seeded(number_of(seed, Purpose.DIAGONAL)):
        for _ in range(count):
            sample = hutchinson_diag(_OnHost(operator), 1).double()
            total, square = total + sample, square + sample.square()
    mean = total / count
    variance = (square / count - mean.square()).clamp_min(0) / (count - 1)
    return operator.embed(mean), operator.embed(variance.sqrt())


def _repeats(products: int, each: int) -> int:
    if products < 2 * each:
        raise InputError(f"a standard error needs at least {2 * each} products, got {products}")
    return products // each
