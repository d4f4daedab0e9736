"""Directions from files: a saved direction, an eigenvector of a result, another checkpoint."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from ridgeline.landscape.result import load_result, recipe_of
from ridgeline.landscape.weights.directions import between
from ridgeline.landscape.weights.point import Point, norm, point_of, select
from ridgeline.models import InputError
from ridgeline.train.files.checkpoint import load_checkpoint, stored_recipe
from ridgeline.train.files.recipe import difference


def load_direction(source: str, network: nn.Module, eigenvector: int) -> tuple[Point, str]:
    """The direction at a network's weights named on the command line, and its file's digest.

    `FILE.nc` is a Hessian result, of which eigenvector number `eigenvector` is taken;
    `between:FILE.ckpt` leads from the origin to that checkpoint; any other file is used as it is.
    """
    name = source.removeprefix("between:")
    path = Path(name)
    if path.suffix == ".nc":
        path = eigenvector_file(path, eigenvector)
    checkpoint, origin = load_checkpoint(path), point_of(network)
    if source.startswith("between:"):  # a network, under whatever names its file has
        point = between(origin, select(checkpoint.fit(network).state, origin, str(path)))
    else:
        point = select(checkpoint.tensors, origin, str(path))
    if norm(point) == 0:
        raise InputError(f"{source} is a direction of length 0: nothing moves along it")
    return point, f"{'between:' * source.startswith('between:')}{checkpoint.sha256}"


def eigenvector_file(result: Path, number: int) -> Path:
    """The file of an eigenvector of a Hessian result, made by the computation that made the result.

    Raises InputError if the result has no such eigenvector or holds several spectra, and if the
    file beside it is missing or belongs to another computation.
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
