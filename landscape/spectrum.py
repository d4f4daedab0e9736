"""Eigenpairs of an operator, each with its residual."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from scipy.linalg import eigh
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
from threadpoolctl import threadpool_limits
from torch import Tensor

from landscape.memory import free_bytes
from landscape.operators import Hessian, dense
from landscape.problem import Problem
from models.errors import InputError, unknown
from train.noise import Purpose, stream

#: end of the spectrum -> meaning
ENDS = {"LA": "largest", "SA": "smallest", "LM": "largest magnitude"}
_DENSE = 64  # below this size the whole matrix costs less than Lanczos


@dataclass(frozen=True)
class Eigenpairs:
    """k eigenpairs, most wanted first: values (k,), unit vectors (P, k), residuals (k,).

    `residuals` are ||Hv - lambda v|| from actual products: those the solver made, combined, or one
    more per pair where their combination does not reach the vector or there was no room for them;
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
    course = _Course(operator)
    if size <= max(_DENSE, k + 1):
        matrix = dense(operator).double().cpu().numpy()
        values, vectors = eigh((matrix + matrix.T) / 2)
    else:
        values, vectors = _lanczos(course, k, which, tol, max_iter, seed)
    order = np.argsort({"LA": -values, "SA": values, "LM": -np.abs(values)}[which], kind="stable")
    values, vectors = values[order[:k]], vectors[:, order[:k]]
    images = course.products_with(vectors)
    residuals = np.linalg.norm(images - vectors * values, axis=0)
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
    course: _Course, k: int, which: str, tol: float, max_iter: int | None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Lanczos vectors stay in float64 on the host, whatever the dtype of the products."""
    size = course.operator.shape[0]
    linear = LinearOperator((size, size), matvec=course.product, dtype=np.float64)
    start = stream(seed, Purpose.LANCZOS_START).standard_normal(size)
    # ARPACK wakes BLAS threads that then spin against torch's own
    with threadpool_limits(limits=1, user_api="blas"):
        try:
            return eigsh(linear, k=k, which=which, tol=tol, maxiter=max_iter, v0=start)
        except ArpackNoConvergence as stopped:
            return stopped.eigenvalues, stopped.eigenvectors


class _Course:
    """The products an eigensolver makes: its vectors are combinations of their inputs.

    By linearity H v then follows without another product. Inputs are kept as the operator saw
    them, in its dtype, as long as they take less than a quarter of the free memory.
    """

    def __init__(self, operator: Hessian):
        self.operator = operator
        self._inputs: list[Tensor] = []
        self._outputs: list[Tensor] = []
        self._enough = 10 * torch.finfo(operator.dtype).eps
        pair = 2 * operator.shape[0] * operator.dtype.itemsize
        self._room = free_bytes(torch.device("cpu")) // 4 // pair

    def product(self, vector: np.ndarray) -> np.ndarray:
        """The product of the operator with a host vector (P,), noted down."""
        product = product_of(self.operator, vector)
        if len(self._inputs) < self._room:
            seen = torch.from_numpy(np.array(vector, dtype=np.float64).ravel())
            self._inputs.append(seen.to(self.operator.dtype))
            self._outputs.append(torch.from_numpy(product).to(self.operator.dtype))
        return product

    def products_with(self, vectors: np.ndarray) -> np.ndarray:
        """H V (P, k) for the solver's vectors V (P, k)."""
        if self._inputs and vectors.size:
            v = torch.from_numpy(np.ascontiguousarray(vectors))
            weights, missed = self._weights(v)
            if missed <= self._enough:
                parts = [w.double().T @ weights for _, w in self._pieces(self._outputs)]
                return torch.cat(parts).numpy()
        found = np.empty_like(vectors)
        for number, vector in enumerate(vectors.T):
            found[:, number] = product_of(self.operator, vector)
        return found

    def _weights(self, v: Tensor) -> tuple[Tensor, float]:
        """Weights (n, k) of the inputs in v (P, k), and the largest norm of what they miss.

        Normal equations, whose matrix may be rounded because what is missed is fed back.
        """
        gram = sum((w @ w.T).double() for _, w in self._pieces(self._inputs))
        inverse = torch.linalg.pinv(gram, hermitian=True, rtol=1e-6)
        weights = torch.zeros(len(gram), v.shape[1], dtype=torch.float64)
        before = math.inf
        while True:
            right, square = torch.zeros_like(weights), 0
            for cut, w in self._pieces(self._inputs):
                rest = v[cut] - w.double().T @ weights
                right += w.double() @ rest
                square += rest.square().sum(0)
            missed = float(square.max().sqrt())
            if missed <= self._enough or missed > before / 2:
                return weights, missed
            weights, before = weights + inverse @ right, missed

    def _pieces(self, vectors: list[Tensor]) -> Iterator[tuple[slice, Tensor]]:
        """Vectors (n, p) by pieces of P that stay in the cache."""
        for start in range(0, len(vectors[0]), 1 << 14):
            cut = slice(start, start + (1 << 14))
            yield cut, torch.stack([vector[cut] for vector in vectors])
