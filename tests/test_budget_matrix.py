"""The matrix of training and probe budgets: its cells, what checkpoints record, the figure."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ridgeline.analysis.budget_matrix import TrainedAt, budget_matrix, names_of, trained_at
from ridgeline.analysis.figures import draw
from ridgeline.analysis.reports import report
from ridgeline.analysis.statistics import wilson
from ridgeline.landscape.problem import Problem
from ridgeline.landscape.result import load_result
from ridgeline.models import InputError
from ridgeline.train.attacks import PGD
from tests.commands import call, tiny_set
from tests.conftest import make_images, make_mlp

ATTACK = PGD(eps=0.1, iterations=3)
TRAINED = [TrainedAt(0.1, math.inf, True), TrainedAt(), TrainedAt(0.05, 2.0)]


def matrix(attack=ATTACK, budgets=(0.05, 0.1)):
    problems = {n: Problem(make_mlp(seed=s).float(), make_images(20), attack)
                for s, n in enumerate(("pas", "foreign", "l2"))}  # fmt: skip
    ds = budget_matrix(problems, budgets, TRAINED)
    ds.attrs["kind"] = "budgets"
    return problems, ds


def test_every_cell_is_what_the_problem_says_at_that_budget():
    problems, ds = matrix()
    assert ds["accuracy"].dims == ("network", "eps")
    assert ds["eps"].values.tolist() == [0, 0.05, 0.1]
    for name, problem in problems.items():
        for eps in (0.0, 0.05, 0.1):
            scores = problem.under(ATTACK.at(eps) if eps else None).evaluate()
            cell = ds.sel(network=name, eps=eps)
            assert float(cell["accuracy"]) == scores.accuracy
            assert float(cell["loss"]) == scores.loss
            low, high = wilson(int(scores.correct.sum()), 20)
            assert (float(cell["accuracy_low"]), float(cell["accuracy_high"])) == (low, high)
    _, clean = matrix(budgets=(0.0,))
    assert clean["accuracy"].shape == (3, 1)


def test_a_minimum_norm_attack_fills_the_row_of_one_search():
    _, ds = matrix("name=fmn,eps=0.1,iterations=20")
    assert (np.diff(ds["accuracy"].values, axis=1) <= 0).all()


def test_recipes_tell_their_training_budget():
    pgd = repr(PGD(eps=0.3, order=2, iterations=4))
    assert trained_at(None) == trained_at({}) and math.isnan(trained_at(None).eps)
    assert trained_at({"method": "adversarial", "attack": pgd}) == TrainedAt(0.3, 2.0)
    scheduled = {"attack_threshold_schedule": "CycleCos(...)"}
    found = trained_at({"method": "trades", "attack": pgd, "options": scheduled})
    assert found == TrainedAt(0.3, 2.0, True)
    own = trained_at({"method": "apart", "attack": pgd, "options": {"eps": 0.1}})
    assert own.eps == 0.1
    for recipe in ({"method": "frequency", "attack": pgd}, {"method": "standard", "attack": None}):
        assert trained_at(recipe).eps == 0 and math.isnan(trained_at(recipe).order)


def test_rows_are_sorted_and_other_norms_are_warned_of():
    _, ds = matrix()
    lines = report(ds).splitlines()
    assert [line.split(",")[0].split()[0] for line in lines[1:4]] == ["l2", "pas", "foreign"]
    assert "pas, trained at 0.1, scheduled" in lines[2]
    assert lines[3].startswith("foreign ") and "trained" not in lines[3]
    assert lines[4:] == ["WARNING, l2 was trained in l_2 and is probed in l_inf: the two budgets "
                         "are not in one unit"]  # fmt: skip


def test_the_heat_map_holds_the_table_and_frames_the_training_budget():
    _, ds = matrix()
    axes = draw(ds).axes[0]
    shown = axes.images[0].get_array()
    order = [2, 0, 1]
    np.testing.assert_array_equal(shown, 100 * ds["accuracy"].values[order])
    (box,) = axes.patches  # the l_2 network's 0.05 is no l_inf budget
    assert box.get_xy() == (1.5, 0.5)
    assert [t.get_text() for t in axes.get_xticklabels()] == ["clean", "0.05", "0.1"]


def test_names_take_as_many_folders_as_they_need():
    assert names_of(["a/x.ckpt", "b/y.ckpt"]) == ["x", "y"]
    assert names_of(["r/a/x.ckpt", "r/b/x.ckpt"]) == ["a/x", "b/x"]
    with pytest.raises(InputError, match="twice"):
        names_of(["x.ckpt", "x.ckpt"])


def test_the_command_reads_budgets_from_checkpoints_and_foreign_ones_have_a_name_only(tmp_path):
    tiny_set(tmp_path)
    train = ("--out_folder . --epoch_num 1 --subset_size 12 --batch_size 12 --eval_size 5 "
             "--width 1 --dataset tiny.npz --model_type lenet "
             "--optim name=adam,lr=1e-3")  # fmt: skip
    pgd = "name=pgd,eps=0.1,iterations=1"
    assert call(f"train_normal --model_name at {train} --attack {pgd}", tmp_path).returncode == 0
    assert call(f"train_normal --model_name plain {train} --seed 1", tmp_path).returncode == 0
    from ridgeline.train.files.checkpoint import load_checkpoint

    torch.save(dict(load_checkpoint(tmp_path / "at.ckpt").tensors), tmp_path / "other.pt")
    line = ("test_budgets --model2load at.ckpt,plain.ckpt,other.pt --dataset tiny.npz --model_type "
            f"lenet --width 1 --attack {pgd}")  # fmt: skip
    done = call(f"{line} --adv_budget_list 0.05,0.1", tmp_path)
    assert done.returncode == 0, done.stderr
    ds = load_result(tmp_path / "budgets.nc", "budgets")
    assert ds["network"].values.tolist() == ["at", "plain", "other"]
    np.testing.assert_array_equal(ds["trained_eps"], [0.1, 0, np.nan])
    np.testing.assert_array_equal(ds["accuracy"][0], ds["accuracy"][2])
    bad = call("test_budgets --model2load at.ckpt --out_file none.nc", tmp_path)
    assert bad.returncode == 2 and "--attack is needed" in bad.stderr
    assert not (tmp_path / "none.nc").exists()
