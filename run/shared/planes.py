"""The line, plane or space that a scan is over, from options."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path as FilePath
from typing import Annotated, Any

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
from ridgeline.landscape.surfaces.shards import Shard
from ridgeline.landscape.weights.directions import unit
from ridgeline.landscape.weights.drawn_directions import DirectionOptions
from ridgeline.landscape.weights.paths import Plane
from ridgeline.landscape.weights.point import Point, add, select, unflatten
from ridgeline.models import InputError
from ridgeline.run.shared import networks
from ridgeline.run.shared import options as o
from ridgeline.run.shared.directions import load_direction
from ridgeline.train.exchange import leader
from ridgeline.train.files.integrity import tensors_digest
from ridgeline.train.files.recipe import Recipe
from ridgeline.train.options import Options

Axes = Annotated[
    str | None, "-1:1:21, min=-1,max=1,step=0.05 or rise=10,count=21; with adv_calc_freq=1"
]
Next = Annotated[str | None, "the next axis, as --vec1_scan; None: no such axis"]
Run = Annotated[tuple[str, ...], "checkpoints of a run: scan the plane in which they vary most"]


@dataclass(frozen=True)
class Chosen:
    """A plane before it is computed: sources of its directions, units, and axes for the recipe.

    `find` needs passes of the network. It returns the plane, the positions of networks in it, and
    the coordinates of every axis by name. It is called once, when the plane is first used.
    """

    sources: list[str]
    units: list[str]
    axes: dict[str, Any]
    find: Callable[[], tuple[Plane, xr.Dataset | None, dict[str, np.ndarray]]]

    @cached_property
    def _found(self) -> tuple[Plane, xr.Dataset | None, dict[str, np.ndarray]]:
        return self.find()

    @property
    def plane(self) -> Plane:
        """The plane."""
        return self._found[0]

    @property
    def placed(self) -> xr.Dataset | None:
        """The positions of networks in the plane; None if unknown."""
        return self._found[1]

    @property
    def points(self) -> dict[str, np.ndarray]:
        """The coordinates of every axis by name."""
        return self._found[2]

    def files(
        self, stem: FilePath, recipe: Recipe, part: Shard | None
    ) -> list[tuple[FilePath, Point, Recipe]]:
        """The files of all directions, with their recipes. Only the first part writes them."""
        if not leader() or (part is not None and part.number > 1):
            return []
        return [
            (stem.with_name(f"{stem.name}_vec{n}.ckpt"), v,
             {**recipe, "kind": "direction", "axis": f"v{n}"})
            for n, v in enumerate(self.plane.knots[1:], start=1)
        ]  # fmt: skip

    def described(self, cells: xr.Dataset) -> xr.Dataset:
        """A scan over this plane, with the units of its coordinates and the networks' positions."""
        for name, unit_of in zip(self.plane.axes, self.units, strict=True):
            cells[name].attrs["coordinate_1"] = unit_of
        return cells if self.placed is None else cells.merge(self.placed, combine_attrs="override")


@dataclass(frozen=True)
class PlaneOptions(Options):
    """The line, plane or space through the weights, and its resolution."""

    vec1_scan: Axes = None
    vec2_scan: Next = None
    vec3_scan: Next = None
    load_vec1: o.Direction = None
    load_vec2: o.Direction = None
    load_vec3: o.Direction = None
    trajectory: Run = ()

    def check(self) -> None:
        """Raise InputError for wrong axes and for directions without an axis."""
        given = any(getattr(self, f"vec{n}_scan") is not None for n in (1, 2, 3))
        if self.trajectory and (given or any(self.sources)):
            raise InputError(
                "--trajectory chooses directions and axes: leave --vec and --load_vec out"
            )
        for number in range(len(self.axes) + 1, 4):
            if self.sources[number - 1] is not None:
                raise InputError(f"--load_vec{number} needs its axis: name --vec{number}_scan")

    def check_beside(self, drawn: DirectionOptions) -> None:
        """Raise InputError for options of directions that this plane does not have."""
        if self.trajectory or None not in self.sources[: len(self.axes)]:
            unused = ["vec_sample_mode", "vec_bias", "vec_scale"]
            drawn.refuse(unused, "where no direction is drawn")
        if self.trajectory or len(self.axes) == 1:
            drawn.refuse(["orthogonal"], "without a second direction")

    @cached_property
    def axes(self) -> list[Axis]:
        """The axes, as many as the plane has."""
        return axes_given([self.vec1_scan, self.vec2_scan, self.vec3_scan])

    @property
    def sources(self) -> list[str | None]:
        """The source of each of three directions; None: random."""
        return [self.load_vec1, self.load_vec2, self.load_vec3]

    @property
    def every(self) -> int:
        """The number of cells along an axis that share an anchor."""
        return self.axes[0].every

    def chosen(
        self, problem: Problem, network: o.Network, drawn: DirectionOptions, batchnorm: str
    ) -> Chosen:
        """The plane, before any pass of the network. Raises InputError."""
        self.check_beside(drawn)
        if self.trajectory:
            return along_run(problem, self.trajectory, network, 2)
        return chosen_plane(problem, self, drawn, batchnorm)


