"""One question asked of one operator: eigenpairs, density, trace, as a labelled result."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
import xarray as xr

from ridgeline.landscape.curvature.density import density_dataset, lanczos_quadrature
from ridgeline.landscape.curvature.eigenpairs import (
    ENDS,
    check_tolerance,
    eigenpairs_dataset,
    top_eigenpairs,
)
from ridgeline.landscape.curvature.gauss_newton import GaussNewton
from ridgeline.landscape.curvature.operators import Hessian, Operator
from ridgeline.landscape.curvature.pyhessian import pyhessian_eigenpairs, pyhessian_trace
from ridgeline.landscape.curvature.total_hessian import TotalHessian, refined
from ridgeline.landscape.curvature.trace import ESTIMATORS, estimate_diagonal, estimate_trace
from ridgeline.landscape.problem import Problem
from ridgeline.landscape.weights.point import Point
from ridgeline.models.errors import InputError, unknown

#: operator -> what its matrix is
OPERATORS = {
    "hessian": "Hessian",
    "ggn": "generalised Gauss-Newton matrix",
    "fisher": "empirical Fisher matrix",
    "mc_fisher": "Monte-Carlo Fisher matrix",
    "input": "input Hessian of single examples",
}
#: what adversarial images do when the weights move
ADVERSARIES = {
    "frozen": "adversarial images frozen",
    "refined": "adversarial images climbed to the maximum nearby, then frozen",
    "total": "true adversarial loss, images follow the weights",
}


@dataclass(frozen=True)
class Measures:
    """What to compute: eigenpairs, and density, trace and diagonal where their number is > 0."""

    topk: int = 1
    which: str = "LA"
    tol: float = 1e-4
    max_iter: int | None = 50
    probes: int = 0
    steps: int = 80
    trace_products: int = 0
    trace_estimator: str = "hutchinson"
    estimator: str = "ridgeline"
    diagonal_products: int = 0

    def __post_init__(self) -> None:
        if self.which not in ENDS:
            raise unknown("--which", self.which, ENDS)
        if self.trace_estimator not in ESTIMATORS:
            raise unknown("--trace_estimator", self.trace_estimator, ESTIMATORS)
        if self.estimator not in ("ridgeline", "pyhessian"):
            raise unknown("--estimator", self.estimator, ["ridgeline", "pyhessian"])
        check_tolerance(self.tol)
        asked = (self.topk, self.probes, self.trace_products, self.diagonal_products)
        if min(asked) < 0:
            raise InputError(
                "--topk, --density_probes, --trace_products, --diagonal_products must not be "
                "negative"
            )
        if not any(asked):
            raise InputError(
                "--topk must be at least 1 where none of --density_probes, --trace_products, "
                "--diagonal_products asks for anything"
            )
        if self.diagonal_products == 1:
            raise InputError("--diagonal_products must be at least 2, for its error; got 1")
        if self.probes and self.steps < 2:
            raise InputError(f"--density_steps must be at least 2, got {self.steps}")
        least = 2 * ESTIMATORS[self.trace_estimator][1]
        if self.trace_products and self.trace_products < least:
            raise InputError(
                f"--trace_products must be at least {least} for {self.trace_estimator} "
                f"and its error, got {self.trace_products}"
            )
        if self.estimator == "pyhessian" and (self.probes or self.which != "LM"):
            raise InputError(
                "--estimator pyhessian ranks by magnitude and has no density: "
                "use --which LM --density_probes 0"
            )


def blocks_of(origin: Point, patterns: str | None) -> dict[str, list[str]]:
    """The parameter names of every block: `None` all, `each` one per layer, or globs `a.*,b.*`.

    Raises InputError for a glob that matches nothing.
    """
    names = list(origin)
    if patterns is None:
        return {"all": names}
    if patterns == "each":
        layers = dict.fromkeys(n.rpartition(".")[0] for n in names)
        return {k: [n for n in names if n.rpartition(".")[0] == k] for k in layers}
    blocks = {}
    for pattern in (p.strip() for p in patterns.split(",")):
        blocks[pattern] = [n for n in names if fnmatchcase(n, pattern)]
        if not blocks[pattern]:
            shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
            raise InputError(f"--blocks {pattern!r} matches no parameter; there are {shown}")
    return blocks


def frozen_at(problem: Problem, adversary: str, buffers, tick) -> Problem:
    """The problem without attack, on the images its adversary leaves at the problem's weights."""
    if problem.attack is not None and problem.attack.eps > 0 and adversary != "frozen":
        return refined(problem, buffers=buffers)
    return problem.frozen(buffers=buffers, tick=tick)


