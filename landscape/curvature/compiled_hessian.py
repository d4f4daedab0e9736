"""The Hessian's products by compiled code, forward over reverse."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from ridgeline.landscape.curvature.memory import short_memory
from ridgeline.landscape.curvature.operators import Hessian, Operator
from ridgeline.landscape.problem import Problem
from ridgeline.landscape.weights.point import Point, unflatten
from ridgeline.models.copying import copy_of
from ridgeline.train.data.examples import Batch, arguments_of, map_tensors
from ridgeline.train.data.noise import Purpose, stream
from ridgeline.train.precision import exact

_FLOOR = 0.1  # a tensor's part of a product counts as at least this share of the whole


class CompiledHessian(Operator):
    """The matrix of `Hessian`; each product is one compiled function of (weights, x, y, v).

    Graphs of double backward cannot be compiled. The derivative of the gradient along v (forward
    over reverse) can. No graph is kept: every product evaluates the network again. All batches
    have the size for which the function is compiled. Examples of weight 0 fill up the last one.
    Create it by `of`, which checks the products first.
    """

    keeps = False

    def __init__(self, problem: Problem, point: Point | None = None, **options):
        if problem.attack is not None:
            raise ValueError("the Hessian needs a problem without attack: use problem.frozen()")
        super().__init__(problem, point, **options)
        self._function = _compiled(problem.network, self._loss)
        buffers = problem.buffers if self.buffers is None else self.buffers
        rest = {n: t for n, t in self.origin.items() if n not in self.active}
        self._fixed = {n: t.to(self.device, self.dtype) if t.is_floating_point() else t
                       for n, t in {**buffers, **rest}.items()}  # fmt: skip
        self._weights = {n: t.detach().contiguous() for n, t in self.active.items()}

    @classmethod
    def of(cls, problem: Problem, point: Point | None = None, **options) -> Operator:
        """The compiled operator, or `Hessian` where compilation fails or gives a wrong product.

        There may be no compiler, or the compiler may not support the network. Compiled code has
        also been wrong without an error. So one product on the first batch is compared, tensor by
        tensor, with that of `Hessian`. They must agree up to rounding (the square root of the
        precision). `evaluation` says which operator it is.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                with short_memory():
                    found = cls(problem, point, **options)
                    right = found._agrees()
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # of many kinds, some of the compiler's own
                said = type(error).__name__
            else:
                if right:
                    return found
                said = "its products are not right"
        usual = Hessian(problem, point, **options)
        usual.evaluation = f"{usual.evaluation}; not compiled: {said}"
        return usual

    def _record(self, batch: Batch) -> Tensor:
        """Gradient (P,) of the batch's summed loss with its graph, to estimate the memory."""
        loss = self._loss(self._logits(batch.x), batch.y).sum()
        return self._derivative(loss, create_graph=True)

    def _graph(self, number: int, batch: Batch) -> Batch:
        return batch

    def _product(self, graph: Batch, vector: Tensor) -> Tensor:
        count = len(graph.y)
        places = torch.arange(max(count, self._rows), device=self.device).remainder(count)
        share = (torch.arange(len(places), device=self.device) < count).to(self.dtype)
        whole = len(places) == count
        x, y = (graph.x, graph.y) if whole else (
            map_tensors(lambda t: t[places], graph.x), graph.y[places])  # fmt: skip
        positional, named = arguments_of(x)
        tangent = unflatten(vector.contiguous(), self.active)
        with sdpa_kernel(SDPBackend.MATH), torch.no_grad():
            parts = self._function(self._weights, self._fixed, positional, named, y, share, tangent)
        return torch.cat([parts[n].flatten() for n in self.active])

    def _agrees(self) -> bool:
        """Whether the product with a random vector equals that of `Hessian` on the first batch."""
        batch = self._batches[0]
        noise = stream(0, Purpose.SYMMETRY, self.shape[0]).standard_normal(self.shape[0])
        vector = torch.from_numpy(noise).to(self.device, self.dtype)
        with exact():
            usual = self._derivative(self._record(batch), grad_outputs=vector)
            ours = self._product(batch, vector)
        near = torch.finfo(self.dtype).eps ** 0.5
        least = _FLOOR * usual.norm()
        sizes = [t.numel() for t in self.active.values()]
        pairs = zip(ours.split(sizes), usual.split(sizes), strict=True)
        return all(bool((a - b).norm() <= near * torch.maximum(b.norm(), least)) for a, b in pairs)


def _compiled(network: torch.nn.Module, loss: Callable) -> Callable[..., Point]:
    """The function of (weights, other tensors, arguments, targets, shares, tangent)."""
    network = copy_of(network).requires_grad_(False)

    def product(
        weights: Point, fixed: Point, positional: tuple, named: dict[str, Any], y: Tensor,
        share: Tensor, tangent: Point,
    ) -> Point:  # fmt: skip
        def total(own: Point) -> Tensor:
            losses = loss(functional_call(network, {**fixed, **own}, positional, named), y)
            return (losses * share).sum()

        return jvp(grad(total), (weights,), (tangent,))[1]

    return torch.compile(product, fullgraph=True, dynamic=False)
