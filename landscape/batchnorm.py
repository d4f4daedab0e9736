"""What BatchNorm's statistics are at a place where the network was never trained."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from landscape.point import Point
from landscape.problem import Problem
from models.errors import unknown

#: keep: the statistics stored with the network;
#: recalibrate: those of the clean calibration images at the place in question
POLICIES = ("keep", "recalibrate")


def statistics_at(problem: Problem, point: Point, policy: str = "keep") -> Mapping[str, Tensor]:
    """The buffers to use at a Point under a policy; `problem` and its buffers stay as they are."""
    if policy not in POLICIES:
        raise unknown("batchnorm policy", policy, POLICIES)
    layers = [n for n, m in problem.network.named_modules() if tracks(m)]
    if policy == "keep" or not layers:
        return problem.buffers
    return recalibrated(problem, point)


def tracks(module: nn.Module) -> bool:
    """Whether a module is a BatchNorm layer with running statistics."""
    return isinstance(module, _BatchNorm) and module.track_running_stats


class _Reached(Exception):
    """The layer whose input is wanted has seen it: the rest of the pass is not needed."""


def recalibrated(problem: Problem, point: Point) -> dict[str, Tensor]:
    """Exact mean and (biased) variance of every BatchNorm input over the calibration images.

    Layer by layer in the order of execution: each pass uses the final statistics of all layers
    before. The result is that of one train-mode pass over all images as a single batch, whatever
    the physical batch size, including the variance of means between batches.
    """
    buffers = {k: b.clone() for k, b in problem.buffers.items()}
    for name in _order_of_execution(problem, point):
        mean, variance = _moments(problem, point, buffers, name)
        buffers[f"{name}.running_mean"] = mean.to(buffers[f"{name}.running_mean"])
        buffers[f"{name}.running_var"] = variance.to(buffers[f"{name}.running_var"])
    return buffers


def _order_of_execution(problem: Problem, point: Point) -> list[str]:
    order: list[str] = []
    hooks = [
        module.register_forward_pre_hook(lambda _m, _i, name=name: order.append(name))
        for name, module in problem.network.named_modules()
        if tracks(module)
    ]
    try:
        batch = next(problem.batches(next(iter(point.values())).dtype))
        with torch.no_grad():
            problem.predict(point)(batch.x[:1])
    finally:
        for hook in hooks:
            hook.remove()
    return list(dict.fromkeys(order))


def _moments(
    problem: Problem, point: Point, buffers: Mapping[str, Tensor], name: str
) -> tuple[Tensor, Tensor]:
    """Per-channel mean and variance of one layer's input, merged over batches in float64."""
    seen: list[tuple[int, Tensor, Tensor]] = []

    def look(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].double().transpose(0, 1).flatten(1)
        seen.append((x.shape[1], x.mean(1), x.var(1, unbiased=False)))
        raise _Reached

    hook = problem.network.get_submodule(name).register_forward_pre_hook(look)
    predict = problem.predict(point, buffers)
    try:
        dtype = next(iter(point.values())).dtype
        for batch in problem.batches(dtype, problem.calibration):
            with torch.no_grad():
                try:
                    predict(batch.x)
                except _Reached:
                    continue
    finally:
        hook.remove()
    counts = torch.tensor([n for n, _, _ in seen], dtype=torch.float64)
    shares = (counts / counts.sum())[:, None].to(seen[0][1].device)
    means = torch.stack([m for _, m, _ in seen])
    variances = torch.stack([v for _, _, v in seen])
    mean = (shares * means).sum(0)
    return mean, (shares * (variances + (means - mean).square())).sum(0)
