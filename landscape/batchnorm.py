"""BatchNorm statistics at weights that training never had."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext

from torch import Tensor

from ridgeline.landscape.problem import Problem
from ridgeline.landscape.weights.paths import Path
from ridgeline.landscape.weights.point import Point
from ridgeline.models.errors import unknown
from ridgeline.train.parts import batchnorm_statistics
from ridgeline.train.workers import alone

#: keep: the statistics stored with the network;
#: recalibrate: those of the clean calibration images at the given weights
POLICIES = ("keep", "recalibrate")


def statistics_at(problem: Problem, point: Point, policy: str = "keep") -> Mapping[str, Tensor]:
    """The buffers to use at a Point under a policy. `problem` and its buffers do not change."""
    if policy not in POLICIES:
        raise unknown("batchnorm policy", policy, POLICIES)
    layers = [m for m in problem.network.modules() if batchnorm_statistics.tracks(m)]
    if policy == "keep" or not layers:
        return problem.buffers
    return recalibrated(problem, point)


def recalibrated(problem: Problem, point: Point) -> dict[str, Tensor]:
    """Exact moments of every BatchNorm input over the calibration images, with their buffers."""
    dtype = next(iter(point.values())).dtype
    return batchnorm_statistics.recalibrated(
        problem.network,
        problem.buffers,
        lambda buffers, x: problem.predict(point, buffers)(x),
        lambda: (b.x for b in problem.batches(dtype, problem.calibration)),
    )


def place_on(
    problem: Problem, path: Path, coordinates: Sequence[float], policy: str = "keep"
) -> tuple[Point, Mapping[str, Tensor]]:
    """The Point of a path at some coordinates, and the buffers to use there under a policy."""
    with alone() if problem.together and problem.device.type == "cpu" else nullcontext():
        point = {name: weight.detach() for name, weight in path(*coordinates).items()}
    return point, statistics_at(problem, point, policy)
