"""Results: labelled arrays with the recipe that made them, in netCDF files."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import xarray as xr

from models.errors import InputError
from train.progress import progress
from train.recipe import (
    Recipe,
    check_folder,
    check_same,
    normal_form,
    provenance,
    write_atomically,
)

Cell = tuple[int, ...]


def stamp(dataset: xr.Dataset, kind: str, recipe: Recipe, **notes: str) -> xr.Dataset:
    """Attach kind, recipe and provenance (and further notes) as attributes; returns `dataset`."""
    dataset.attrs |= {
        "kind": kind,
        "recipe": json.dumps(normal_form(recipe), sort_keys=True),
        "provenance": json.dumps(provenance()),
        **notes,
    }
    return dataset


def recipe_of(dataset: xr.Dataset) -> Recipe:
    """The recipe stored with a result; InputError if it has none."""
    try:
        return json.loads(dataset.attrs["recipe"])
    except (KeyError, ValueError):
        raise InputError("the file holds no recipe: it is not a Ridgeline result") from None


def save_result(dataset: xr.Dataset, path: str | Path) -> None:
    """Write a result as netCDF, atomically, with every variable compressed lightly."""
    encoding = {
        name: {"zlib": True, "complevel": 1}
        for name, variable in dataset.data_vars.items()
        if variable.dtype.kind in "fiu" and variable.size > 4096
    }
    write_atomically(
        Path(path), lambda p: dataset.to_netcdf(p, engine="h5netcdf", encoding=encoding)
    )


def load_result(path: str | Path, kind: str | None = None) -> xr.Dataset:
    """Read a result into memory; InputError for a missing or foreign file or another kind."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no such result file: {path}")
    try:
        dataset = xr.load_dataset(path, engine="h5netcdf")
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} is truncated or not a netCDF result ({error})") from None
    if "kind" not in dataset.attrs or "recipe" not in dataset.attrs:
        raise InputError(f"{path} is not a Ridgeline result: it holds no kind and recipe")
    if kind is not None and dataset.attrs["kind"] != kind:
        raise InputError(f"{path} holds a {dataset.attrs['kind']!r} result, needed is {kind!r}")
    return dataset


def claim(path: str | Path, recipe: Recipe, overwrite: bool) -> xr.Dataset | None:
    """What already stands at an output path: None, or a result of the same recipe.

    Call before computing. Raises InputError, with nothing touched, if the path holds anything
    else and `overwrite` is not set.
    """
    path = Path(path)
    check_folder(path)
    if overwrite or not path.exists():
        return None
    try:
        dataset = load_result(path)
    except InputError:
        check_same(path, None, recipe)
        raise
    check_same(path, recipe_of(dataset), recipe)
    return dataset


def result_path(out_file: str | Path) -> Path:
    """The path with the suffix .nc; the reference's .pkl and .json are replaced."""
    path = Path(out_file)
    if path.suffix in (".pkl", ".json"):
        return path.with_suffix(".nc")
    return path if path.suffix == ".nc" else path.with_name(path.name + ".nc")


def empty_cells(
    coordinates: Mapping[str, xr.DataArray | tuple], variables: Mapping[str, Mapping[str, str]]
) -> xr.Dataset:
    """A grid over `coordinates` whose variables are NaN: not computed yet.

    `variables` maps names to attributes (long_name, units).
    """
    dims = tuple(coordinates)
    dataset = xr.Dataset(coords=coordinates)
    shape = tuple(dataset.sizes[d] for d in dims)
    for name, attributes in variables.items():
        dataset[name] = (dims, np.full(shape, np.nan), dict(attributes))
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
) -> xr.Dataset:
    """Compute every cell whose `loss` is NaN, in the given order; `save` is called now and then.

    `compute(cell, tick)` returns the cell's values by variable name; it may call `tick(n)` with
    examples done for the progress bar.
    """
    loss = cells["loss"]
    todo = [cell for cell in order if np.isnan(loss.values[cell])]
    saved = time.monotonic()
    with progress(len(todo) * examples_per_cell, description, "image") as bar:
        for number, cell in enumerate(todo):
            for name, value in compute(cell, lambda n: bar.update(n)).items():
                cells[name].values[cell] = value
            bar.n = (number + 1) * examples_per_cell
            bar.set_postfix(cell=f"{number + 1}/{len(todo)}", refresh=False)
            if save is not None and time.monotonic() - saved > save_seconds:
                save(cells)
                saved = time.monotonic()
    if save is not None:
        save(cells)
    return cells


def complete(cells: xr.Dataset) -> bool:
    """Whether no cell is left to compute."""
    return not np.isnan(cells["loss"].values).any()
