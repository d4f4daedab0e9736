"""Operators: shape, dtype, device, matvec, matmat. Algorithms use only these."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

import torch
from torch import Tensor

from ridgeline.landscape.curvature.derivative_check import trusted
from ridgeline.landscape.curvature.double_backward import ways
from ridgeline.landscape.curvature.memory import free_bytes, held_by_graphs, short_memory
from ridgeline.landscape.distributed import all_count, all_sum
from ridgeline.landscape.problem import Problem
from ridgeline.landscape.weights.point import Point, unflatten
from ridgeline.models.errors import InputError
from ridgeline.train.data.examples import Batch
from ridgeline.train.losses import loss_of
from ridgeline.train.precision import exact

Tick = Callable[[int], None]
Made = TypeVar("Made")
_WORK = 3  # memory of one product beside the kept graphs, in graphs of its batch (measured)
_USABLE = 0.95  # share of a memory budget that is used; the allocator's gaps need the rest


class Products(ABC):
    """A symmetric matrix (P, P) known by its products: shape, dtype, device, matvec, matmat, @."""

    shape: tuple[int, int]
    dtype: torch.dtype
    device: torch.device
    products: int

    @abstractmethod
    def matmat(self, vectors: Tensor) -> Tensor:
        """The products (P, k) with vectors (P, k)."""

    def matvec(self, vector: Tensor) -> Tensor:
        """The product (P,) with a vector (P,)."""
        return self.matmat(vector[:, None])[:, 0]

    def __matmul__(self, vectors: Tensor) -> Tensor:
        return self.matvec(vectors) if vectors.ndim == 1 else self.matmat(vectors)


class Operator(Products):
    """Curvature of a problem: products are means over its examples.

    `parameters`: the tensors of the point to differentiate by (None: all), flattened in order.
    `memory`: bytes (None: half of the device's free memory). First-order graphs that fit beside
        the work of a product are kept; the others are recorded for every product, in smaller
        batches if needed. The product does not depend on memory or batch size.
    `buffers`: replace the problem's (BatchNorm statistics).
    `weight_decay`: adds (weight_decay / 2) ||theta||^2 to the loss.
    `tick(n)`: called with the number of examples of every finished batch.
    `trust`: the chosen way of evaluation and its errors (derivative_check.py).
    Under torchrun every process has its own images and gets the product over all. Raises
    InputError if no way of evaluation is right, if the graph of one example does not fit, or if a
    product is not finite.
    """

    curved = True  # includes the network's own curvature (False: only its Jacobian)
    by_image = False  # differentiates by the images too
    keeps = True  # products differentiate graphs, which can be kept

    def __init__(
        self,
        problem: Problem,
        point: Point | None = None,
        *,
        parameters: list[str] | None = None,
        memory: int | None = None,
        buffers: Mapping[str, Tensor] | None = None,
        weight_decay: float = 0.0,
        tick: Tick | None = None,
    ):
        origin = {n: t.detach() for n, t in (point or problem.origin).items()}
        names = list(origin) if parameters is None else parameters
        self.problem, self.buffers, self.tick = problem, buffers, tick
        self.weight_decay, self.origin = weight_decay, origin
        offered = ways(origin[names[0]].device)
        self.trust = trusted(
            problem, origin, names, offered,
            buffers=buffers, by_image=self.by_image, curved=self.curved,
        )  # fmt: skip
        self.asymmetry, self._way = self.trust.asymmetry, self.trust.way
        self.evaluation = str(self._way) if self.keeps else "compiled, forward over reverse"
        self.active: Point = {n: self._way.leaf(origin[n]) for n in names}
        first = next(iter(self.active.values()))
        size = sum(t.numel() for t in self.active.values())
        self.shape, self.dtype, self.device = (size, size), first.dtype, first.device
        self.products = 0
        self.examples = all_count(len(problem.data))
        self._predict = problem.predict({**origin, **self.active}, buffers)
        self._loss = loss_of(problem.loss)
        self._kept: list[Any] = []
        self._batches: list[Batch] = []
        with exact():
            self._keep_graphs(free_bytes(self.device) // 2 if memory is None else memory)

    def matmat(self, vectors: Tensor) -> Tensor:
        """The products (P, k) with vectors (P, k); a graph that is not kept is recorded once."""
        v = vectors.to(self.device, self.dtype)

        def summed() -> Tensor:
            total = torch.zeros(v.shape[1], v.shape[0], dtype=self.dtype, device=self.device)
            for number, batch in enumerate(self._batches):
                graph = self._graph(number, batch)
                for column in range(v.shape[1]):
                    total[column] += self._product(graph, v[:, column])
                del graph  # before the next is recorded
                self._progress(batch)
            return total

        with exact():
            total = self._as_memory_allows(summed)
        self.products += v.shape[1]
        return finite(all_sum(total)).T / self.examples + self.weight_decay * v

    @property
    def graphs_kept(self) -> str:
        """How many batches keep their graph, as "4 of 10"."""
        return f"{len(self._kept)} of {len(self._batches)}"

    def loss(self) -> float:
        """The loss at the point, the weight-decay term included."""
        losses = self.problem.evaluate(self.origin, self.buffers).losses
        decay = sum(t.double().square().sum().item() for t in self.active.values())
        total = all_sum(losses.sum().to(self.device)).item()
        return total / self.examples + 0.5 * self.weight_decay * decay

    def embed(self, vector: Tensor) -> Point:
        """A vector (P,) as a direction over all parameters, zero outside `parameters`."""
        part = unflatten(vector.to(self.device, self.dtype), self.active)
        return {n: part.get(n, torch.zeros_like(t)).detach() for n, t in self.origin.items()}

    @abstractmethod
    def _record(self, batch: Batch) -> Any:
        """The graph of a batch, which all products differentiate."""

    @abstractmethod
    def _product(self, graph: Any, vector: Tensor) -> Tensor:
        """The product (P,) summed over the batch."""

    def _logits(self, x: Tensor) -> Tensor:
        """The network's outputs, with a graph that can be differentiated twice."""
        return self._way.logits(self._predict, x)

    def _derivative(self, output: Tensor, **options) -> Tensor:
        """Derivative of an output by all parameters as one vector (0 for those it does not use)."""
        if not output.requires_grad:
            return torch.zeros(self.shape[0], dtype=self.dtype, device=self.device)
        options = {"allow_unused": True, "materialize_grads": True, **options}
        parts = torch.autograd.grad(output, list(self.active.values()), **options)
        return torch.cat([part.flatten() for part in parts])

    def _graph(self, number: int, batch: Batch) -> Any:
        return self._kept[number] if number < len(self._kept) else self._record(batch)

    def _as_memory_allows(self, compute: Callable[[], Made]) -> Made:
        """The result of `compute`. When memory runs out it starts again with less.

        First the kept graphs are dropped, then the batches are halved.
        """
        while True:
            # suppressed, since its traceback would keep the memory in use
            with suppress(torch.OutOfMemoryError), short_memory():
                return compute()
            if self._kept:
                self._kept.clear()
            elif self._rows > 1:
                self._cut(self._rows // 2)
            else:
                said = f"{self.device} has no memory for one example's second derivatives"
                raise InputError(said)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()  # its blocks have the wrong sizes for the next try

    def _cut(self, rows: int) -> None:
        """Divide the examples into batches of `rows`."""
        self._rows, data = rows, self.problem.data
        self._batches = list(data.batches(rows, device=self.device, dtype=self.dtype))

    def _progress(self, batch: Batch) -> None:
        if self.tick is not None:
            self.tick(len(batch.y))

    def _keep_graphs(self, memory: int) -> None:
        """Choose the size of the batches, and keep graphs while there is room."""
        own = [*self.origin.values(), *self.active.values(), *self.problem.buffers.values()]
        data = self.problem.data
        few = data.batch(torch.arange(min(4, len(data))), self.device, self.dtype)
        with held_by_graphs(own) as held:
            graph = self._record(few)
        each = max(1, sum(held.values()) // len(few.y))
        del graph
        numbers = sum(t.numel() for t in data.tensors()[:-2])  # without targets and indices
        room = int(_USABLE * memory) - (2 * self.shape[0] + numbers) * self.dtype.itemsize
        rows = room // (_WORK * each)
        if rows < 1:
            raise InputError(
                f"a memory of {memory / 2**30:.3g} GiB is too small: "
                f"one example needs {(memory - room + _WORK * each) / _USABLE / 2**30:.3g} GiB"
            )
        half = max(1, rows // 2)  # half of the memory for products, half for kept graphs
        rows = min(self.problem.batch_size, half)
        self._cut(rows)
        room -= _WORK * each * rows
        for batch in self._batches if self.keeps else ():
            size = each * len(batch.y) + self.shape[0] * self.dtype.itemsize
            if size > room:
                return
            graph = None
            with suppress(torch.OutOfMemoryError), short_memory(), held_by_graphs(own) as held:
                graph = self._record(batch)
            if graph is None:  # less memory than planned, and products need some too
                self._kept.clear()
                return
            self._kept.append(graph)
            room -= sum(held.values()) + self.shape[0] * self.dtype.itemsize
            self._progress(batch)


class Hessian(Operator):
    """The Hessian of the loss on fixed images, by exact products; see also `TotalHessian`.

    Args:
        problem: A problem without attack; `Problem.frozen` fixes adversarial images first.
        point: The weights; None: the problem's.
        **options: `parameters` (names; None: all), `memory` in bytes, `buffers`, `weight_decay`,
            and `tick`, called with the number of examples seen.

    Raises:
        ValueError: for a problem with an attack.

    >>> x, y = torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.zeros(2, 1)
    >>> problem = Problem(torch.nn.Linear(2, 1, bias=False), (x, y), loss="squared_error")
    >>> (Hessian(problem) @ torch.ones(2)).tolist()  # diag(1, 9)
    [1.0, 9.0]
    """

    def __init__(self, problem: Problem, point: Point | None = None, **options):
        if problem.attack is not None:
            raise ValueError("the Hessian needs a problem without attack: use problem.frozen()")
        super().__init__(problem, point, **options)

    def gradient(self) -> Point:
        """Gradient of the loss at the point, by parameter."""

        def summed() -> Tensor:
            total = torch.zeros(self.shape[0], dtype=self.dtype, device=self.device)
            for number, batch in enumerate(self._batches):
                total += self._graph(number, batch).detach()
            return total

        total = self._as_memory_allows(summed)
        theta = torch.cat([t.detach().flatten() for t in self.active.values()])
        mean = all_sum(total) / self.examples + self.weight_decay * theta
        return unflatten(mean, self.active)

    def _record(self, batch: Batch) -> Tensor:
        """Gradient (P,) of the batch's summed loss, with its graph."""
        loss = self._loss(self._logits(batch.x), batch.y).sum()
        return self._derivative(loss, create_graph=True)

    def _product(self, graph: Tensor, vector: Tensor) -> Tensor:
        return self._derivative(graph, grad_outputs=vector, retain_graph=True)


class Matrix(Products):
    """A symmetric matrix (P, P) with the interface of an operator, for tests."""

    def __init__(self, matrix: Tensor):
        self.matrix, self.products = matrix, 0
        self.shape, self.dtype, self.device = matrix.shape, matrix.dtype, matrix.device

    def matmat(self, vectors: Tensor) -> Tensor:
        """The products (P, k) with vectors (P, k)."""
        self.products += vectors.shape[1]
        return finite(self.matrix @ vectors.to(self.device, self.dtype))


def dense(operator: Products) -> Tensor:
    """The operator as a matrix (P, P), column by column: for small problems only."""
    eye = torch.eye(operator.shape[0], dtype=operator.dtype, device=operator.device)
    return operator.matmat(eye)


def finite(product: Tensor) -> Tensor:
    """The product itself; InputError if it holds NaN or infinity."""
    if not product.isfinite().all():
        raise InputError(
            "a product of the curvature is not finite: weights, images or the loss are NaN or "
            "infinite there, or too large for this precision (--precision float64)"
        )
    return product
