"""What BatchNorm's statistics are at a place where the network was never trained."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from landscape.point import Point
from landscape.problem import Problem
from models.errors import unknown
from train import batchnorm

#: keep: the statistics stored with the network;
#: recalibrate: those of the clean calibration images at the place in question
POLICIES = ("keep", "recalibrate")


def statistics_at(problem: Problem, point: Point, policy: str = "keep") -> Mapping[str, Tensor]:
    """The buffers to use at a Point under a policy; `problem` and its buffers stay as they are."""
    if policy not in POLICIES:
        raise unknown("batchnorm policy", policy, POLICIES)
    layers = [m for m in problem.network.modules() if batchnorm.tracks(m)]
    if policy == "keep" or not layers:
        return problem.buffers
    return recalibrated(problem, point)


def recalibrated(problem: Problem, point: Point) -> dict[str, Tensor]:
    """Exact moments of every BatchNorm input over the calibration images, with their buffers."""
    dtype = next(iter(point.values())).dtype
    return batchnorm.recalibrated(
        problem.network,
        problem.buffers,
        lambda buffers, x: problem.predict(point, buffers)(x),
        lambda: (b.x for b in problem.batches(dtype, problem.calibration)),
    )
