"""Results: labelled arrays with the recipe that made them, in netCDF files."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

from ridgeline.landscape.checksum import check_seal, seal
from ridgeline.models.errors import InputError, is_out_of_memory
from ridgeline.train.files.locks import lock
from ridgeline.train.files.recipe import (
    Recipe,
    check_folder,
    check_same,
    difference,
    normal_form,
    provenance,
    write_atomically,
)
from ridgeline.train.progress import progress
from ridgeline.train.workers import in_order

Cell = tuple[int, ...]
#: kinds of results that are grids of cells, computed one after the other
GRIDS = ("scan", "curve")
#: variables that are added to a grid when all its cells are computed
_LAST = {"curve": "barrier"}
#: seconds of a cell below which one cell per thread is faster than all threads on one cell
_SHORT = 2.0


def stamp(dataset: xr.Dataset, kind: str, recipe: Recipe, **notes: str) -> xr.Dataset:
    """Attach kind, recipe and provenance (and further notes) as attributes; returns `dataset`."""
    dataset.attrs |= {
        "kind": kind,
        "recipe": json.dumps(normal_form(recipe), sort_keys=True),
        "provenance": json.dumps(provenance()),
        **notes,
    }
    return dataset


def provenance_of(dataset: xr.Dataset) -> dict[str, Any]:
    """The provenance stored with a result; an empty dict if it has none."""
    try:
        found = json.loads(dataset.attrs["provenance"])
    except (KeyError, ValueError, TypeError):
        found = None
    return found if isinstance(found, dict) else {}


def recipe_of(dataset: xr.Dataset) -> Recipe:
    """The recipe stored with a result; InputError if it has none."""
    try:
        recipe = json.loads(dataset.attrs["recipe"])
    except (KeyError, ValueError):
        recipe = None
    if not isinstance(recipe, dict):
        raise InputError("the file holds no recipe: it is not a Ridgeline result")
    if "bn" in recipe:  # the name in recipes of earlier versions
        recipe.setdefault("batchnorm", recipe.pop("bn"))
    return recipe


def save_result(
    dataset: xr.Dataset, path: str | Path, begin: Callable[[Path], None] | None = None
) -> None:
    """Write a result as sealed netCDF, atomically, with every variable compressed lightly.

    Args:
        dataset: The result.
        path: The file; an existing one is replaced.
        begin: Writes variables that do not fit into memory to the file, before all others.

    >>> result = stamp(xr.Dataset({"loss": 0.5}), "scan", {"seed": 0})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_result(result, f"{folder}/result.nc")
    ...     float(load_result(f"{folder}/result.nc")["loss"])
    0.5
    """
    encoding = {
        name: {"zlib": True, "complevel": 1}
        for name, variable in dataset.data_vars.items()
        if variable.dtype.kind in "fiu" and variable.size > 4096
    }

    def write(target: Path) -> None:
        if begin is None:  # written at once: HDF5 itself aborts the process if the disk is full
            target.write_bytes(dataset.to_netcdf(engine="h5netcdf", encoding=encoding))
        else:
            begin(target)
            dataset.to_netcdf(target, mode="a", engine="h5netcdf", encoding=encoding)
        seal(target)

    write_atomically(Path(path), write)


def load_result(path: str | Path, kind: str | None = None, *, lazy: bool = False) -> xr.Dataset:
    """Read a result into memory, or with `lazy` its variables when they are used.

    In old grids, without `done`, a NaN loss marks a cell that is not computed yet.

    Args:
        path: The file.
        kind: The required kind; None: any.
        lazy: Leave the variables on disk until they are used.

    Returns:
        The result with kind, recipe and provenance as attributes.

    Raises:
        InputError: for a missing, damaged or foreign file, or another kind.

    >>> load_result("missing.nc")
    Traceback (most recent call last):
    ridgeline.models.errors.InputError: no such result file: missing.nc
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder, not a result file")
    if not path.is_file():
        raise InputError(f"no such result file: {path}")
    check_seal(path)
    dataset = _read(path, lazy)
    if "kind" not in dataset.attrs or "recipe" not in dataset.attrs:
        raise InputError(f"{path} is not a Ridgeline result: it holds no kind and recipe")
    if kind is not None and dataset.attrs["kind"] != kind:
        raise InputError(f"{path} holds a {dataset.attrs['kind']!r} result, needed is {kind!r}")
    if dataset.attrs["kind"] in GRIDS and "loss" in dataset and "done" not in dataset:
        dataset["done"] = dataset["loss"].notnull()
    return dataset


def header(path: Path) -> xr.Dataset:
    """The attributes of a netCDF file (kind, recipe, provenance) without its numbers.

    The checksum is not verified. Raises InputError for a damaged or foreign file.
    """
    with _read(path, lazy=True) as dataset:
        return xr.Dataset(attrs=dataset.attrs)


