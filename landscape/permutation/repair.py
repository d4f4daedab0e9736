"""REPAIR: the statistics of hidden units of an interpolated network (Jordan et al. 2023).

Between two networks the variance of hidden units is too small, most of all in deep layers. REPAIR
sets the mean and standard deviation of each unit to the interpolation of those at the two ends. It
does so by a factor and a shift in the layer's own weight and bias. Recalibrated BatchNorm
statistics have the same effect (`landscape/batchnorm.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ridgeline.landscape.problem import Problem
from ridgeline.landscape.weights.point import Point
from ridgeline.models.errors import InputError
from ridgeline.train.data.examples import map_tensors
from ridgeline.train.parts.batchnorm_statistics import tracks
from ridgeline.train.statistics import merged_moments


class Layers(NamedTuple):
    """Layers that REPAIR corrects, in the order they run, and why it skips others."""

    corrected: list[str]
    left: dict[str, str]


class Moments(NamedTuple):
    """Mean and standard deviation (channels,) of a layer's output over examples and places."""

    mean: Tensor
    std: Tensor


def repaired(problem: Problem, point: Point, ends: Sequence[Point], t: float) -> Point:
    """A Point between two ends with the statistics of its hidden units corrected.

    The mean and standard deviation of every output channel of a layer become (1 - t) times those
    at ends[0] plus t times those at ends[1]. They are measured over the problem's calibration data.
    Layers are corrected in the order they run: each one is measured with the earlier corrections
    in place. Each needs one pass over the data. Not changed are the last layer, the layers that
    `repairable` skips, and the factor of a constant unit. At t = 0 and 1 the ends are returned bit
    for bit.

    Args:
        problem: The problem, whose calibration data are used.
        point: The weights at t on the line from ends[0] to ends[1].
        ends: Two Points.
        t: Position between the ends, 0..1.

    Returns:
        The corrected weights.

    Raises:
        InputError: for t outside 0..1, for a network with BatchNorm statistics (recalibrate them
            instead), and for a network without a layer to correct.

    References:
        Jordan et al. 2023 (REPAIR).

    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> problem = Problem(network, (torch.rand(6, 1, 2, 2), torch.arange(6) % 2))
    >>> end = problem.origin
    >>> corrected = repaired(problem, end, [end, end], 0.5)  # nothing to correct
    >>> all(torch.allclose(t, end[name], atol=1e-5) for name, t in corrected.items())
    True
    """
    if not 0 <= t <= 1:
        raise InputError(f"t must lie in 0..1, got {t:g}")
    if len(ends) != 2:
        raise InputError(f"a path has 2 ends, got {len(ends)}")
    names = repairable(problem).corrected
    if not names:
        raise InputError(
            f"{type(problem.network).__name__} has no hidden layer that REPAIR could correct: it "
            "needs linear layers or convolutions with a bias, each used once"
        )
    first, second = (_moments(problem, end, names) for end in ends)
    point = dict(point)
    for name in names:
        here = _moments(problem, point, [name])[name]
        mean, std = ((1 - t) * a + t * b for a, b in zip(first[name], second[name], strict=True))
        rounding = torch.finfo(point[f"{name}.bias"].dtype).eps * here.mean.abs()
        alive = here.std > 8 * rounding
        factor = torch.where(alive, std / torch.where(alive, here.std, 1), 1)
        weight, bias = point[f"{name}.weight"], point[f"{name}.bias"]
        shape = [1] * weight.ndim
        shape[_outputs(problem.network.get_submodule(name))] = -1
        point[f"{name}.weight"] = (weight.double() * factor.view(shape)).to(weight)
        point[f"{name}.bias"] = (bias.double() * factor + (mean - factor * here.mean)).to(bias)
    return point


def repairable(problem: Problem) -> Layers:
    """Which layers of a problem's network REPAIR corrects, and why it skips others.

    Raises InputError for a network with BatchNorm statistics.
    """
    network = problem.network
    if any(tracks(m) for m in network.modules()):
        raise InputError(
            f"{type(network).__name__} has BatchNorm: recalibrate its statistics along the path "
            "(batchnorm='recalibrate'); REPAIR is for networks without"
        )
    layers = {n: m for n, m in network.named_modules() if _has_matrix(m)}
    calls: list[str] = []
    with _watched(network, layers, lambda name, _: calls.append(name)), torch.no_grad():
        problem.predict(problem.origin)(_one(problem))
    last = calls[-1] if calls else None
    left = {}
    for name, module in layers.items():
        why = _why_not(module, name, problem.origin, calls.count(name))
        if why and name != last:
            left[name] = why
    order = [n for n in dict.fromkeys(calls) if n not in left and n != last]
    return Layers(order, left)


def _why_not(module: nn.Module, name: str, point: Point, calls: int) -> str:
    """Why a layer cannot be corrected; "" if it can."""
    if not isinstance(module, nn.Linear | _ConvNd):
        return f"{type(module).__name__} is no linear layer and no convolution"
    if f"{name}.weight" not in point:
        return "its weight is computed, or another layer's"
    if f"{name}.bias" not in point:
        return "it has no bias"
    if _outputs(module) == 1 and module.groups > 1:
        return "it is a transposed convolution in groups"
    return "" if calls == 1 else f"it runs {calls} times in a pass"


def _has_matrix(module: nn.Module) -> bool:
    """Whether a module itself has a parameter of two or more axes."""
    return any(p.ndim > 1 for p in module.parameters(recurse=False))


def _outputs(module: nn.Module) -> int:
    """The axis of a layer's weight that runs over its outputs."""
    return int(getattr(module, "transposed", False))


def _one(problem: Problem) -> object:
    """The first example."""
    return map_tensors(lambda x: x[:1], next(problem.batches()).x)


class _Reached(Exception):
    """The last watched layer has run: the rest of the forward pass is not needed."""


def _moments(problem: Problem, point: Point, names: Sequence[str]) -> dict[str, Moments]:
    """Moments of the layers' outputs over the calibration data, merged in float64."""
    seen: dict[str, list[tuple[int, Tensor, Tensor]]] = {name: [] for name in names}
    layers = {name: problem.network.get_submodule(name) for name in names}

    def look(name: str, out: Tensor) -> None:
        axis = out.ndim - 1 if isinstance(layers[name], nn.Linear) else 1
        rows = out.detach().double().movedim(axis, 0).flatten(1)
        variance, mean = torch.var_mean(rows, 1, correction=0)
        seen[name].append((rows.shape[1], mean, variance))
        if name == names[-1]:
            raise _Reached

    dtype = next(iter(point.values())).dtype
    predict = problem.predict(point)
    with _watched(problem.network, layers, look), torch.no_grad():
        for batch in problem.batches(dtype, problem.calibration):
            try:
                predict(batch.x)
            except _Reached:
                continue
    found = {name: merged_moments(parts) for name, parts in seen.items()}
    return {name: Moments(mean, variance.sqrt()) for name, (mean, variance) in found.items()}


@contextmanager
def _watched(network: nn.Module, layers: Mapping[str, nn.Module], look) -> Iterator[None]:
    """Call look(name, output) whenever one of the layers has run."""
    hooks = [
        module.register_forward_hook(lambda _m, _i, out, name=name: look(name, out))
        for name, module in layers.items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
