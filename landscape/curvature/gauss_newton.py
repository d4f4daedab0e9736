"""Gauss-Newton and Fisher operators: J^T B J with the network's Jacobian J and a small B."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ridgeline.landscape.curvature.operators import Operator
from ridgeline.landscape.problem import Problem
from ridgeline.landscape.weights.point import Point
from ridgeline.models.errors import InputError, unknown
from ridgeline.train.data.examples import Batch
from ridgeline.train.data.noise import Purpose, stream
from ridgeline.train.losses import cross_entropy, sample_labels

#: name -> the matrix B between the two Jacobians
CURVATURES = {
    "ggn": "second derivative of the loss by the outputs (= Fisher for cross-entropy)",
    "empirical": "outer product of the loss gradients at the true labels",
    "mc": "outer products at labels drawn from the network's own predictions",
}


class _Graph(NamedTuple):
    outputs: Tensor  # (B, ...), graph to the parameters
    pullback: Tensor  # J^T u (P,), linear in u
    u: Tensor
    inner: Tensor | None  # gradient of the loss by `at`, differentiable: B of the Gauss-Newton
    at: Tensor
    residuals: Tensor | None  # (S, B, ...): B = mean over S of r r^T


class GaussNewton(Operator):
    """J^T B J / N with B named in CURVATURES. Positive semi-definite: no curvature of the network.

    Args:
        problem: A problem without attack.
        point: The weights; None: the problem's.
        curvature: A name in CURVATURES: ggn, empirical or mc.
        samples: Labels that mc draws per example, keyed by `problem.seed` and the example.
        **options: As for `Hessian`.

    Raises:
        InputError: for an unknown curvature, and for mc under another loss than cross_entropy.
        ValueError: for a problem with an attack.

    References:
        Schraudolph 2002 (Gauss-Newton); Kunstner et al. 2019 (empirical against Monte-Carlo
        Fisher).

    >>> x, y = torch.eye(2), torch.zeros(2, 1)
    >>> problem = Problem(torch.nn.Linear(2, 1, bias=False), (x, y), loss="squared_error")
    >>> (GaussNewton(problem) @ torch.tensor([1.0, 2.0])).tolist()  # (w1^2 + w2^2) / 2
    [1.0, 2.0]
    """

    curved = False

    def __init__(
        self,
        problem: Problem,
        point: Point | None = None,
        *,
        curvature: str = "ggn",
        samples: int = 1,
        **options,
    ):
        if problem.attack is not None:
            raise ValueError("Gauss-Newton needs a problem without attack: use problem.frozen()")
        if curvature not in CURVATURES:
            raise unknown("curvature", curvature, CURVATURES)
        if curvature == "mc" and problem.loss != "cross_entropy":
            raise InputError("the Monte-Carlo Fisher needs the loss cross_entropy")
        if samples < 1:
            raise InputError(f"samples must be at least 1, got {samples}")
        self.curvature, self.samples = curvature, samples
        super().__init__(problem, point, **options)

    def _record(self, batch: Batch) -> _Graph:
        outputs = self._logits(batch.x)
        u = torch.zeros_like(outputs, requires_grad=True)
        pullback = self._derivative(outputs, grad_outputs=u, create_graph=True)
        at = outputs.detach().requires_grad_()
        if self.curvature == "ggn":
            loss = self._loss(at, batch.y).sum()
            (inner,) = torch.autograd.grad(loss, at, create_graph=True)
            return _Graph(outputs, pullback, u, inner, at, None)
        labels = [batch.y] if self.curvature == "empirical" else self._drawn(outputs, batch)
        loss = self._loss if self.curvature == "empirical" else cross_entropy
        residuals = [torch.autograd.grad(loss(at, y).sum(), at)[0] for y in labels]
        return _Graph(outputs, pullback, u, None, at, torch.stack(residuals))

    def _product(self, graph: _Graph, vector: Tensor) -> Tensor:
        (pushed,) = torch.autograd.grad(  # J v: the derivative of u -> <J^T u, v>
            graph.pullback, graph.u, grad_outputs=vector, retain_graph=True
        )
        if graph.residuals is None:
            (middle,) = torch.autograd.grad(
                graph.inner, graph.at, grad_outputs=pushed, retain_graph=True
            )
        else:
            r = graph.residuals
            along = (r * pushed).reshape(*r.shape[:2], -1).sum(-1)
            middle = (r * along.view(*along.shape, *(1,) * (r.ndim - 2))).mean(0)
        return self._derivative(graph.outputs, grad_outputs=middle, retain_graph=True)

    def _drawn(self, outputs: Tensor, batch: Batch) -> list[Tensor]:
        """Labels per sample, each a function of the seed and the example alone."""
        seed = self.problem.seed
        own = [stream(seed, Purpose.FISHER_LABELS, i) for i in batch.index.tolist()]
        uniform = torch.from_numpy(np.stack([draw.random(self.samples) for draw in own]))
        return [sample_labels(outputs.detach(), u.to(outputs.device)) for u in uniform.unbind(1)]
