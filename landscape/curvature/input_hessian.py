"""Curvature of one example's loss in the space of images."""

from __future__ import annotations

import torch
from torch import Tensor

from ridgeline.landscape.curvature.derivative_check import trusted
from ridgeline.landscape.curvature.double_backward import Way
from ridgeline.landscape.curvature.operators import Products, finite
from ridgeline.landscape.problem import Problem
from ridgeline.train.losses import loss_of
from ridgeline.train.precision import exact


class InputHessian(Products):
    """The Hessian (D, D) of one example's loss by its D = C H W pixels, at fixed weights.

    `example` is its index in the problem's images. `trust` and InputErrors as for `Operator`.
    """

    def __init__(self, problem: Problem, example: int, buffers=None, tick=None):
        if problem.attack is not None:
            raise ValueError("the input Hessian needs a problem without attack: problem.frozen()")
        self.problem = problem
        one = problem.images.take(torch.tensor([example]))
        batch = next(one.batches(1, device=problem.device, dtype=problem.dtype))
        contiguous = Way(True, False), Way(False, False)
        self.trust = trusted(
            problem.on(one), problem.origin, [], contiguous, buffers=buffers, by_image=True
        )
        self.asymmetry, self.evaluation = self.trust.asymmetry, str(self.trust.way)
        self._x = self.trust.way.leaf(batch.x)
        self.shape, self.dtype = (self._x.numel(),) * 2, self._x.dtype
        self.device, self.products, self.tick = self._x.device, 0, tick
        with exact(), torch.enable_grad():
            logits = self.trust.way.logits(problem.predict(problem.origin, buffers), self._x)
            loss = loss_of(problem.loss)(logits, batch.y).sum()
            (self._gradient,) = torch.autograd.grad(loss, self._x, create_graph=True)
        self._loss = loss.item()

    def matvec(self, vector: Tensor) -> Tensor:
        """The product (D,) with a vector (D,)."""
        v = vector.to(self.device, self.dtype).view_as(self._x)
        self.products += 1
        if self.tick is not None:
            self.tick(1)
        if not self._gradient.requires_grad:
            return torch.zeros_like(v).flatten()
        with exact():
            (product,) = torch.autograd.grad(
                self._gradient, self._x, grad_outputs=v, retain_graph=True,
                allow_unused=True, materialize_grads=True,
            )  # fmt: skip
        return finite(product.flatten())

    def matmat(self, vectors: Tensor) -> Tensor:
        """The products (D, k) with vectors (D, k)."""
        return torch.stack([self.matvec(v) for v in vectors.T], dim=1)

    def loss(self) -> float:
        """The example's loss."""
        return self._loss
