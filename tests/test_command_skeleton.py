"""Claim, compute, stamp, save: written once for all commands."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr

from ridgeline.landscape.result import load_result, recipe_of
from ridgeline.models import InputError
from ridgeline.run.shared.budgets import UnderAttack
from ridgeline.run.shared.command import completed, computed, written
from ridgeline.run.shared.options import Examples, Machine, Network
from ridgeline.train.files.checkpoint import load_checkpoint, save_checkpoint

RECIPE = {"command": "test", "seed": 1}


def test_a_result_is_computed_once_and_stamped(tmp_path):
    path, log, steps = tmp_path / "r.nc", tmp_path / "log", []

    def compute(keep, tick):
        steps.append("compute")
        log.touch()
        tick(3)
        return xr.Dataset({"a": keep("part", lambda: {"a": 2.0})["a"].item()})

    notes = {"begin": lambda: steps.append("begin"), "beside": lambda: [log]}
    first = computed("kind", path, RECIPE, compute, total=3, checkpoint="c", **notes)
    assert steps == ["begin", "compute"]
    assert not log.exists()  # what only resuming needs goes with the result
    assert (first.attrs["kind"], first.attrs["checkpoint"], float(first["a"])) == ("kind", "c", 2.0)
    assert recipe_of(load_result(path, "kind")) == RECIPE
    again = computed("kind", path, RECIPE, compute, **notes)
    assert steps == ["begin", "compute"]
    assert again.identical(load_result(path))
    assert not list(tmp_path.glob(".*.parts"))
    computed("kind", path, RECIPE, compute, overwrite=True, **notes)
    assert steps == ["begin", "compute"] * 2


def test_finished_parts_are_kept_if_the_rest_fails(tmp_path):
    path, asked = tmp_path / "r.nc", []

    def part():
        asked.append(1)
        return {"a": 2.0}

    def fails(keep, tick):
        keep("part", part)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        computed("kind", path, RECIPE, fails)
    assert len(list(tmp_path.glob(".*.parts"))) == 1
    ds = computed("kind", path, RECIPE, lambda keep, _: xr.Dataset({"a": keep("part", part)["a"]}))
    assert (len(asked), float(ds["a"])) == (1, 2.0)


def test_something_else_at_the_path_is_refused_before_anything_begins(tmp_path):
    path = tmp_path / "r.nc"
    computed("kind", path, RECIPE, lambda *_: xr.Dataset())
    before = path.read_bytes()
    never = lambda *_: pytest.fail("computed")  # noqa: E731
    with pytest.raises(InputError, match="another recipe"):
        computed("kind", path, {**RECIPE, "seed": 2}, never, begin=never)
    with pytest.raises(InputError, match="another recipe"):
        completed("kind", path, {**RECIPE, "seed": 2}, never)
    assert path.read_bytes() == before


def test_a_grid_is_completed_not_computed_again(tmp_path):
    path = tmp_path / "g.nc"

    def cells(done: int) -> xr.Dataset:
        return xr.Dataset({"loss": ("x", np.arange(3.0)), "done": ("x", np.arange(3) < done)})

    def half(held, save):
        assert held is None
        save(cells(2))
        raise KeyboardInterrupt

    def rest(held, save):
        assert held["done"].values.tolist() == [True, True, False]
        save(cells(3))
        return cells(3)

    with pytest.raises(KeyboardInterrupt):
        completed("scan", path, RECIPE, half, checkpoint="c")
    completed("scan", path, RECIPE, rest, checkpoint="c")
    held = completed("scan", path, RECIPE, lambda *_: pytest.fail("computed again"))
    assert held["done"].all() and held.attrs["checkpoint"] == "c"


def test_points_are_written_after_all_their_files_are_claimed(tmp_path):
    a, b = tmp_path / "a.ckpt", tmp_path / "b.ckpt"
    save_checkpoint(b, {"w": torch.zeros(1)}, {"other": 1})
    files = [(path, {"w": torch.ones(1)}, RECIPE) for path in (a, b)]
    with pytest.raises(InputError, match=r"b\.ckpt"), written(files, overwrite=False):
        pytest.fail("the block ran")
    assert not a.exists()
    with written(files, overwrite=True):
        assert not a.exists()
    assert [float(load_checkpoint(p).tensors["w"]) for p in (a, b)] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Machine(batch_size=0), "--batch_size must be at least 1"),
        (lambda: Machine(seed=-1), "seed must lie in"),
        (lambda: Network(width=0), "--width must be at least 1"),
        (lambda: Examples(subset="valid"), "--subset"),
        (lambda: Examples(subset_size=2**31), "below 2\\^31"),
        (lambda: UnderAttack(attack="name=pgdd,eps=0.1"), "did you mean 'pgd'"),
        (lambda: UnderAttack(adv_budget_list="0,0.1"), "needs --attack"),
    ],
)
def test_groups_refuse_what_cannot_be(make, said):
    with pytest.raises(InputError, match=said):
        make()


def test_only_the_seed_of_a_machine_decides():
    assert Machine(batch_size=7, gpu="cpu", overwrite=True, seed=3).recipe() == {"seed": 3}


def test_budgets_are_those_of_the_attack_unless_listed():
    assert UnderAttack().budgets == [0.0]
    assert UnderAttack("name=pgd,eps=0.1,iterations=1").budgets == [0.1]
    assert UnderAttack("name=pgd,eps=0.1,iterations=1", "0,0.2").budgets == [0.0, 0.2]
