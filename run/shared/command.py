"""What every command that writes a result does: claim, compute, stamp, save."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import xarray as xr

from ridgeline.landscape.result import claim, save_result, stamp
from ridgeline.landscape.resume import Keep, resumable
from ridgeline.train.files.recipe import Recipe
from ridgeline.train.progress import progress

#: compute(keep, tick): the result, its finished parts remembered by `keep`
Compute = Callable[[Keep, Callable[[int], Any]], xr.Dataset]


def computed(
    kind: str,
    path: Path | None,
    recipe: Recipe,
    compute: Compute,
    *,
    overwrite: bool = False,
    total: int | None = None,
    **notes: str,
) -> xr.Dataset:
    """The result of a recipe: what its path already holds, or computed, stamped and saved.

    `total` examples make a progress bar. Without a path nothing is kept. Raises InputError, before
    anything is computed, if something else stands at the path.
    """
    found = None if path is None else claim(path, recipe, overwrite)
    if found is not None:
        return found
    with (
        progress(total, kind, "image", quiet=total is None) as bar,
        resumable(path, recipe) as keep,
    ):
        ds = stamp(compute(keep, bar.update), kind, recipe, **notes)
        if path is not None:
            save_result(ds, path)
    return ds
