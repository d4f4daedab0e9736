"""PyHessian as an independent check of eigenvalues and trace (`--estimator pyhessian`)."""

from __future__ import annotations

import contextlib
import io
import warnings

import numpy as np
import torch

from ridgeline.landscape.curvature.eigenpairs import Eigenpairs, product_of
from ridgeline.landscape.curvature.operators import Hessian
from ridgeline.landscape.curvature.trace import Estimate
from ridgeline.models.copying import copy_of
from ridgeline.models.errors import InputError
from ridgeline.train.data.noise import Purpose, number_of, seeded
from ridgeline.train.losses import loss_of
from ridgeline.train.statistics import mean_and_error


def _tool(operator: Hessian):
    """PyHessian on a copy of the operator's network and images."""
    from pyhessian import hessian

    inner = getattr(operator, "operator", operator)
    if not isinstance(inner, Hessian) or len(inner.active) != len(inner.origin):
        raise InputError(
            "--estimator pyhessian supports only the Hessian of all parameters on frozen images"
        )
    if inner.weight_decay or inner.device.type != "cpu":
        raise InputError("--estimator pyhessian supports only the CPU and no weight decay")
    network = copy_of(inner.problem.network).to(inner.dtype)
    network.load_state_dict({**inner.origin, **(inner.buffers or {})}, strict=False)
    network.requires_grad_(True)
    loader = [(b.x, b.y) for b in inner.problem.batches(inner.dtype)]
    if not isinstance(loader[0][0], torch.Tensor):
        raise InputError("--estimator pyhessian supports only networks with a single input tensor")
    loss = loss_of(inner.problem.loss)
    mean = lambda outputs, y: loss(outputs, y).mean()  # noqa: E731
    return hessian(network, mean, dataloader=loader, cuda=False)


@contextlib.contextmanager
def _quiet(seed: int):
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        seeded(number_of(seed, Purpose.PYHESSIAN)),
    ):
        warnings.simplefilter("ignore")
        yield


def pyhessian_eigenpairs(
    operator: Hessian, k: int, tol: float, max_iter: int, seed: int
) -> Eigenpairs:
    """PyHessian's power iteration with deflation; residuals are measured by our product."""
    with _quiet(seed):
        values, vectors = _tool(operator).eigenvalues(max_iter, tol, k)
    flat = [torch.cat([p.flatten() for p in v]).double().numpy() for v in vectors]
    order = np.argsort(-np.abs(values), kind="stable")
    values = np.array(values)[order]
    columns = np.stack([flat[i] / np.linalg.norm(flat[i]) for i in order], axis=1)
    rest = [
        np.linalg.norm(product_of(operator, v) - w * v)
        for w, v in zip(values, columns.T, strict=True)
    ]
    residuals = np.array(rest)
    converged = residuals <= tol * np.abs(values)
    reasons = np.where(converged, "converged", "power iteration stopped: use --estimator ridgeline")
    return Eigenpairs(values, columns, residuals, converged, reasons, operator.products)


def pyhessian_trace(operator: Hessian, products: int, seed: int) -> Estimate:
    """PyHessian's Hutchinson samples, `products` of them, without its stopping rule."""
    with _quiet(seed):
        samples = np.array(_tool(operator).trace(maxIter=products, tol=0.0))
    return Estimate(*mean_and_error(samples), len(samples), "hutchinson")
