"""What others compute the top eigenpairs of a Hessian with: each (problem, k) -> values, vectors.

Values (k,), unit vectors (P, k). All see the network, images and batches of the problem.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable

import numpy as np
import torch
from curvlinops import HessianLinearOperator
from hessian_eigenthings import HessianOperator, lanczos_tridiagonal, supervised_loss
from hessian_eigenthings import lanczos as eigenthings_lanczos
from pyhessian import hessian as pyhessian_hessian
from scipy.linalg import eigh_tridiagonal
from scipy.sparse.linalg import LinearOperator, eigsh
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.nn import functional as F

from ridgeline.landscape.problem import Problem

Pairs = tuple[np.ndarray, np.ndarray]
TOL = 1e-4


def pyhessian(problem: Problem, k: int) -> Pairs:
    """PyHessian's power iteration with its defaults: tol 1e-3, 100 iterations per pair."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        tool = pyhessian_hessian(
            trainable(problem), torch.nn.CrossEntropyLoss(), dataloader=loader(problem), cuda=False
        )
        values, vectors = tool.eigenvalues(top_n=k)
    flat = [torch.cat([p.flatten() for p in v]).double().numpy() for v in vectors]
    return np.array(values), np.stack([v / np.linalg.norm(v) for v in flat], axis=1)


def reference(problem: Problem, k: int, tol: float = 1e-3, max_iter: int = 50) -> Pairs:
    """Power iteration of the PAS code (Liu et al. 2020): deflated within every batch."""
    network, batches = trainable(problem), loader(problem)
    parameters = list(network.parameters())
    size = sum(p.numel() for p in parameters)
    generator = torch.Generator().manual_seed(0)
    values: list[float] = []
    vectors: list[Tensor] = []
    for _ in range(k):
        v = torch.randn(size, generator=generator)
        v /= v.norm() + 1e-6
        value = None
        for _ in range(max_iter):
            product = torch.zeros(size)
            for x, y in batches:
                loss = F.cross_entropy(network(x), y)
                grads = torch.autograd.grad(loss, parameters, create_graph=True)
                gradient = torch.cat([g.flatten() for g in grads])
                parts = torch.autograd.grad(gradient, parameters, grad_outputs=v)
                product += torch.cat([p.flatten() for p in parts])
                for known, u in zip(values, vectors, strict=True):
                    product -= known * (u @ v) * u
            new = (product @ v).item() / len(batches)
            v = product / (product.norm() + 1e-6)
            if value is not None and abs(new - value) < tol * abs(value):
                value = new
                break
            value = new
        values.append(value)
        vectors.append(v)
    return np.array(values), torch.stack(vectors, dim=1).double().numpy()


def curvlinops_product(problem: Problem) -> Callable[[np.ndarray], np.ndarray]:
    """One product of curvlinops' Hessian."""
    network = trainable(problem)
    operator = HessianLinearOperator(
        network, torch.nn.CrossEntropyLoss(), list(network.parameters()), loader(problem),
        check_deterministic=False,
    )  # fmt: skip
    return lambda v: (operator @ torch.from_numpy(v.ravel()).float()).double().numpy()


def curvlinops(problem: Problem, k: int) -> Pairs:
    """Curvlinops under scipy's eigsh, with our tolerance and BLAS threads."""
    size = sum(p.numel() for p in problem.origin.values())
    start = np.random.default_rng(0).standard_normal(size)
    linear = LinearOperator((size, size), matvec=curvlinops_product(problem), dtype=np.float64)
    with threadpool_limits(limits=1, user_api="blas"):
        return eigsh(linear, k=k, which="LA", tol=TOL, v0=start)


class Eigenthings:
    """hessian-eigenthings' Lanczos, reorthogonalised, with the fewest steps that reach TOL.

    It has no restarts and no stopping rule; the steps are found beforehand, untimed, from one long
    tridiagonalisation of at most `most` steps.
    """

    def __init__(self, problem: Problem, k: int, most: int):
        self.steps = most
        course = lanczos_tridiagonal(self._operator(problem), self._start(problem), most)
        diagonal, beside = course.alphas.double().numpy(), course.betas.double().numpy()
        for steps in range(k + 1, most):
            values, vectors = eigh_tridiagonal(diagonal[:steps], beside[: steps - 1])
            rest = np.abs(beside[steps - 1] * vectors[-1, -k:]) / np.abs(values[-k:])
            if rest.max() <= TOL:
                self.steps = steps
                break

    def __call__(self, problem: Problem, k: int) -> Pairs:
        """The k largest pairs."""
        found = eigenthings_lanczos(
            self._operator(problem), k=k, max_iter=self.steps, tol=TOL, reorthogonalize=True,
            which="LA", seed=0,
        )  # fmt: skip
        return found.eigenvalues.double().numpy(), found.eigenvectors.T.double().numpy()

    @staticmethod
    def _operator(problem: Problem) -> HessianOperator:
        loss = supervised_loss(torch.nn.CrossEntropyLoss())
        return HessianOperator(trainable(problem), loader(problem), loss)

    @staticmethod
    def _start(problem: Problem) -> Tensor:
        size = sum(p.numel() for p in problem.origin.values())
        return torch.randn(size, generator=torch.Generator().manual_seed(0))


def loader(problem: Problem) -> list[tuple[Tensor, Tensor]]:
    """The batches as a data loader gives them."""
    return [(b.x, b.y) for b in problem.batches()]


def trainable(problem: Problem) -> torch.nn.Module:
    """The network as the others want it: parameters that require gradients."""
    return problem.network.requires_grad_(True)
