"""Directions from files: a saved direction, an eigenvector of a result, another checkpoint."""

from __future__ import annotations

from pathlib import Path

from landscape.directions import between
from landscape.point import Point, select
from landscape.result import load_result
from models import InputError
from train.checkpoint import load_checkpoint


def load_direction(source: str, origin: Point, eigenvector: int) -> tuple[Point, str]:
    """The direction named on the command line and the digest of its file.

    `FILE.nc` is a Hessian result, of which eigenvector number `eigenvector` is taken;
    `between:FILE.ckpt` leads from the origin to that checkpoint; any other file is used as it is.
    """
    name = source.removeprefix("between:")
    path = Path(name)
    if path.suffix == ".nc":
        load_result(path, kind="hessian")
        path = path.with_name(f"{path.stem}_vec{eigenvector}.ckpt")
        if not path.is_file():
            raise InputError(f"{name} has no eigenvector {eigenvector} beside it ({path.name})")
    checkpoint = load_checkpoint(path)
    point = select(checkpoint.tensors, origin, str(path))
    if source.startswith("between:"):
        point = between(origin, point)
    return point, f"{'between:' * source.startswith('between:')}{checkpoint.sha256}"
