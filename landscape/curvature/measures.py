"""Measures of one operator (eigenpairs, density, trace, diagonal) as a labelled result."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, Any

import numpy as np
import xarray as xr

from ridgeline.landscape.batchnorm import POLICIES, statistics_at
from ridgeline.landscape.curvature.compiled_hessian import CompiledHessian
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
from ridgeline.models.errors import InputError
from ridgeline.train.attacks import Attack
from ridgeline.train.options import Opt, Options

#: operator -> its matrix in words
OPERATORS = {
    "hessian": "Hessian",
    "ggn": "generalised Gauss-Newton matrix",
    "fisher": "empirical Fisher matrix",
    "mc_fisher": "Monte-Carlo Fisher matrix",
    "input": "input Hessian of single examples",
}
#: the programs that can compute eigenpairs and traces
TOOLS = ("ridgeline", "pyhessian")
#: names of number formats
PRECISIONS = ("float32", "float64", "tf32")
#: how the adversarial images depend on the weights
ADVERSARIES = {
    "frozen": "adversarial images frozen",
    "refined": "adversarial images climbed to the maximum nearby, then frozen",
    "total": "true adversarial loss, images follow the weights",
}

_PAIRS = {"topk": ()}


@dataclass(frozen=True)
class SpectrumOptions(Options):
    """What to measure of an operator: eigenpairs; density, trace and diagonal on request."""

    topk: Annotated[int, Opt("number of eigenpairs", low=0)] = 1
    which: Annotated[str, Opt("end of the spectrum", choices=ENDS, only=_PAIRS)] = "LA"
    tol: Annotated[
        float, Opt("relative residual of a converged pair; 0: limited by rounding", only=_PAIRS)
    ] = 1e-4
    max_iter: Annotated[int | None, Opt("restarts of the Lanczos process", low=1, only=_PAIRS)] = 50
    density_probes: Annotated[int, Opt("probes of the spectral density; 0: none", low=0)] = 0
    density_steps: Annotated[
        int, Opt("Lanczos steps per probe", low=1, only={"density_probes": ()})
    ] = 80
    trace_products: Annotated[int, Opt("products for the trace; 0: none", low=0)] = 0
    trace_estimator: Annotated[
        str,
        Opt(
            "estimator of the trace",
            choices=tuple(ESTIMATORS),
            only={"trace_products": (), "estimator": ("ridgeline",)},
        ),
    ] = "hutchinson"
    diagonal_products: Annotated[int, Opt("products for the diagonal; 0: none", low=0)] = 0
    estimator: Annotated[
        str, Opt("program that computes; pyhessian is an independent check", choices=TOOLS)
    ] = "ridgeline"

    def check(self) -> None:
        """Raise InputError for numbers that are too small for an estimate."""
        check_tolerance(self.tol)
        if not any((self.topk, self.density_probes, self.trace_products, self.diagonal_products)):
            raise InputError(
                "--topk must be at least 1 if --density_probes, --trace_products and "
                "--diagonal_products are all 0"
            )
        if self.diagonal_products == 1:
            raise InputError("--diagonal_products must be at least 2, for its error; got 1")
        if self.density_probes and self.density_steps < 2:
            raise InputError(f"--density_steps must be at least 2, got {self.density_steps}")
        least = 2 * ESTIMATORS[self.trace_estimator][1]
        if self.trace_products and self.trace_products < least:
            raise InputError(
                f"--trace_products must be at least {least} for {self.trace_estimator} "
                f"and its error, got {self.trace_products}"
            )
        if self.estimator == "pyhessian" and (
            self.density_probes or (self.topk and self.which != "LM")
        ):
            raise InputError(
                "--estimator pyhessian ranks by magnitude and has no density: "
                "use --which LM --density_probes 0"
            )


@dataclass(frozen=True)
class CurvatureOptions(Options):
    """Which matrix is measured, and of which loss."""

    adversary: Annotated[
        str, Opt("how adversarial images depend on the weights", choices=ADVERSARIES)
    ] = "frozen"
    operator: Annotated[str, Opt("the matrix", choices=OPERATORS)] = "hessian"
    blocks: Annotated[
        str | None, Opt("globs 'a.*,b.*', each: every layer; None: all parameters as one")
    ] = None
    weight_decay: Annotated[float, Opt("add (weight_decay / 2) ||theta||^2 to the loss", low=0)] = (
        0.0
    )
    batchnorm: Annotated[str, Opt("BatchNorm's statistics", choices=POLICIES)] = "keep"
    precision: Annotated[
        str, Opt("of all numbers; tf32: CUDA, faster, less exact", choices=PRECISIONS)
    ] = "float32"
    memory: Annotated[
        float | None,
        Opt("memory for the products; None: half of the free memory", above=0, unit="GiB",
            decides=False),
    ] = None  # fmt: skip
    compile: Annotated[
        bool, Opt("compile the products (--operator hessian): for spectra of many minutes")
    ] = False

    def check(self) -> None:
        """Raise InputError for options that the chosen matrix does not have."""
        if self.operator == "input" and (self.blocks or self.weight_decay):
            raise InputError("--operator input has no --blocks and no --weight_decay")
        if self.adversary == "total" and self.operator != "hessian":
            raise InputError("--adversary total needs --attack and --operator hessian")
        if self.compile and (self.operator != "hessian" or self.adversary == "total"):
            raise InputError("--compile is for --operator hessian --adversary frozen or refined")

    def check_beside(self, attack: Attack | None, spectrum: SpectrumOptions) -> None:
        """Raise InputError if an attack is missing or a measure does not exist for this matrix."""
        if self.adversary == "total" and attack is None:
            raise InputError("--adversary total needs --attack and --operator hessian")
        if self.adversary == "refined" and attack is None:
            raise InputError("--adversary refined needs --attack")
        if self.operator == "input" and spectrum.diagonal_products:
            raise InputError("--operator input has no --diagonal_products")

    def title(self, attacked: bool) -> str:
        """The matrix and its loss in words."""
        loss = ADVERSARIES[self.adversary] if attacked else "clean loss"
        return f"{OPERATORS[self.operator]}, {loss}"

    def keywords(self, problem: Problem) -> dict[str, Any]:
        """The keywords of an operator: memory (bytes; None: half of the free), decay, buffers."""
        return {
            "memory": None if self.memory is None else int(self.memory * 2**30),
            "weight_decay": self.weight_decay,
            "buffers": statistics_at(problem, problem.origin, self.batchnorm),
        }


def blocks_of(origin: Point, patterns: str | None) -> dict[str, list[str]]:
    """The parameter names of every block.

    `patterns`: None makes one block of all parameters, `each` one block per layer. Globs such as
    "a.*,b.*" make one block each. Raises InputError for a glob that matches nothing.
    """
    names = list(origin)
    if not isinstance(patterns, str | None):
        raise InputError(f"blocks must be 'each' or globs 'a.*,b.*' in one text, got {patterns!r}")
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
    """The problem without attack, on the adversarial images found at the problem's weights."""
    if problem.attack is not None and problem.attack.eps > 0 and adversary != "frozen":
        return refined(problem, buffers=buffers)
    return problem.frozen(buffers=buffers, tick=tick)


