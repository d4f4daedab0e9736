"""The common steps of commands that write a result: lock, compute, add the recipe, save."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import xarray as xr

from ridgeline.landscape.problem import Problem
from ridgeline.landscape.result import claim, complete, load_result, save_result, stamp
from ridgeline.landscape.resume import Keep, left, resumable
from ridgeline.landscape.surfaces.shards import merged
from ridgeline.landscape.weights.point import Point
from ridgeline.models.errors import InputError
from ridgeline.train.exchange import leader, meet, processes
from ridgeline.train.files.checkpoint import claim_checkpoint, save_checkpoint
from ridgeline.train.files.locks import tidy
from ridgeline.train.files.recipe import Recipe, digest
from ridgeline.train.progress import progress

Name = TypeVar("Name")
Tick = Callable[[int], Any]
Save = Callable[["xr.Dataset"], None]
#: compute(keep, tick): the result; `keep` stores its finished parts
Compute = Callable[[Keep, Tick], "xr.Dataset"]
#: complete(cells, save): the grid; `cells` are computed already, `save` is called at intervals
Complete = Callable[["xr.Dataset | None", Save], "xr.Dataset"]
#: finish(cells): the complete grid with the measures that need all cells
Finish = Callable[["xr.Dataset"], "xr.Dataset"]


def computed(
    kind: str,
    path: Path | None,
    recipe: Recipe,
    compute: Compute,
    *,
    overwrite: bool = False,
    total: int | None = 0,
    begin: Callable[[], None] = lambda: None,
    beside: Callable[[], list[Path]] = list,
    large: Callable[[Path], None] | None = None,
    title: str | None = None,
    **notes: str,
) -> xr.Dataset:
    """The result of a recipe: the existing file's, or a newly computed and saved one.

    Args:
        kind: Kind of the result.
        path: The file; None: nothing is saved.
        recipe: The recipe.
        compute: Computes the result.
        overwrite: Replace a file of another recipe.
        total: Examples of the progress bar; None: a bar without an end.
        begin: Called before the computation.
        beside: Names files that only resuming needs. They are removed when the result is saved.
        large: Writes variables that do not fit into memory to the file first (`save_result`).
        title: Title of the progress bar.
        **notes: Further attributes of the result.

    Raises:
        InputError: before the computation, if another file is at the path.

    Under torchrun one process writes.
    """
    found = None if path is None else claim(path, recipe, overwrite)
    if found is not None:
        tidy(path, lambda: [*left(path, recipe), *beside()])
        return found
    begin()
    with resumable(path, recipe) as keep:
        with progress(total, title or kind, "image", quiet=total == 0) as bar:
            ds = stamp(compute(keep, bar.update), kind, recipe, **notes)
        if path is not None and leader():
            save_result(ds, path, large)
            for file in beside():
                file.unlink(missing_ok=True)
    return ds


def completed(
    kind: str, path: Path, recipe: Recipe, complete_: Complete, *, overwrite: bool = False,
    finish: Finish | None = None, **notes: str,
) -> xr.Dataset:  # fmt: skip
    """The grid of a recipe: the existing one, after computing the missing cells.

    The cells are saved at intervals, so an interrupted command can continue. Under torchrun every
    process saves its own cells, and the first one merges them at the end. After an interruption
    another number of processes can continue. `finish` adds the measures that need all cells.
    Raises InputError, before the computation, if another file is at the path.
    """
    cells = claim(path, recipe, overwrite)
    if cells is not None and complete(cells):
        tidy(path, lambda: _parts(path, recipe))
        return cells
    number, count = processes()
    held = [] if cells is None else [cells]
    held += _left(path, recipe, overwrite)
    own = path if count == 1 else _part(path, recipe, f"{number + 1}of{count}")
    ds = complete_(
        merged(held) if held else None,
        lambda ds: save_result(stamp(ds, kind, recipe, **notes), own),
    )
    if count > 1:
        meet()
        ds = merged(_left(path, recipe, overwrite))
        meet()  # all processes have read the files that the first one now removes
    if leader():
        if finish is not None and not complete(ds):
            ds = stamp(finish(ds), kind, recipe, **notes)
        if count > 1:
            save_result(ds, path)
        for part in _parts(path, None if overwrite else recipe):
            part.unlink()
    if finish is not None:
        meet()
        ds = ds if leader() else load_result(path)
    return ds


def _part(path: Path, recipe: Recipe, whose: str) -> Path:
    return path.with_name(f"{_beginning(path, recipe)}{whose}.nc")


def _left(path: Path, recipe: Recipe, overwrite: bool) -> list[xr.Dataset]:
    """The parts of a grid in files of torchrun processes; `overwrite` skips damaged files."""
    found = []
    for part in _parts(path, recipe):
        try:
            found.append(load_result(part))
        except InputError as error:
            if not overwrite:
                raise InputError(f"{error}; name another output or pass --overwrite") from None
    return found


def _parts(path: Path, recipe: Recipe | None) -> list[Path]:
    """The files of torchrun processes for a path, in a fixed order. Recipe None: of any recipe."""
    folder, begins = path.parent, "" if recipe is None else _beginning(path, recipe)
    of_any = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{16}}\.\d+of\d+\.nc")
    files = folder.iterdir() if folder.is_dir() else ()
    return sorted(p for p in files if p.name.startswith(begins) and of_any.fullmatch(p.name))


def _beginning(path: Path, recipe: Recipe) -> str:
    return f".{path.name}.{digest(recipe)[:16]}."


def resumed(problems: Mapping[Name, Problem], keep: Keep) -> dict[Name, Problem]:
    """The problems by name; `keep` stores their finished parts."""
    return {name: problem.resuming(keep) for name, problem in problems.items()}


@contextmanager
def written(points: Sequence[tuple[Path, Point, Recipe]], overwrite: bool) -> Iterator[None]:
    """Write points as checkpoints after the block, which runs once all their files are claimed.

    Raises InputError, before the block, if something else stands in the place of one.
    """
    for path, _, recipe in points:
        claim_checkpoint(path, recipe, overwrite)
    meet()  # the first process holds the locks: if it raises, no other process computes
    yield
    for path, point, recipe in points:
        save_checkpoint(path, point, recipe)
