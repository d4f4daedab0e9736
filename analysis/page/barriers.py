"""Cells of the verdict about barriers: how far the loss rises on the way to another network."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence

import numpy as np
import xarray as xr

from ridgeline.analysis.page.cells import Cell, images_of, loss_of, settings_of, with_error
from ridgeline.analysis.page.sources import Source, Subject
from ridgeline.analysis.training.trajectory import barrier as barrier_of_run


def barriers(subject: Subject, sources: Sequence[Source]) -> Iterator[Cell]:
    """Barriers of pairs, of curves that end in this network, and from the best to the last epoch.

    Of a curve scan that is the one of the straight line; that of the trained curve stands in
    the note.
    """
    for source in sources:
        about = list(source.about)
        if source.kind == "pairs" and subject.sha256 in about:
            yield from _of_pairs(source, about.index(subject.sha256))
        elif source.kind == "curve" and subject.sha256 in about:
            yield from _of_curve(source, subject)
        elif source.kind == "trajectory" and about[-1:] == [subject.sha256]:
            yield from _of_trajectory(source)


def _of_pairs(source: Source, number: int) -> Iterator[Cell]:
    ds = source.result
    row = ds["barrier"].values[number].copy()
    row[number] = np.nan
    if not np.isfinite(row).any():  # networks of other architectures only
        return
    to, value = ds["network_b"].values[int(np.nanargmax(row))], float(np.nanmax(row))
    what = "straight line" if len(row) == 2 else f"highest of {len(row) - 1} straight lines, that"
    places = source.recipe.get("places")
    where = f", {places} places between the ends" if places else ""
    yield Cell(with_error(value, unit="nat"), value,
               f"{what} to {to}; {loss_of(source)}{where}, {images_of(source)}; the result has no "
               "error of it",
               settings_of(source, attack=source.attack, eps=source.eps, way="to a network"),
               source.name)  # fmt: skip


def _of_curve(source: Source, subject: Subject) -> Iterator[Cell]:
    ds = source.result
    if "barrier" not in ds or "line" not in ds["path"]:
        return
    here = ds.isel(subset=-1)
    here = here.isel(eps=int(here["eps"].values.argmax())) if "eps" in here.dims else here
    line = here.sel(path="line")
    eps = float(here["eps"]) if "eps" in here.coords else None
    others = [name for digest, name in source.ends.items() if digest != subject.sha256]
    way = "straight line " + (f"to {others[0]}" if len(others) == 1 else
                              "between the ends of this curve")  # fmt: skip
    test = source.recipe.get("test") if here["subset"].item() == "test" else None
    images = f"{test['examples']} images" if test and "examples" in test else images_of(source)
    note = (f"{way}; {loss_of(source, eps)}, {ds.sizes['t'] - 2} places between the ends, "
            f"{images} ({here['subset'].item()})")  # fmt: skip
    if "curve" in ds["path"]:
        curve = here.sel(path="curve")
        note += f"; on the trained curve {with_error(float(curve['barrier']), _error(curve))}"
    value = float(line["barrier"])
    yield Cell(with_error(value, _error(line), "nat"), value, note,
               settings_of(source, attack=source.attack, eps=source.eps if eps is None else eps,
                           way="between ends"),
               source.name)  # fmt: skip


def _of_trajectory(source: Source) -> Iterator[Cell]:
    ds = source.result
    if "barrier" not in ds:
        return
    value = float(ds["barrier"])
    places = inspect.signature(barrier_of_run).parameters["points"].default - 2
    note = (f"from the best to the last epoch; {loss_of(source)}, {places} places "
            f"between the ends, {images_of(source)}; the result has no error of it")  # fmt: skip
    yield Cell(with_error(value, unit="nat"), value, note,
               settings_of(source, attack=source.attack, eps=source.eps, way="best to last"),
               source.name)  # fmt: skip


def _error(here: xr.Dataset) -> float:
    return float(here["barrier_se"]) if "barrier_se" in here else np.nan
