"""The gradient of a Problem's loss on given images."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ridgeline.landscape.problem import Problem
from ridgeline.landscape.weights.point import Point
from ridgeline.train.losses import loss_of
from ridgeline.train.precision import exact


def loss_gradient(
    problem: Problem,
    point: Point | None = None,
    buffers: Mapping[str, Tensor] | None = None,
    images: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Losses (N,) of the examples at a Point, and the gradient (P,) of their mean.

    Both are in float64 on the CPU. The gradient is in the order of `flatten`, 0 for parameters that
    the loss does not depend on. `images` (N, C, H, W) replace the problem's images, in the same
    order. On the images that an attack found at the Point, this is the gradient of the adversarial
    loss (Danskin's theorem). The problem's attack is not run. `batch_size` changes only rounding.

    >>> network = torch.nn.Linear(1, 1, bias=False)
    >>> problem = Problem(network, (torch.ones(1, 1), torch.zeros(1, 1)), loss="squared_error")
    >>> losses, gradient = loss_gradient(problem, {"weight": torch.tensor([[3.0]])})  # of w^2
    >>> losses.tolist(), gradient.tolist()
    ([9.0], [6.0])
    """
    point = problem.origin if point is None else point
    leaves = {n: t.detach().to(problem.device).requires_grad_() for n, t in point.items()}
    predict, loss = problem.predict(leaves, buffers), loss_of(problem.loss)
    first = next(iter(leaves.values()))
    size = sum(t.numel() for t in leaves.values())
    total = torch.zeros(size, dtype=torch.float64, device=first.device)
    losses, start = [], 0
    for batch in problem.batches(first.dtype):
        end = start + len(batch.y)
        x = batch.x if images is None else images[start:end].to(batch.x)
        with torch.enable_grad(), exact():
            each = loss(predict(x), batch.y)
            parts = torch.autograd.grad(
                each.sum(), list(leaves.values()), allow_unused=True, materialize_grads=True
            )
        total += torch.cat([part.flatten() for part in parts]).double()
        losses.append(each.detach().double().cpu())
        start = end
    return torch.cat(losses), (total / start).cpu()
