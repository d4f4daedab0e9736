"""Operators on weight space: shape, dtype, device, matvec. Algorithms know only that."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from landscape.point import Point, unflatten
from landscape.problem import Problem


class Hessian:
    """The Hessian of a problem's loss at a Point, for the images as they stand.

    Products are exact (double backward), summed over examples and divided by their number: batch
    size never changes them. The problem must have no attack; `Problem.frozen` fixes adversarial
    images first. First-order graphs of as many batches as fit into `memory` bytes are kept and
    differentiated again per product; the rest is recomputed. `buffers` replace the problem's
    (BatchNorm statistics). `tick(n)` is called with the examples of every batch done.
    """

    def __init__(
        self,
        problem: Problem,
        point: Point | None = None,
        memory: int = 2**30,
        buffers: Mapping[str, Tensor] | None = None,
        tick: Callable[[int], None] | None = None,
    ):
        if problem.attack is not None:
            raise ValueError("the Hessian needs a problem without attack: use problem.frozen()")
        origin = problem.origin if point is None else point
        self.problem, self.buffers, self.tick = problem, buffers, tick
        self.point: Point = {n: t.detach().clone().requires_grad_() for n, t in origin.items()}
        first = next(iter(self.point.values()))
        size = sum(t.numel() for t in self.point.values())
        self.shape, self.dtype, self.device = (size, size), first.dtype, first.device
        self.products = 0
        self._kept: list[Tensor] = []
        self._batches = list(problem.batches(self.dtype))
        self._predict = problem.predict(self.point, buffers)
        self._keep_graphs(memory)

    def matvec(self, vector: Tensor) -> Tensor:
        """H v for a vector (P,) in the order of the Point."""
        v = vector.to(self.device, self.dtype)
        total = torch.zeros_like(v)
        for number in range(len(self._batches)):
            kept = number < len(self._kept)
            gradient = self._kept[number] if kept else self._gradient(number)
            if gradient.requires_grad:  # a loss linear in the weights has no second derivative
                total += self._derivative(gradient, grad_outputs=v, retain_graph=kept)
            self._progress(number)
        self.products += 1
        return total / len(self.problem.images)

    def loss(self) -> float:
        """The loss whose second derivative this is, at the Point."""
        point = {n: t.detach() for n, t in self.point.items()}
        return self.problem.scores(point, self.buffers).loss

    def gradient(self) -> Point:
        """Gradient of the loss at the Point."""
        total = torch.zeros(self.shape[0], dtype=self.dtype, device=self.device)
        for number in range(len(self._batches)):
            total += self._gradient(number).detach()
        point = {n: t.detach() for n, t in self.point.items()}
        return unflatten(total / len(self.problem.images), point)

    def _gradient(self, number: int) -> Tensor:
        """Gradient (P,) of a batch's summed loss, with its graph."""
        batch = self._batches[number]
        loss = F.cross_entropy(self._predict(batch.x), batch.y, reduction="sum")
        return self._derivative(loss, create_graph=True)

    def _derivative(self, output: Tensor, **options) -> Tensor:
        """Derivative (P,) of an output by the Point; zero where a parameter plays no part."""
        parts = torch.autograd.grad(
            output, list(self.point.values()), allow_unused=True, materialize_grads=True, **options
        )
        return torch.cat([part.flatten() for part in parts])

    def _progress(self, number: int) -> None:
        if self.tick is not None:
            self.tick(len(self._batches[number].y))

    def _keep_graphs(self, memory: int) -> None:
        """Keep first-order graphs while the tensors they hold stay within `memory` bytes."""
        held: dict[int, int] = {}

        def count(tensor: Tensor) -> Tensor:
            held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor.detach()  # the tensor itself would make a cycle that is never freed

        for number in range(len(self._batches)):
            with torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
                gradient = self._gradient(number)
            self._progress(number)
            if sum(held.values()) + gradient.nbytes > memory:
                return
            self._kept.append(gradient)
            memory -= gradient.nbytes


def dense(operator: Hessian) -> Tensor:
    """The operator as a matrix (P, P), column by column: for small problems only."""
    eye = torch.eye(operator.shape[0], dtype=operator.dtype, device=operator.device)
    return torch.stack([operator.matvec(column) for column in eye], dim=1)
