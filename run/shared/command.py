"""What every command that writes a result does: claim, compute, stamp, save."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import xarray as xr

from ridgeline.landscape.distributed import leader
from ridgeline.landscape.problem import Problem
from ridgeline.landscape.result import claim, complete, save_result, stamp
from ridgeline.landscape.resume import Keep, resumable
from ridgeline.landscape.weights.point import Point
from ridgeline.train.files.checkpoint import claim_checkpoint, save_checkpoint
from ridgeline.train.files.recipe import Recipe
from ridgeline.train.progress import progress

Name = TypeVar("Name")
Tick = Callable[[int], Any]
Save = Callable[[xr.Dataset], None]
#: compute(keep, tick): the result, its finished parts remembered by `keep`
Compute = Callable[[Keep, Tick], xr.Dataset]
#: complete(cells, save): the grid, of which `cells` are there already, saved now and then
Complete = Callable[[xr.Dataset | None, Save], xr.Dataset]


def computed(
    kind: str,
    path: Path | None,
    recipe: Recipe,
    compute: Compute,
    *,
    overwrite: bool = False,
    total: int | None = 0,
    begin: Callable[[], None] = lambda: None,
    saved: Callable[[], None] = lambda: None,
    title: str | None = None,
    **notes: str,
) -> xr.Dataset:
    """The result of a recipe: what its path already holds, or computed, stamped and saved.

    `total` examples make a progress bar called `title`, None one without an end. `begin` is called
    before anything is computed, `saved` once the result is on disk. Without a path nothing is
    kept. Raises InputError, before anything is computed, if something else stands at the path.
    Under torchrun one process writes.
    """
    found = None if path is None else claim(path, recipe, overwrite)
    if found is not None:
        return found
    begin()
    with resumable(path, recipe) as keep:
        with progress(total, title or kind, "image", quiet=total == 0 or not leader()) as bar:
            ds = stamp(compute(keep, bar.update), kind, recipe, **notes)
        if path is not None and leader():
            save_result(ds, path)
            saved()
    return ds


def completed(
    kind: str, path: Path, recipe: Recipe, complete_: Complete, *, overwrite: bool = False,
    **notes: str,
) -> xr.Dataset:  # fmt: skip
    """The grid of a recipe: as its path holds it, or with the cells that are left computed.

    What is there is saved now and then, so that a command that was cut off can go on. Raises
    InputError, before anything is computed, if something else stands at the path.
    """
    cells = claim(path, recipe, overwrite)
    if cells is not None and complete(cells):
        return cells
    return complete_(cells, lambda ds: save_result(stamp(ds, kind, recipe, **notes), path))


def resumed(problems: Mapping[Name, Problem], keep: Keep) -> dict[Name, Problem]:
    """The problems by name, their finished parts remembered by `keep`."""
    return {name: problem.resuming(keep) for name, problem in problems.items()}


@contextmanager
def written(points: Sequence[tuple[Path, Point, Recipe]], overwrite: bool) -> Iterator[None]:
    """Write points as checkpoints after the block, which runs once all their files are claimed.

    Raises InputError, before the block, if something else stands in the place of one.
    """
    for path, _, recipe in points:
        claim_checkpoint(path, recipe, overwrite)
    yield
    for path, point, recipe in points:
        save_checkpoint(path, point, recipe)