def operator_of(
    problem: Problem, frozen: Problem, kind: str, adversary: str, parameters: Iterable[str],
    compiled: bool = False, **options,
) -> Operator:  # fmt: skip
    """The operator of that kind at the problem's weights. `frozen` comes from `frozen_at`.

    `compiled` applies only to the Hessian of frozen images.
    """
    options |= {"parameters": list(parameters)}
    attacked = problem.attack is not None and problem.attack.eps > 0
    if kind == "hessian" and adversary == "total" and attacked:
        return TotalHessian(problem, inner_maxima=frozen, **options)
    if kind == "hessian":
        return (CompiledHessian.of if compiled else Hessian)(frozen, **options)
    curvature = {"ggn": "ggn", "fisher": "empirical", "mc_fisher": "mc"}[kind]
    return GaussNewton(frozen, curvature=curvature, **options)


def measure(
    operator: Operator, wanted: SpectrumOptions, seed: int
) -> tuple[xr.Dataset, np.ndarray, list[Point]]:
    """The wanted numbers, the eigenvectors (P, k), and the diagonal with its error if wanted."""
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
    if wanted.density_probes:
        quadrature = lanczos_quadrature(
            operator, probes=wanted.density_probes, steps=wanted.density_steps, seed=seed
        )
        density = density_dataset(quadrature)  # a small matrix needs fewer steps than wanted
        density = density.assign_coords(step=np.arange(density.sizes["step"]))
        parts.append(density.reindex(step=np.arange(wanted.density_steps)))
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
    if not np.isfinite(ds["mean_loss"]):
        raise InputError("the loss is NaN or infinite for some examples: it has no curvature")
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
    ds["evaluation"] = ((), operator.evaluation, {"long_name": "how derivatives were taken"})
    ds["products"] = operator.products
    ds["seconds"] = time.perf_counter() - began
    return ds, vectors, diagonal
