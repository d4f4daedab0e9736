"""The Hessian of the true adversarial loss: the maximising images move with the weights."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ridgeline.landscape.curvature.inner_maximum import Faces, columns, dots, faces, refine
from ridgeline.landscape.curvature.operators import Operator
from ridgeline.landscape.distributed import all_sum
from ridgeline.landscape.problem import Problem
from ridgeline.landscape.weights.point import Point
from ridgeline.models.errors import InputError
from ridgeline.train.attacks.norms import INF, row_norm
from ridgeline.train.data.examples import Batch
from ridgeline.train.data.noise import Purpose, stream

_SETTLED = 0.1  # largest relative gradient along an l_2 ball at which a maximum counts as found
_FEELS = 1e-4  # a free pixel with this share of the largest gradient counts as at a kink


class _Graph(NamedTuple):
    gradient: Tensor  # by the parameters (P,)
    by_image: Tensor  # by the images (B, C, H, W)
    x: Tensor
    faces: Faces
    regular: Tensor  # (B,) bool: the maximum is settled and strict


class TotalHessian(Operator):
    """Second derivative of (1/N) sum max_delta l(theta, x + delta), delta in the attack's ball.

    The implicit function theorem at the maximiser gives
    H = H_tt - H_tx T (T (H_xx - mu) T)^-1 T H_xt. T is the projection on the free directions:
    pixels on a face of the ball or of [0,1] stay there. mu is the multiplier of an l_2 ball. For
    l_inf this is the Hessian almost everywhere. Conjugate gradients solve the systems, for all
    examples at once.

    ReLU and max pooling often put maxima on kinks. There no derivative exists, and a part of the
    gradient never vanishes.

    - l_inf: pixels at a kink are held fixed.
    - l_2: the example counts as settled if that part is below a tenth of the gradient.
    - Examples that are not settled, or whose maximum is not strict, keep their image fixed.

    `share_regular` is the share of the other examples. `stationarity` is the mean over examples
    of the remaining gradient relative to the whole. Both say how reliable the number is.
    `inner_maxima` is the result of `refined` at this point, if it is known already. Raises
    InputError for another loss than cross_entropy.
    """

    by_image = True

    def __init__(
        self,
        problem: Problem,
        point: Point | None = None,
        *,
        inner_maxima: Problem | None = None,
        **options,
    ):
        attack = problem.attack
        if attack is None or attack.eps == 0:
            raise InputError("the total Hessian needs an attack with a positive threshold")
        if problem.loss != "cross_entropy":
            raise InputError("the total Hessian needs the loss cross_entropy")
        self._clean = problem.images
        self._eps, self._order = attack.eps, attack.order
        clean_of = {int(i): n for n, i in enumerate(problem.images.index)}
        moved = inner_maxima or refined(problem, point, options.get("buffers"))
        self._position = clean_of
        self._regular: dict[int, bool] = {}
        self._rest: dict[int, float] = {}
        super().__init__(moved, point, **options)
        self._as_memory_allows(self._judge_rest)
        sums = [float(sum(self._regular.values())), sum(self._rest.values())]
        shares = all_sum(torch.tensor(sums, dtype=self.dtype, device=self.device)) / self.examples
        self.share_regular, self.stationarity = shares.tolist()

    def _judge_rest(self) -> None:
        """Record the batches whose graphs are not kept, to count their regular examples."""
        for batch in self._batches[len(self._kept) :]:
            self._record(batch)

    def _record(self, batch: Batch) -> _Graph:
        x = batch.x.detach().clone().requires_grad_()
        loss = self._loss(self._logits(x), batch.y).sum()
        own = list(self.active.values())
        *by_weights, by_image = torch.autograd.grad(
            loss, [*own, x], create_graph=True, allow_unused=True, materialize_grads=True
        )
        gradient = torch.cat([g.flatten() for g in by_weights])
        rows = torch.tensor([self._position[int(i)] for i in batch.index])
        clean = next(self._clean.take(rows).batches(len(rows), device=x.device, dtype=x.dtype)).x
        where = faces(clean, x.detach(), by_image.detach(), self._eps, self._order)
        if self._order == INF:  # free pixels with a gradient are at a kink: they stay fixed
            feels = by_image.detach().abs() > _FEELS * columns(row_norm(by_image.detach(), INF))
            where = where._replace(free=where.free * ~feels)
            settled = torch.ones_like(where.multiplier, dtype=torch.bool)
        else:
            settled = where.stationarity < _SETTLED
        graph = _Graph(gradient, by_image, x, where, settled)
        own = [stream(0, Purpose.STRICTNESS, int(i)) for i in batch.index]
        noise = [draw.standard_normal(x[0].numel()) for draw in own]
        probe = torch.stack([torch.from_numpy(n) for n in noise]).to(x).view_as(x)
        _, strict = self._solve(graph, self._curvature(graph, where.tangent(probe)))
        regular = settled & strict
        places = batch.index.tolist()
        self._regular |= dict(zip(places, regular.tolist(), strict=True))
        self._rest |= dict(zip(places, where.stationarity.tolist(), strict=True))
        return graph._replace(regular=regular)

    def _product(self, graph: _Graph, vector: Tensor) -> Tensor:
        own = list(self.active.values())
        *parts, mixed = torch.autograd.grad(
            graph.gradient, [*own, graph.x], grad_outputs=vector, retain_graph=True,
            allow_unused=True, materialize_grads=True,
        )  # fmt: skip
        product = torch.cat([part.flatten() for part in parts])
        pull = graph.faces.tangent(mixed) * columns(graph.regular)
        if not pull.any():
            return product
        moves, _ = self._solve(graph, pull)
        return product + self._derivative(graph.by_image, grad_outputs=moves, retain_graph=True)

    def _curvature(self, graph: _Graph, u: Tensor) -> Tensor:
        """T (mu - H_xx) T u: positive definite at a strict maximum."""
        if not graph.by_image.requires_grad:
            return columns(graph.faces.multiplier) * u
        (hu,) = torch.autograd.grad(
            graph.by_image, graph.x, grad_outputs=u, retain_graph=True,
            allow_unused=True, materialize_grads=True,
        )  # fmt: skip
        return graph.faces.tangent(columns(graph.faces.multiplier) * u - hu)

    def _solve(self, graph: _Graph, right: Tensor, iterations: int = 100) -> tuple[Tensor, Tensor]:
        """Conjugate gradients on `_curvature`, and (B,) whether all its curvatures were positive.

        For a piecewise linear network the rank of H_xx is below the number of classes. So that
        many iterations suffice.
        """
        solution, rest, direction = torch.zeros_like(right), right, right
        square = dots(rest, rest)
        enough = square * (100 * torch.finfo(right.dtype).eps) ** 2
        strict = torch.ones_like(square, dtype=torch.bool)
        for _ in range(iterations):
            going = (square > enough) & strict
            if not going.any():
                break
            image = self._curvature(graph, direction)
            bend = dots(direction, image)
            strict &= ~going | (bend > 0)
            going = going & strict
            length = torch.where(going, square / torch.where(going, bend, 1), 0)
            solution = solution + columns(length) * direction
            rest = rest - columns(length) * image
            new = torch.where(going, dots(rest, rest), square)
            turn = torch.where(going, new / torch.where(square > 0, square, 1), 0)
            direction = rest + columns(turn) * direction
            square = new
        return solution, strict


def refined(
    problem: Problem, point: Point | None = None, buffers=None, iterations: int = 60
) -> Problem:
    """The problem without attack, on the attack's images refined to the nearest maximum."""
    attack = problem.attack
    frozen = problem.frozen(point, buffers)
    predict = problem.predict(problem.origin if point is None else point, buffers)
    found = []
    dtype = problem.dtype
    for clean, start in zip(problem.batches(dtype), frozen.batches(dtype), strict=True):
        options = {"eps": attack.eps, "order": attack.order, "iterations": iterations}
        found.append(refine(predict, clean.x, clean.y, start.x, **options).cpu())
    return frozen.on(replace(frozen.images, pixels=torch.cat(found)))