def operator_of(
    problem: Problem, frozen: Problem, kind: str, adversary: str, parameters: Iterable[str],
    **options,
) -> Operator:  # fmt: skip
    """The operator of that kind at the problem's weights, `frozen` from `frozen_at`."""
    options |= {"parameters": list(parameters)}
    attacked = problem.attack is not None and problem.attack.eps > 0
    if kind == "hessian" and adversary == "total" and attacked:
        return TotalHessian(problem, inner_maxima=frozen, **options)
    if kind == "hessian":
        return Hessian(frozen, **options)
    curvature = {"ggn": "ggn", "fisher": "empirical", "mc_fisher": "mc"}[kind]
    return GaussNewton(frozen, curvature=curvature, **options)


def measure(
    operator: Operator, wanted: Measures, seed: int
) -> tuple[xr.Dataset, np.ndarray, list[Point]]:
    """The numbers asked for, the eigenvectors (P, k), and the diagonal with its error if asked."""
    diagonal: list[Point] = []
    began, parts, vectors = time.perf_counter(), [], np.empty((operator.shape[0], 0))
    if wanted.topk:
        k = wanted.topk
        if wanted.estimator == "pyhessian":
            pairs = pyhessian_eigenpairs(operator, k, wanted.tol, wanted.max_iter or 100, seed)
        else:
            pairs = top_eigenpairs(
                operator, k, which=wanted.which, tol=wanted.tol, max_iter=wanted.max_iter, seed=seed
            )
        vectors = pairs.vectors
        parts.append(eigenpairs_dataset(operator, pairs))
    if wanted.probes:
        quadrature = lanczos_quadrature(
            operator, probes=wanted.probes, steps=wanted.steps, seed=seed
        )
        parts.append(density_dataset(quadrature).reindex(step=np.arange(wanted.steps)))
    if wanted.trace_products:
        if wanted.estimator == "pyhessian":
            trace = pyhessian_trace(operator, wanted.trace_products, seed)
        else:
            trace = estimate_trace(
                operator,
                products=wanted.trace_products,
                estimator=wanted.trace_estimator,
                seed=seed,
            )
        numbers = {"trace": trace.mean, "trace_se": trace.se, "trace_estimator": trace.estimator}
        parts.append(xr.Dataset(numbers))
    if wanted.diagonal_products:
        diagonal += estimate_diagonal(operator, products=wanted.diagonal_products, seed=seed)
    ds = xr.merge(parts, compat="override")
    ds["mean_loss"] = operator.loss()
    ds["parameters"] = operator.shape[0]
    for name, meaning in (
        ("share_regular", "examples with a settled, strict inner maximum"),
        ("stationarity", "gradient left along the faces at the inner maxima, relative, mean"),
        ("asymmetry", "|u'Hv - v'Hu| / |Hv| of the network's second derivatives on a few examples"),
    ):
        ds[name] = ((), getattr(operator, name, np.nan), {"long_name": meaning})
    ds["departure"] = ((), operator.trust.departure, {
        "long_name": "distance of Hv from the slope of the gradient there, NaN: not compared"
    })  # fmt: skip
    ds["evaluation"] = ((), str(operator.trust.way), {"long_name": "how derivatives were taken"})
    ds["products"] = operator.products
    ds["seconds"] = time.perf_counter() - began
    return ds, vectors, diagonal
