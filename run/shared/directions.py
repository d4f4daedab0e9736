"""Directions from files: a saved direction, an eigenvector of a result, another checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from torch import nn

from ridgeline.landscape.result import load_result, recipe_of
from ridgeline.landscape.weights.directions import between, random_direction, unit
from ridgeline.landscape.weights.point import Point, add, norm, point_of, select
from ridgeline.models import InputError
from ridgeline.run.shared import options as o
from ridgeline.train.files.checkpoint import load_checkpoint, stored_recipe
from ridgeline.train.files.recipe import difference
from ridgeline.train.options import Opt, Options


def load_direction(source: str, network: nn.Module, eigenvector: int) -> tuple[Point, str]:
    """The direction named on the command line, for a network's weights, and its file's digest.

    `FILE.nc` is a Hessian result: the direction is eigenvector number `eigenvector`.
    `between:FILE.ckpt` is the direction from the network to that checkpoint. Any other file is a
    saved direction.
    """
    name = source.removeprefix("between:")
    path = Path(name)
    if path.suffix == ".nc":
        path = eigenvector_file(path, eigenvector)
    checkpoint, origin = load_checkpoint(path), point_of(network)
    if source.startswith("between:"):  # a network; its file may use other names
        point = between(origin, select(checkpoint.fit(network).state, origin, str(path)))
    else:
        recipe = checkpoint.recipe or {}
        if recipe and recipe.get("kind") != "direction":
            raise InputError(f"{source} is a network, not a direction: write between:{source}")
        point = select(checkpoint.tensors, origin, str(path))
    if norm(point) == 0:
        raise InputError(f"{source} is a direction of length 0: the weights would not move")
    return point, f"{'between:' * source.startswith('between:')}{checkpoint.sha256}"


def eigenvector_file(result: Path, number: int) -> Path:
    """The file of an eigenvector of a Hessian result, written by the same computation.

    Raises InputError if the result has no such eigenvector or has several spectra, and if the file
    is missing or belongs to another computation.
    """
    ds = load_result(result, kind="hessian")
    spectra = ds.sizes.get("eps", 1) * ds.sizes.get("block", 1)
    if spectra > 1:
        files = sorted(p.name for p in result.parent.glob(f"{result.stem}_eps*_vec{number}.ckpt"))
        raise InputError(
            f"{result} holds {spectra} spectra: name the file of the eigenvector you mean instead"
            + (f", e.g. {files[0]}" if files else "")
        )
    count = ds.sizes.get("rank", 0)
    if number >= count:
        raise InputError(f"{result} holds {count} eigenvectors, from 0: there is no {number}")
    path = result.with_name(f"{result.stem}_vec{number}.ckpt")
    if not path.is_file():
        raise InputError(f"{result} has no eigenvector {number} beside it ({path.name})")
    stored = stored_recipe(path) or {}
    wanted = {**recipe_of(ds), "kind": "direction", "number": number}
    changed = difference({key: stored.get(key) for key in wanted}, wanted)
    if changed:
        raise InputError(
            f"{path} is not of the computation that made {result.name} ({changed}); "
            "compute the eigenvectors again"
        )
    return path


@dataclass(frozen=True)
class StepOptions(Options):
    """A step along one direction."""

    vec2load: o.Direction = None
    eigenvec_idx: Annotated[int, Opt("eigenvector to take from a Hessian result", low=0)] = 0
    vec_scale: Annotated[float, Opt("step s along the direction")] = 1.0

    def check(self) -> None:
        """Raise InputError for a step of 0, and for an eigenvector number without a Hessian."""
        if self.vec_scale == 0:
            raise InputError("--vec_scale 0 moves nothing; name another step")
        if self.eigenvec_idx and not (self.vec2load or "").endswith(".nc"):
            raise InputError("--eigenvec_idx picks one of a Hessian result: --vec2load FILE.nc")

    def direction(self, network: nn.Module, seed: int) -> tuple[Point, str]:
        """The direction at a network's weights, and its source. A random one has norm 1."""
        if self.vec2load is not None:
            return load_direction(self.vec2load, network, self.eigenvec_idx)
        drawn = unit(random_direction(point_of(network), seed, "none"))
        return drawn, f"gaussian, norm 1, seed {seed}"

    def taken(self, origin: Point, direction: Point) -> Point:
        """The weights after the step. Raises InputError if a number overflows."""
        moved = add(origin, direction, self.vec_scale)
        if not all(t.isfinite().all() for t in moved.values()):
            raise InputError(
                f"--vec_scale {self.vec_scale:g} moves the weights out of their number range"
            )
        return moved
