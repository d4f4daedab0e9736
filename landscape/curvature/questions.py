"""Curvature of a Problem: one call a question, answered as a labelled result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import torch
import xarray as xr

from ridgeline.landscape.curvature.measures import (
    OPERATORS,
    CurvatureOptions,
    SpectrumOptions,
    blocks_of,
    frozen_at,
    measure,
    operator_of,
)
from ridgeline.landscape.problem import Problem
from ridgeline.landscape.result import stamp
from ridgeline.landscape.weights.point import Point, flatten, unflatten
from ridgeline.models.errors import InputError, unknown
from ridgeline.train.progress import progress


def top_eigenpairs(
    problem: Problem,
    k: int = 1,
    *,
    which: str = "LA",
    tol: float = 1e-4,
    max_iter: int = 50,
    **curvature: Any,
) -> xr.Dataset:
    """The k outermost eigenvalues of the Hessian of a problem's loss, with their residuals.

    Use it for the sharpest directions and how sharp they are. `spectral_density` shows the whole
    spectrum, the small eigenvalues too, but no eigenvectors.

    Args:
        problem: The problem. Under an attack the adversarial images are frozen at its weights,
            unless `adversary` says otherwise.
        k: Number of eigenpairs.
        which: LA (largest), SA (smallest) or LM (largest magnitude).
        tol: Relative residual of a converged pair.
        max_iter: Restarts of the Lanczos process.
        **curvature: Which matrix of which loss: the keywords of `spectrum`.

    Returns:
        `eigenvalue`, `residual` ||Hv - lambda v||, `converged` and `reason` over `rank` (from 1),
        and `eigenvector` (rank, parameter), which `eigenvectors` turns into directions.

    Raises:
        InputError: for options out of range, and a loss that is not finite.

    References:
        Wu and Simon 2000 (thick-restart Lanczos).

    >>> x, y = torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.zeros(2, 1)
    >>> problem = Problem(torch.nn.Linear(2, 1, bias=False), (x, y), loss="squared_error")
    >>> top_eigenpairs(problem, k=2)["eigenvalue"].values.round(4).tolist()  # of diag(1, 9)
    [9.0, 1.0]
    """
    return spectrum(problem, SpectrumOptions(k, which, tol, max_iter), **curvature)


def spectral_density(
    problem: Problem, *, probes: int = 10, steps: int = 80, **curvature: Any
) -> xr.Dataset:
    """The spectral density of a problem's Hessian, with its band over random probes.

    Use it for the shape of the whole spectrum. Its outermost values are approximate;
    `top_eigenpairs` converges them.

    Args:
        problem: The problem.
        probes: Random start vectors; the band is computed over them.
        steps: Lanczos steps from each start; more steps resolve more detail.
        **curvature: Which matrix of which loss: the keywords of `spectrum`.

    Returns:
        `density` over `density_x` with the half width of its 95 % band, Ritz values and weights,
        and the moments tr H^m / P.

    Raises:
        InputError: for options out of range, and a loss that is not finite.

    References:
        Ghorbani et al. 2019 (stochastic Lanczos quadrature).

    >>> x, y = torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.zeros(2, 1)
    >>> problem = Problem(torch.nn.Linear(2, 1, bias=False), (x, y), loss="squared_error")
    >>> round(float(spectral_density(problem)["moment"][0]), 4)  # (1 + 9) / 2
    5.0
    """
    return spectrum(
        problem, SpectrumOptions(topk=0, density_probes=probes, density_steps=steps), **curvature
    )


def trace(
    problem: Problem, *, products: int = 60, estimator: str = "hutchinson", **curvature: Any
) -> xr.Dataset:
    """The trace of a problem's Hessian with its standard error: `trace`, `trace_se`.

    Which estimator: hutchinson works for any matrix and any number of products. hutchpp and
    xtrace have a smaller error for the same products if few eigenvalues make up most of the trace,
    as in a trained network. They need 12 products for each independent estimate. With few
    estimates their standard error is itself inexact. xtrace can fail with InputError.

    Args:
        problem: The problem.
        products: Hessian-vector products to spend.
        estimator: hutchinson, hutchpp or xtrace.
        **curvature: Which matrix of which loss: the keywords of `spectrum`.

    Returns:
        `trace`, `trace_se` and `trace_estimator`. For a small matrix the diagonal is summed and
        `trace_estimator` is exact.

    Raises:
        InputError: for a budget below two estimates, and a loss that is not finite.

    References:
        Hutchinson 1990; Meyer et al. 2021 (hutchpp); Epperly et al. 2024 (xtrace).

    >>> x, y = torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.zeros(2, 1)
    >>> problem = Problem(torch.nn.Linear(2, 1, bias=False), (x, y), loss="squared_error")
    >>> round(float(trace(problem)["trace"]), 4)  # of diag(1, 9)
    10.0
    """
    wanted = SpectrumOptions(topk=0, trace_products=products, trace_estimator=estimator)
    return spectrum(problem, wanted, **curvature)


def spectrum(
    problem: Problem, wanted: SpectrumOptions | Mapping[str, Any], **curvature: Any
) -> xr.Dataset:
    """Several measures of one operator at a problem's weights, as `calc_hessian` computes them.

    Args:
        problem: The problem; its dtype is that of the numbers.
        wanted: What to measure, by name: `topk` eigenpairs (`which`, `tol`, `max_iter`), the
            density by `density_probes` of `density_steps`, `trace_products`, `diagonal_products`;
            as the options of `calc_hessian`.
        **curvature: Fields of `CurvatureOptions`: `operator` hessian, ggn, fisher or mc_fisher,
            `adversary` frozen, refined or total, `weight_decay`, `batchnorm` keep or recalibrate,
            `memory` in GiB; `blocks` (globs "a.*,b.*", or "each") gives every block of the
            parameters its own spectrum; `compile` uses compiled code for the Hessian's products.
            Compilation can take minutes and changes the last digits. The products are checked
            against the usual ones, which are used if compilation fails (see `evaluation`).

    Returns:
        The measures, over `block` if there are several.

    Raises:
        InputError: for unknown or contradictory options, and a loss that is not finite.

    >>> x, y = torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.zeros(2, 1)
    >>> problem = Problem(torch.nn.Linear(2, 1, bias=False), (x, y), loss="squared_error")
    >>> ggn = spectrum(problem, {"topk": 1}, operator="ggn")  # linear: the Hessian
    >>> round(float(ggn["eigenvalue"][0]), 4)
    9.0
    """
    if not isinstance(wanted, SpectrumOptions):
        for name in wanted:
            if name not in (allowed := [f.name for f in fields(SpectrumOptions)]):
                raise unknown("measure of a spectrum", name, allowed)
        wanted = SpectrumOptions(**wanted)
    known = {f.name for f in fields(CurvatureOptions)} - {"precision"}
    for name in curvature:
        if name not in known:
            raise unknown("option of a spectrum", name, known)
    chosen = CurvatureOptions(**curvature)
    chosen.check_beside(problem.attack, wanted)
    if chosen.operator == "input":
        raise unknown("operator", chosen.operator, OPERATORS.keys() - {"input"})
    operator, adversary = chosen.operator, chosen.adversary
    names = blocks_of(problem.origin, chosen.blocks)
    options, parts = chosen.keywords(problem), []
    with progress(None, "curvature", "example") as bar:
        frozen = frozen_at(problem, adversary, options["buffers"], bar.update)
        for parameters in names.values():
            matrix = operator_of(
                problem,
                frozen,
                operator,
                adversary,
                parameters,
                chosen.compile,
                tick=bar.update,
                **options,
            )
            part, vectors, _ = measure(matrix, wanted, problem.seed)
            if wanted.topk:
                columns = [matrix.embed(torch.from_numpy(v.copy())) for v in vectors.T]
                kind = matrix.dtype if matrix.dtype == torch.float64 else torch.float32
                rows = np.stack([flatten(v).cpu().to(kind).numpy() for v in columns])
                part["eigenvector"] = (("rank", "parameter"), rows, {"long_name": "unit vector"})
            parts.append(part)
    ds = parts[0]
    if len(parts) > 1:
        ds = xr.concat(
            parts, dim=xr.Variable("block", list(names)), data_vars="all", join="outer",
            combine_attrs="drop_conflicts",
        )  # fmt: skip
    recipe = {**problem.recipe(), **wanted.recipe(), **chosen.recipe()}
    return stamp(ds, "hessian", recipe, hessian=chosen.title(problem.attack is not None))


def eigenvectors(problem: Problem, pairs: xr.Dataset) -> list[Point]:
    """The eigenvectors of `top_eigenpairs` as directions in weight space, the first rank first.

    Raises InputError for a result without eigenvectors, of several blocks or of another network.

    >>> x, y = torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.zeros(2, 1)
    >>> problem = Problem(torch.nn.Linear(2, 1, bias=False), (x, y), loss="squared_error")
    >>> [vector] = eigenvectors(problem, top_eigenpairs(problem))
    >>> vector["weight"].abs().round(decimals=4).tolist()  # the second weight's axis
    [[0.0, 1.0]]
    """
    if "eigenvector" not in pairs:
        raise InputError("the result holds no eigenvectors; rl.top_eigenpairs(problem, k) does")
    if "block" in pairs["eigenvector"].dims:
        raise InputError("the result holds several blocks; choose one by pairs.sel(block=...)")
    rows = pairs["eigenvector"].transpose("rank", "parameter").values
    if rows.shape[1] != sum(t.numel() for t in problem.origin.values()):
        raise InputError("the eigenvectors are of another network")
    return [unflatten(torch.from_numpy(row).to(problem.device), problem.origin) for row in rows]
