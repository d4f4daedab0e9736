"""Eigenpairs of an operator, each with its residual."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ridgeline.landscape.curvature.lanczos import RANKS, Ritz, Rule, outermost
from ridgeline.landscape.curvature.operators import Hessian, dense
from ridgeline.landscape.problem import Problem
from ridgeline.models.errors import InputError, unknown
from ridgeline.train.losses import unit_of

#: end of the spectrum -> meaning
ENDS = {"LA": "largest", "SA": "smallest", "LM": "largest magnitude"}
_DENSE = 64  # below this size the full matrix costs less than Lanczos

#: the reason of a pair for which the search for copies stopped early
UNSURE = "converged; a copy of it could be missing: more pairs (--topk) tell"


@dataclass(frozen=True)
class Eigenpairs:
    """k eigenpairs in the order of `which`: values (k,), unit vectors (P, k), residuals (k,).

    `residuals` are ||Hv - lambda v||; Hv is combined from computed products as v is from the
    basis. `converged` (k,) follows the rule of `top_eigenpairs`. `reasons` (k,) says why, or what
    a user can change.
    """

    values: np.ndarray
    vectors: np.ndarray
    residuals: np.ndarray
    converged: np.ndarray
    reasons: np.ndarray
    products: int


def top_eigenpairs(
    operator: Hessian,
    k: int,
    *,
    which: str = "LA",
    tol: float = 1e-4,
    max_iter: int | None = None,
    seed: int = 0,
    copies: float = 0.25,
) -> Eigenpairs:
    """The k outermost eigenpairs, with a search for copies of repeated eigenvalues.

    Small operators are diagonalised, others iterated (`landscape/curvature/lanczos.py`). A pair has
    converged when its residual is at most tol * max(|lambda|, scale / 100), where `scale` is the
    largest magnitude found in the spectrum. A residual within rounding counts too: ten units of
    the products' dtype, times scale; up to a hundred times that if restarts no longer help.

    Args:
        operator: The symmetric matrix (P, P).
        k: Number of eigenpairs, 1 to P.
        which: A name in ENDS.
        tol: Relative residual, from 0 (as exact as rounding allows) to below 1.
        max_iter: Most restarts; None: 10 P. Pairs that have not converged are returned too.
        seed: Determines the random start.
        copies: The search for copies may use this share of the products made before it. math.inf
            searches until it is sure. `reasons` marks the pairs for which it is not.

    Raises:
        InputError: for arguments out of range and for products that are not finite.
    """
    size = operator.shape[0]
    if which not in ENDS:
        raise unknown("end of the spectrum", which, ENDS)
    if not 1 <= k <= size:
        raise InputError(f"topk must lie in 1..{size} (the number of parameters), got {k}")
    check_tolerance(tol)
    before = operator.products
    rule = Rule(tol, torch.finfo(operator.dtype).eps)
    if size <= max(_DENSE, 2 * k + 1):
        found = _diagonalised(operator, k, which)
    else:
        found = outermost(operator, k, which, rule, max_iter or 10 * size, seed, copies)
    reasons = _reasons(found, rule)
    allowed = rule.allowed(found.values, found.scale).clamp_min(found.floor)
    return Eigenpairs(
        found.values.numpy(),
        _signed(found.vectors).numpy(),
        found.residuals.numpy(),
        (found.residuals <= allowed).numpy(),
        np.array(reasons),
        operator.products - before,
    )


def _signed(vectors: Tensor) -> Tensor:
    """Vectors (P, k), each with the sign that makes its largest entry positive.

    The sign is the same on every device.
    """
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    return vectors * torch.where(largest < 0, -1, 1)


def check_tolerance(tol: float) -> None:
    """Raise InputError for a relative residual outside [0, 1)."""
    if not 0 <= tol < 1:
        raise InputError(f"tol must lie in 0..1 (0: as exact as rounding allows), got {tol:g}")


def _diagonalised(operator: Hessian, k: int, which: str) -> Ritz:
    matrix = dense(operator).double().cpu()
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    order = torch.argsort(RANKS[which](values), descending=True, stable=True)[:k]
    top, vectors = values[order], vectors[:, order]
    residuals = (matrix @ vectors - vectors * top).norm(dim=0)
    return Ritz(top, vectors, residuals, values.abs().max().item(), torch.ones(k) > 0)


def _reasons(found: Ritz, rule: Rule) -> list[str]:
    """Why each pair has converged, or what a user can change."""
    asked = rule.asked(found.values, found.scale)
    rounding = max(rule.rounding(found.scale), found.floor)
    coarse = rule.epsilon > torch.finfo(torch.float64).eps
    reasons = []
    rows = zip(found.residuals.tolist(), asked.tolist(), found.sure.tolist(), strict=True)
    for residual, enough, sure in rows:
        if residual <= enough:
            reasons.append("converged" if sure else UNSURE)
        elif residual <= rounding:
            reasons.append("converged as far as rounding allows")
        elif residual <= 100 * rounding and coarse:
            reasons.append("near the rounding of float32: use --precision float64, or raise --tol")
        else:
            reasons.append("restarts ran out: raise --max_iter or --tol")
    return reasons


def hessian_of(
    problem: Problem,
    *,
    memory: int | None = None,
    buffers: Mapping[str, Tensor] | None = None,
    tick: Callable[[int], None] | None = None,
) -> Hessian:
    """The Hessian at the problem's own weights, with the adversarial images frozen."""
    frozen = problem.frozen(buffers=buffers, tick=tick)
    return Hessian(frozen, memory=memory, buffers=buffers, tick=tick)


def eigenpairs_dataset(operator: Hessian, pairs: Eigenpairs) -> xr.Dataset:
    """Eigenvalues, residuals, convergence and the loss by rank, without the eigenvectors."""
    return xr.Dataset(
        {
            "eigenvalue": ("rank", pairs.values, {"units": unit_of(operator.problem.loss)}),
            "residual": ("rank", pairs.residuals, {"long_name": "||Hv - lambda v||"}),
            "converged": ("rank", pairs.converged),
            "reason": ("rank", pairs.reasons, {"long_name": "why converged, or what helps"}),
            "products": pairs.products,
            "mean_loss": operator.loss(),
        },
        coords={"rank": np.arange(1, len(pairs.values) + 1)},
    )


def product_of(operator: Hessian, vector: np.ndarray) -> np.ndarray:
    """The product of an operator with a host vector (P,), in float64."""
    v = torch.from_numpy(np.ascontiguousarray(vector, dtype=np.float64).ravel())
    return operator.matvec(v).double().cpu().numpy()
