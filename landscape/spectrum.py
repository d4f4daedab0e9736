"""Eigenpairs of an operator, each with its residual."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from scipy.linalg import eigh
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
from threadpoolctl import threadpool_limits
from torch import Tensor

from landscape.operators import Hessian, dense
from landscape.problem import Problem
from models.errors import InputError, unknown
from train.noise import stream

#: end of the spectrum -> meaning
ENDS = {"LA": "largest", "SA": "smallest", "LM": "largest magnitude"}
_DENSE = 64  # below this size the whole matrix costs less than Lanczos


@dataclass(frozen=True)
class Eigenpairs:
    """k eigenpairs, most wanted first: values (k,), unit vectors (P, k), residuals (k,).

    `residuals` are ||Hv - lambda v||, measured by one product per pair after the fact;
    `converged` says residual <= tol * |lambda|. Pairs that were not found are NaN.
    """

    values: np.ndarray
    vectors: np.ndarray
    residuals: np.ndarray
    converged: np.ndarray
    products: int


def top_eigenpairs(
    operator: Hessian,
    k: int,
    *,
    which: str = "LA",
    tol: float = 1e-4,
    max_iter: int | None = None,
    seed: int = 0,
) -> Eigenpairs:
    """The k outermost eigenpairs by implicitly restarted Lanczos (scipy's eigsh, ARPACK).

    `tol` bounds the relative residual, `max_iter` the number of restarts. What converged is kept
    when the restarts run out. The start vector is a function of the seed. A Krylov space meets
    an exactly multiple eigenvalue once: its copies can be missed. Raises InputError.
    """
    size = operator.shape[0]
    if which not in ENDS:
        raise unknown("end of the spectrum", which, ENDS)
    if not 1 <= k <= size:
        raise InputError(f"topk must lie in 1..{size} (the number of parameters), got {k}")
    before = operator.products
    if size <= max(_DENSE, k + 1):
        matrix = dense(operator).double().cpu().numpy()
        values, vectors = eigh((matrix + matrix.T) / 2)
    else:
        values, vectors = _lanczos(operator, k, which, tol, max_iter, seed)
    order = np.argsort({"LA": -values, "SA": values, "LM": -np.abs(values)}[which], kind="stable")
    values, vectors = values[order[:k]], vectors[:, order[:k]]
    residuals = np.array(
        [
            np.linalg.norm(product_of(operator, v) - value * v)
            for value, v in zip(values, vectors.T, strict=True)
        ]
    )
    missing = k - len(values)
    values = np.pad(values, (0, missing), constant_values=np.nan)
    residuals = np.pad(residuals, (0, missing), constant_values=np.nan)
    vectors = np.pad(vectors, ((0, 0), (0, missing)), constant_values=np.nan)
    converged = residuals <= np.maximum(tol * np.abs(values), _rounding(operator, values))
    return Eigenpairs(values, vectors, residuals, converged, operator.products - before)


def hessian_of(
    problem: Problem,
    *,
    memory: int | None = None,
    buffers: Mapping[str, Tensor] | None = None,
    tick: Callable[[int], None] | None = None,
) -> Hessian:
    """The Hessian at the problem's own weights, adversarial images frozen there."""
    frozen = problem.frozen(buffers=buffers, tick=tick)
    return Hessian(frozen, memory=memory, buffers=buffers, tick=tick)


def eigenpairs_dataset(operator: Hessian, pairs: Eigenpairs) -> xr.Dataset:
    """Eigenvalues, residuals, convergence and the loss by rank, without the eigenvectors."""
    return xr.Dataset(
        {
            "eigenvalue": ("rank", pairs.values, {"units": "nat"}),
            "residual": ("rank", pairs.residuals, {"long_name": "||Hv - lambda v||"}),
            "converged": ("rank", pairs.converged),
            "products": pairs.products,
            "mean_loss": operator.loss(),
        },
        coords={"rank": np.arange(1, len(pairs.values) + 1)},
    )


def _rounding(operator: Hessian, values: np.ndarray) -> float:
    """Residual that rounding of the products alone leaves, whatever the tolerance."""
    epsilon = torch.finfo(operator.dtype).eps
    return 10 * epsilon * float(np.nanmax(np.abs(values), initial=0.0))


def product_of(operator: Hessian, vector: np.ndarray) -> np.ndarray:
    """The product of an operator with a host vector (P,), in float64."""
    v = torch.from_numpy(np.ascontiguousarray(vector, dtype=np.float64).ravel())
    return operator.matvec(v).double().cpu().numpy()


def _lanczos(
    operator: Hessian, k: int, which: str, tol: float, max_iter: int | None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Lanczos vectors stay in float64 on the host, whatever the dtype of the products."""
    size = operator.shape[0]
    linear = LinearOperator(
        (size, size), matvec=lambda v: product_of(operator, v), dtype=np.float64
    )  # fmt: skip
    start = stream(seed, 0xE16).standard_normal(size)
    # ARPACK wakes BLAS threads that then spin against torch's own
    with threadpool_limits(limits=1, user_api="blas"):
        try:
            return eigsh(linear, k=k, which=which, tol=tol, maxiter=max_iter, v0=start)
        except ArpackNoConvergence as stopped:
            return stopped.eigenvalues, stopped.eigenvectors
