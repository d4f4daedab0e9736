"""The line, plane or space that a scan is over, from options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr

from ridgeline.landscape.gradient import loss_gradient
from ridgeline.landscape.problem import Problem
from ridgeline.landscape.surfaces.axes import Axis, extent_of, parse_axis, spaced
from ridgeline.landscape.surfaces.planes import (
    along_trajectory,
    orthogonal,
    plane,
    positions,
    trajectory_plane,
)
from ridgeline.landscape.weights.directions import unit
from ridgeline.landscape.weights.drawn_directions import DirectionOptions
from ridgeline.landscape.weights.paths import Plane
from ridgeline.landscape.weights.point import Point, select, unflatten
from ridgeline.models import InputError
from ridgeline.run.shared import networks
from ridgeline.run.shared import options as o
from ridgeline.run.shared.directions import load_direction
from ridgeline.train.files.integrity import tensors_digest


class Chosen(NamedTuple):
    """A plane, what made each direction, what coordinate 1 means, and where networks lie in it."""

    plane: Plane
    sources: list[str]
    units: list[str]
    placed: xr.Dataset | None


def axes_given(texts: Sequence[str | None]) -> list[Axis]:
    """The axes of --vec1_scan and so on, as many as the plane has; InputError."""
    names = [f"--vec{n}_scan" for n in range(1, len(texts) + 1)]
    first, *rest = texts
    used = max((n for n, text in enumerate(texts) if text is not None), default=0)
    if any(text is None for text in rest[:used]):
        raise InputError(f"{names[used]} needs the axes before it: {', '.join(names[:used])}")
    axes = [parse_axis(first or "step=0.05", names[0])]
    axes += [parse_axis(t, n) for t, n in zip(texts[1 : used + 1], names[1:], strict=False)]
    for axis, name in zip(axes, names, strict=False):
        if axis.every != axes[0].every:
            raise InputError(f"{name}: adv_calc_freq must equal that of {names[0]}")
    return axes


def points_of(problem: Problem, chosen: Chosen, axes: Sequence[Axis], batchnorm: str) -> dict:
    """The coordinates of every axis by name; those of a rise are looked for."""
    found = {}
    for number, (name, axis) in enumerate(zip(chosen.plane.axes, axes, strict=True)):
        points = axis.points
        if points is None:
            reach = extent_of(problem, chosen.plane, number, axis.rise, batchnorm)
            points = spaced(-reach, reach, axis.count, name)
        found[name] = points
    return found


def chosen_plane(
    problem: Problem, sources: Sequence[str | None], options: DirectionOptions, seed: int
) -> Chosen:
    """The plane along given directions: random where None, `gradient`, or those of files."""
    directions, digests, units = [], [], []
    for number, source in enumerate(sources):
        if source is None:
            v, unit_of = options.draw(problem.origin, seed, number), options.unit
            digest = (f"{options.vec_sample_mode}, 1-D {options.vec_bias}, scale "
                      f"{options.vec_scale:g}, seed {seed}, {number}")  # fmt: skip
        elif source == "gradient":
            v, unit_of, digest = steepest(problem), "Euclidean", "gradient"
        else:
            v, digest = load_direction(source, problem.network, number)
            unit_of = "the other network" if source.startswith("between:") else "its own length"
        directions.append(v)
        digests.append(digest)
        units.append(unit_of)
    ends = [d for d, s in zip(directions, sources, strict=True) if (s or "").startswith("between:")]
    if options.orthogonal:
        directions = orthogonal(directions)
    found = plane(problem, *directions)
    placed = None
    if ends and (options.orthogonal or len(directions) == 1):
        others = [{n: problem.origin[n] + d[n] for n in d} for d in ends]
        placed = positions(found, [problem.origin, *others])
    return Chosen(found, digests, units, placed)


def steepest(problem: Problem) -> Point:
    """The direction of steepest ascent of the problem's loss, of Euclidean norm 1."""
    _, gradient = loss_gradient(problem.frozen())
    return unit(unflatten(gradient.to(problem.dtype), problem.origin))


def along_run(
    problem: Problem, names: Sequence[str], network: o.Network, dimensions: int
) -> Chosen:
    """The plane of a run's checkpoints, the problem's weights its origin."""
    points, digests, buffers = [], [], []
    for name in names:
        subject = networks.open_network(name, network)
        state = subject.network.state_dict()
        points.append(select(state, problem.origin, name))
        buffers.append(dict(subject.network.named_buffers()))
        digests.append(tensors_digest(points[-1]))
    found, placed = trajectory_plane(problem, points, dimensions)
    placed = along_trajectory(
        problem, found, placed, [*points, problem.origin], [*buffers, problem.buffers]
    )
    sources = [f"component {n} of {len(names)} checkpoints {'+'.join(d[:8] for d in digests)}"
               for n in range(1, dimensions + 1)]  # fmt: skip
    return Chosen(found, sources, ["Euclidean"] * dimensions, placed)


def around(placed: xr.Dataset, counts: Sequence[int], margin: float = 0.2) -> dict[str, np.ndarray]:
    """Axes that hold every checkpoint, and a margin of their range to both sides."""
    found = {}
    for number, (name, count) in enumerate(zip(placed["axis"].values, counts, strict=True)):
        here = placed["position"].values[:, number]
        wide = margin * max(here.max() - here.min(), 1e-12)
        found[str(name)] = spaced(here.min() - wide, here.max() + wide, count, str(name))
    return found
