"""Divide the cells of a grid among jobs, and merge their results."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import xarray as xr

from ridgeline.landscape.result import GRIDS, recipe_of
from ridgeline.models.errors import InputError
from ridgeline.train.exchange import processes
from ridgeline.train.files.recipe import difference
from ridgeline.train.specs import whole

Item = TypeVar("Item")


class Shard(NamedTuple):
    """Part `number` (from 1) of `count`."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}of{self.count}"


def of_process() -> Shard | None:
    """The part of this process under torchrun; None if there is only one process."""
    rank, count = processes()
    return Shard(rank + 1, count) if count > 1 else None


def parse_shard(text: str) -> Shard:
    """The shard that `2/8` names: the second of eight. Raises InputError.

    >>> str(parse_shard("2/8"))
    '2of8'
    """
    number, slash, count = text.partition("/")
    if not slash:
        raise InputError(f"--shard must be i/n, such as 2/8 for the second of eight, got {text!r}")
    shard = Shard(whole(number, "--shard"), whole(count, "--shard"))
    if not 1 <= shard.number <= shard.count:
        raise InputError(f"--shard i/n needs i in 1..n, got {text!r}")
    return shard


def share(items: Sequence[Item], shard: Shard, together: Callable[[Item], Hashable]) -> list[Item]:
    """The items of one shard. Groups of items with equal `together` go to the shards in turn.

    Every item is in exactly one shard.

    >>> share([0, 1, 2, 3, 4, 5], Shard(1, 2), lambda item: item // 2)
    [0, 1, 4, 5]
    """
    groups = list(dict.fromkeys(together(item) for item in items))
    own = set(groups[shard.number - 1 :: shard.count])
    return [item for item in items if together(item) in own]


def merged(parts: Sequence[xr.Dataset]) -> xr.Dataset:
    """One grid of the cells that the parts have computed.

    Raises InputError for results that are not grids, for parts with different recipes or
    coordinates, and for a cell that has different numbers in two parts.
    """
    if not parts:
        raise InputError("nothing to merge")
    first = parts[0]
    for number, part in enumerate(parts, start=1):
        if part.attrs.get("kind") not in GRIDS or "done" not in part:
            raise InputError(f"result {number} is no grid of cells: only scans can be merged")
        if changed := difference(recipe_of(first), recipe_of(part)):
            raise InputError(f"result {number} is of another recipe than the first ({changed})")
        for name, coordinate in first.coords.items():
            if name not in part.coords or not part[name].equals(coordinate):
                raise InputError(f"result {number} has other coordinates {name} than the first")
    whole_grid = first.copy(deep=True)
    done = whole_grid["done"].values
    names = [n for n, v in first.data_vars.items() if v.dims == first["done"].dims and n != "done"]
    for number, part in enumerate(parts[1:], start=2):
        theirs = part["done"].values
        for name in names:
            ours, other = whole_grid[name].values, part[name].values
            both = done & theirs
            if not np.array_equal(ours[both], other[both], equal_nan=True):
                raise InputError(f"result {number} has another {name} in a cell computed before")
            ours[theirs & ~done] = other[theirs & ~done]
        done |= theirs
    return whole_grid