def _read(path: Path, lazy: bool) -> xr.Dataset:
    try:
        return (xr.open_dataset if lazy else xr.load_dataset)(path, engine="h5netcdf")
    except Exception as error:  # HDF5 and its readers raise many types for a damaged file
        if is_out_of_memory(error):
            raise
        raise InputError(f"{path} is truncated or not a netCDF result ({error})") from None


def claim(path: str | Path, recipe: Recipe, overwrite: bool) -> xr.Dataset | None:
    """The result of this recipe at an output path, to reuse or complete; None if there is none.

    Call it before computing. The path is locked until the command ends, unless its result is
    complete and will only be read.

    Without `overwrite`, any other file there raises InputError and is not changed. With
    `overwrite`, an unfinished grid of the same recipe is completed, and any other file is
    replaced. Raises InputError if another command is writing there.
    """
    path = Path(path)
    found = held(path, recipe, overwrite)
    if found is not None and complete(found) and not overwrite:
        return found
    check_folder(path)
    lock(path)
    found = held(path, recipe, overwrite)  # another command may have ended before the lock
    return None if found is not None and overwrite and complete(found) else found


def held(path: Path, recipe: Recipe, overwrite: bool = False) -> xr.Dataset | None:
    """The result of this recipe at a path; None for no file, or for one that will be replaced.

    Without `overwrite`, any other file there raises InputError. Takes no lock.
    """
    if not path.is_file():
        return None
    try:
        dataset = load_result(path)
        stored = recipe_of(dataset)
    except InputError as error:
        if overwrite:
            return None
        raise InputError(f"{error}; name another output or pass --overwrite") from None
    if overwrite and difference(stored, recipe):
        return None
    check_same(path, stored, recipe)
    return dataset


def result_path(out_file: str | Path) -> Path:
    """The path with the suffix .nc, which replaces .pkl and .json."""
    path = Path(out_file)
    # only to repeat released code (Liu et al. 2020), whose commands name such files
    if path.suffix in (".pkl", ".json"):
        return path.with_suffix(".nc")
    return path if path.suffix == ".nc" else path.with_name(path.name + ".nc")


def empty_cells(
    coordinates: Mapping[str, xr.DataArray | tuple], variables: Mapping[str, Mapping[str, str]]
) -> xr.Dataset:
    """A grid over `coordinates` with no cell computed: values NaN, `done` False.

    `variables` maps names to attributes (long_name, units).
    """
    dims = tuple(coordinates)
    dataset = xr.Dataset(coords=coordinates)
    shape = tuple(dataset.sizes[d] for d in dims)
    for name, attributes in variables.items():
        dataset[name] = (dims, np.full(shape, np.nan), dict(attributes))
    dataset["done"] = (dims, np.zeros(shape, dtype=bool), {"long_name": "cell is computed"})
    return dataset


def fill(
    cells: xr.Dataset,
    compute: Callable[[Cell, Callable[[int], None]], Mapping[str, float]],
    *,
    order: Iterable[Cell],
    save: Callable[[xr.Dataset], None] | None = None,
    examples_per_cell: int = 1,
    description: str = "scan",
    save_seconds: float = 10.0,
    apart: bool = False,
) -> xr.Dataset:
    """Compute every cell that is not `done`, in the given order.

    Args:
        cells: The grid; changed in place.
        compute: `compute(cell, tick)` returns the cell's values by variable name (NaN is allowed).
            It may call `tick(n)` with the number of finished examples, for the progress bar.
        order: The cells, in order.
        save: Called with the grid every `save_seconds` and at the end.
        examples_per_cell: For the progress bar.
        description: Title of the progress bar.
        save_seconds: Least time between two calls of `save`.
        apart: Cells are independent. If the first one is short, the others run in parallel, one
            per thread.

    Returns:
        The grid.
    """
    done = cells["done"].values
    todo = [cell for cell in order if not done[cell]]
    saved = began = time.monotonic()
    found = (compute(cell, lambda n: bar.update(n)) for cell in todo)
    try:
        with progress(len(todo) * examples_per_cell, description, "image") as bar:
            for number, cell in enumerate(todo):
                if number == 1 and apart and time.monotonic() - began < _SHORT:
                    rest = [partial(compute, c, lambda n: None) for c in todo[1:]]
                    found = in_order(rest, len(rest), torch.device("cpu"))
                for name, value in next(found).items():
                    cells[name].values[cell] = value
                done[cell] = True
                bar.update((number + 1) * examples_per_cell - bar.n)
                bar.set_postfix(cell=f"{number + 1}/{len(todo)}", refresh=False)
                if save is not None and time.monotonic() - saved > save_seconds:
                    save(cells)
                    saved = time.monotonic()
    finally:  # also after Ctrl-C
        found.close()
        if save is not None:
            save(cells)
    return cells


def complete(result: xr.Dataset) -> bool:
    """Whether all of a grid is computed. Results that are not grids are always complete."""
    last = _LAST.get(result.attrs.get("kind"), "done")
    return "done" not in result or (last in result and bool(result["done"].all()))