def axes_given(texts: Sequence[str | None]) -> list[Axis]:
    """The axes of --vec1_scan and so on, as many as the plane has. Raises InputError."""
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


def points_of(problem: Problem, found_in: Plane, axes: Sequence[Axis], batchnorm: str) -> dict:
    """The coordinates of every axis by name. Those of a rise are searched."""
    found = {}
    for number, (name, axis) in enumerate(zip(found_in.axes, axes, strict=True)):
        points = axis.points
        if points is None:
            reach = extent_of(problem, found_in, number, axis.rise, batchnorm)
            points = spaced(-reach, reach, axis.count, name)
        found[name] = points
    return found


def chosen_plane(
    problem: Problem, space: PlaneOptions, options: DirectionOptions, batchnorm: str
) -> Chosen:
    """The plane along given directions: random (None), `gradient`, or from files."""
    sources, seed = space.sources[: len(space.axes)], problem.seed
    directions, digests, units = [], [], []
    for number, source in enumerate(sources):
        if source is None:
            v, unit_of = options.draw(problem.origin, seed, number), options.unit
            digest = (f"{options.vec_sample_mode}, 1-D {options.vec_bias}, scale "
                      f"{options.vec_scale:g}, seed {seed}, {number}")  # fmt: skip
        elif source == "gradient":
            v, unit_of, digest = None, "Euclidean", "gradient"
        else:
            v, digest = load_direction(source, problem.network, number)
            unit_of = "the other network" if source.startswith("between:") else "its own length"
        directions.append(v)
        digests.append(digest)
        units.append(unit_of)

    def through(along: Sequence[Point]) -> tuple[Plane, xr.Dataset | None]:
        ends = [d for d, s in zip(along, sources, strict=True) if (s or "").startswith("between:")]
        found = plane(problem, *(orthogonal(along) if options.orthogonal else along))
        placed = None
        if ends and (options.orthogonal or len(along) == 1):
            placed = positions(found, [problem.origin, *(add(problem.origin, d) for d in ends)])
        return found, placed

    # errors that need no pass of the network are raised at once
    ready = None if any(d is None for d in directions) else through(directions)

    def find() -> tuple[Plane, xr.Dataset | None, dict[str, np.ndarray]]:
        along = [steepest(problem) if d is None else d for d in directions]
        found, placed = ready or through(along)
        return found, placed, points_of(problem, found, space.axes, batchnorm)

    names = Plane([problem.origin] * (1 + len(sources))).axes
    axes = {name: axis.recorded for name, axis in zip(names, space.axes, strict=True)}
    return Chosen(digests, units, axes, find)


def steepest(problem: Problem) -> Point:
    """The direction of steepest ascent of the problem's loss, of Euclidean norm 1."""
    _, gradient = loss_gradient(problem.frozen())
    return unit(unflatten(gradient.to(problem.dtype), problem.origin))


def along_run(
    problem: Problem, names: Sequence[str], network: o.Network, dimensions: int
) -> Chosen:
    """The plane of a run's checkpoints; the problem's weights are its origin."""
    points, digests, buffers = [], [], []
    for name in names:
        subject = networks.open_network(name, network)
        state = subject.network.state_dict()
        points.append(select(state, problem.origin, name))
        buffers.append(dict(subject.network.named_buffers()))
        digests.append(tensors_digest(points[-1]))
    found, placed = trajectory_plane(problem, points, dimensions)
    axes = around(placed, [21] * dimensions)

    def find() -> tuple[Plane, xr.Dataset, dict[str, np.ndarray]]:
        losses = along_trajectory(
            problem, found, placed, [*points, problem.origin], [*buffers, problem.buffers]
        )
        return found, losses, axes

    sources = [f"component {n} of {len(names)} checkpoints {'+'.join(d[:8] for d in digests)}"
               for n in range(1, dimensions + 1)]  # fmt: skip
    recorded = {name: list(points) for name, points in axes.items()}
    return Chosen(sources, ["Euclidean"] * dimensions, recorded, find)


def around(placed: xr.Dataset, counts: Sequence[int], margin: float = 0.2) -> dict[str, np.ndarray]:
    """Axes that include every checkpoint, with a margin (share of the range) on both sides."""
    found = {}
    for number, (name, count) in enumerate(zip(placed["axis"].values, counts, strict=True)):
        here = placed["position"].values[:, number]
        wide = margin * max(here.max() - here.min(), 1e-12)
        found[str(name)] = spaced(here.min() - wide, here.max() + wide, count, str(name))
    return found
