"""Shares of a grid are disjoint, complete, and merge to what one process computes."""

from __future__ import annotations

import numpy as np
import pytest

from ridgeline.landscape.result import empty_cells, stamp
from ridgeline.landscape.surfaces.shards import Shard, merged, parse_shard, share
from ridgeline.models import InputError


def test_every_cell_is_in_exactly_one_shard():
    cells = [(e, i, j) for e in range(2) for i in range(5) for j in range(7)]
    for together in (lambda c: c, lambda c: (c[0], c[1] // 2, c[2] // 2), lambda c: c[0]):
        for count in (1, 2, 3, 50):
            parts = [share(cells, Shard(n, count), together) for n in range(1, count + 1)]
            assert sorted(c for part in parts for c in part) == cells
            keys = [{together(c) for c in part} for part in parts]
            assert sum(map(len, keys)) == len(set().union(*keys))


def grid(done, value=1.0, kind="scan", recipe=None, x=(0.0, 1.0, 2.0)):
    ds = empty_cells({"x": ("x", list(x))}, {"loss": {}})
    for n in done:
        ds["loss"].values[n], ds["done"].values[n] = value * n, True
    return stamp(ds, kind, recipe or {"a": 1})


def test_parts_become_one_grid():
    found = merged([grid([0]), grid([2]), grid([0])])
    np.testing.assert_array_equal(found["done"], [True, False, True])
    np.testing.assert_array_equal(found["loss"], [0, np.nan, 2])
    nan = grid([1], value=np.nan)
    assert merged([grid([0]), nan, nan])["done"].values[1]


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ([], "nothing to merge"),
        ([grid([0], kind="hessian")], "result 1 is no grid"),
        (
            [grid([0]), grid([1], recipe={"a": 2})],
            r"result 2 is of another recipe .*a was 1, now 2",
        ),
        ([grid([0]), grid([1], x=(0.0, 1.0, 3.0))], "result 2 has other coordinates x"),
        ([grid([1]), grid([1], value=3.0)], "result 2 has another loss"),
    ],
)
def test_what_does_not_belong_together_is_refused(parts, said):
    with pytest.raises(InputError, match=said):
        merged(parts)


@pytest.mark.parametrize("text", ["2", "0/3", "4/3", "a/3", "1/0", "-1/2", "1.5/2"])
def test_a_shard_is_read_or_refused(text):
    assert parse_shard("2/8") == Shard(2, 8)
    with pytest.raises(InputError, match="--shard"):
        parse_shard(text)
