"""scan_param: planes, ranges, shards; each number against what Python computes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from ridgeline.landscape.result import load_result, recipe_of, save_result
from ridgeline.landscape.weights.point import norm, subtract
from ridgeline.run.shared import planes
from ridgeline.train.files.checkpoint import load_checkpoint
from ridgeline.train.files.recipe import digest
from tests.commands import ADAM, call, tiny_set
from tests.conftest import ROOT

LOOK = "--subset_size 6 --batch_size 4"
ATTACK = "--attack name=pgd,threshold=0.1,iter_num=2"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with three small networks a, b, c and two epochs of a."""
    folder = tmp_path_factory.mktemp("scans")
    tiny_set(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for seed, name in enumerate("abc"):
            line = (f"train_normal --model_name {name} --out_folder . --seed {seed} --epoch_num 2 "
                    f"--dataset tiny.npz --subset_size 24 --batch_size 12 --eval_size 6 --width 1 "
                    f"--optim {ADAM} --epoch_ckpts 1,2")  # fmt: skip
            status, _, error = call(line)
            assert status == 0, error
    return folder


@pytest.fixture(autouse=True)
def inside(runs, monkeypatch):
    monkeypatch.chdir(runs)


def ok(line: str) -> str:
    status, said, error = call(line)
    assert status == 0, error
    return said


def refused(line: str) -> str:
    status, _, error = call(line)
    assert status == 2 and error.count("\n") == 1, error
    return error


def processes(count: int, line: str, status: int = 0) -> str:
    """Run a command in several processes of torchrun; returns what it says on stderr."""
    command, *options = line.split()
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone",
         "--nproc_per_node", str(count), str(ROOT / "run" / f"{command}.py"), *options],
        timeout=200, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True,
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    return done.stderr


def test_processes_give_the_bits_of_one_and_take_up_what_others_left(runs):
    """Also of a run in three processes that was killed; nothing but results is left behind."""
    base = f"scan_param --model2load a.ckpt {LOOK} {ATTACK} --adv_budget_list 0,0.1 "
    base += "--vec1_scan min=-1,max=1,step=0.25,adv_calc_freq=2"
    ok(f"{base} --model_name alone")
    alone = load_result("alone_results.nc")
    half = alone.copy(deep=True)
    half["done"][:, ::2] = False
    half["loss"][:] = half["loss"].where(half["done"], -1.0)  # seen if it is taken
    half["accuracy"][:, 1] = 0.125  # seen if it is computed anew
    name = f".joint_results.nc.{digest(recipe_of(alone))[:16]}.2of3.nc"
    save_result(half, name)
    processes(2, f"{base} --model_name joint")
    joint = load_result("joint_results.nc")
    np.testing.assert_array_equal(joint["accuracy"][:, 1], 0.125)
    joint["accuracy"][:, 1] = alone["accuracy"][:, 1]
    xr.testing.assert_equal(joint, alone)
    assert not [p for p in runs.iterdir() if p.name.startswith(".joint")]


def test_processes_share_a_curve_and_a_kill_before_the_barrier_is_made_good(runs):
    """Only this sees a result whose cells are all there, but which has no barrier, left so."""
    ends = "--model2load a.ckpt,,b.ckpt --fix_points 1,0,1"
    ok(f"train_curve {ends} --epoch_num 1 --dataset tiny.npz --subset_size 24 --batch_size 12 "
       f"--eval_size 6 --width 1 --out_folder . --model_name bent --optim {ADAM}")  # fmt: skip
    base = f"scan_curve --model2load bent.ckpt --step_size 0.25 {LOOK} {ATTACK}"
    ok(f"{base} --model_name alone")
    alone = load_result("alone.nc")
    bare = alone.drop_vars(["barrier", "barrier_at", "barrier_se", "arc_length"])
    save_result(bare, "bare.nc")
    ok(f"{base} --model_name bare")
    processes(2, f"{base} --model_name pair")
    for name in ("bare", "pair"):
        xr.testing.assert_equal(load_result(f"{name}.nc"), alone)
    assert not [p for p in runs.iterdir() if p.name.startswith(".pair")]


def test_cells_of_a_process_hold_no_sums_over_others(runs):
    """Sees curvature of a cell added up over processes that are at other cells."""
    base = f"scan_param --model2load a.ckpt {LOOK} --vec1_scan rise=1.5,count=5 "
    base += "--extras gradient_norm,lambda_max"
    ok(f"{base} --model_name single")
    processes(2, f"{base} --model_name double")
    xr.testing.assert_equal(load_result("double_results.nc"), load_result("single_results.nc"))


def test_nobody_computes_what_the_first_process_refuses(runs):
    """Sees cells left on disk by a process that does not know that a direction's file is taken."""
    Path("taken").mkdir()
    Path("taken/t_vec1.ckpt").write_text("junk")
    line = f"scan_param --model2load a.ckpt {LOOK} --vec1_scan -1:1:3 --out_folder taken"
    said = processes(2, f"{line} --model_name t", 1)
    assert said.count("scan_param.py: taken/t_vec1.ckpt exists") == 1
    assert not list(Path("taken").glob(".*.nc"))


def test_overwrite_gets_past_what_processes_left_damaged_or_of_another_recipe(runs):
    base = f"scan_param --model2load a.ckpt {LOOK} --vec1_scan -1:1:3"
    ok(f"{base} --model_name clear")
    name = digest(recipe_of(load_result("clear_results.nc")))[:16]
    damaged = Path(f".over_results.nc.{name}.1of2.nc")
    damaged.write_text("junk")
    other = Path(f".over_results.nc.{'0' * 16}.1of2.nc")
    other.write_text("junk")
    assert f"{damaged} is" in (error := refused(f"{base} --model_name over"))
    assert "--overwrite" in error
    ok(f"{base} --model_name over --overwrite")
    assert not damaged.exists() and not other.exists()
    xr.testing.assert_equal(load_result("over_results.nc"), load_result("clear_results.nc"))


@pytest.mark.parametrize("mode", ["moving", "anchored", "frozen"])
def test_shards_and_merge_give_the_bits_of_one_process(mode):
    base = f"scan_param --model2load a.ckpt {LOOK} {ATTACK} --adv_budget_list 0,0.1 "
    shared = ",adv_calc_freq=2" if mode == "anchored" else ""
    base += f"--vec1_scan min=-1,max=1,step=0.5{shared} --adversary {mode}"
    ok(f"{base} --model_name {mode}")
    for n in (3, 1, 2):
        ok(f"{base} --model_name {mode} --shard {n}/3")
    parts = ",".join(f"{mode}_results_shard{n}of3.nc" for n in (1, 2, 3))
    assert "cells out" in refused(f"merge --result {parts.rpartition(',')[0]} --out_file x")
    said = ok(f"merge --result {parts} --out_file {mode}_merged")
    assert f"{mode}_merged.nc" in said
    xr.testing.assert_identical(
        load_result(f"{mode}_merged.nc").drop_attrs(),
        load_result(f"{mode}_results.nc").drop_attrs(),
    )


def test_three_networks_span_a_plane_that_holds_them():
    ok(f"scan_param --model2load a.ckpt {LOOK} --vec1_scan 0:1:2 --vec2_scan 0:1:2 --load_vec1 "
       "between:b.ckpt --load_vec2 between:c.ckpt --orthogonal True --model_name abc")  # fmt: skip
    ds = load_result("abc_results.nc")
    np.testing.assert_allclose(ds["off_plane"], 0, atol=1e-5)
    a, b = (load_checkpoint(f"{n}.ckpt").tensors for n in "ab")
    assert ds["position"].values[1] == pytest.approx([1, 0], abs=1e-5)
    assert float(ds["from_origin"][1]) == pytest.approx(norm(subtract(b, a)), rel=1e-5)
    assert ds["x1"].attrs["coordinate_1"] == "the other network"
    ok(f"scan_param --model2load b.ckpt {LOOK} --vec1_scan 0:1:2 --model_name b")
    other = load_result("b_results.nc")["loss"].sel(eps=0, x1=0)
    assert float(ds["loss"].sel(eps=0, x1=1, x2=0)) == pytest.approx(float(other), rel=1e-5)


def test_a_run_is_scanned_in_the_plane_of_its_checkpoints():
    ok(f"scan_param --model2load a_2.ckpt {LOOK} --trajectory a_init.ckpt,a_1.ckpt "
       "--model_name run")  # fmt: skip
    ds = load_result("run_results.nc")
    assert ds["loss"].shape == (1, 21, 21)
    np.testing.assert_allclose(ds["off_plane"], 0, atol=1e-5)
    np.testing.assert_allclose(ds["true_loss"], ds["plane_loss"], rtol=1e-4)
    assert float(ds["explained"].sum()) == pytest.approx(1, abs=1e-6)
    assert "leave --vec" in refused(
        "scan_param --model2load a_2.ckpt --trajectory a_init.ckpt,a_1.ckpt --vec1_scan 0:1:3"
    )
    assert "fewer than 2 dimensions" in refused(
        "scan_param --model2load a_2.ckpt --trajectory a_1.ckpt --model_name one"
    )


def test_an_axis_widens_until_the_loss_has_risen():
    ok(f"scan_param --model2load a.ckpt {LOOK} --vec1_scan rise=1.5,count=5 --model_name rise")
    ds = load_result("rise_results.nc")
    loss = ds["loss"].sel(eps=0).values
    assert max(loss[0], loss[-1]) >= 1.5 * loss[2]
    reach = float(ds["x1"][-1])
    assert np.log2(reach) == round(np.log2(reach)) and float(ds["x1"][2]) == 0
    ok(f"scan_param --model2load a.ckpt {LOOK} --vec1_scan {-reach / 2}:{reach / 2}:3 "
       "--model_name half")  # fmt: skip
    half = load_result("half_results.nc")["loss"].sel(eps=0).values
    assert max(half[0], half[-1]) < 1.5 * loss[2]
    assert recipe_of(ds)["axes"] == {"x1": {"rise": 1.5, "count": 5}}


def test_what_stands_in_the_way_is_seen_before_the_network_sees_an_image(monkeypatch):
    """Sees a search for a rise, a gradient or the losses of a run before the output is claimed."""
    base = f"scan_param --model2load a_2.ckpt {LOOK} --model_name taken"
    ok(f"{base} --vec1_scan 0:1:2")
    for name in ("extent_of", "steepest", "along_trajectory"):
        monkeypatch.setattr(planes, name, lambda *_, name=name: pytest.fail(name))
    for options in ("--vec1_scan rise=1.5", "--vec1_scan 0:1:2 --load_vec1 gradient",
                    "--trajectory a_1.ckpt,b.ckpt,c.ckpt"):  # fmt: skip
        assert "made by another recipe" in refused(f"{base} {options}")


def test_the_gradient_is_the_steepest_direction_of_length_1():
    ok(f"scan_param --model2load a.ckpt {LOOK} --vec1_scan -0.001:0.001:3 --load_vec1 gradient "
       "--extras gradient_norm --model_name up")  # fmt: skip
    ds = load_result("up_results.nc")
    assert ds["x1"].attrs["norm"] == pytest.approx(1, rel=1e-5)
    loss = ds["loss"].sel(eps=0).values
    slope = (loss[2] - loss[0]) / 0.002
    assert slope == pytest.approx(float(ds["gradient_norm"].sel(eps=0, x1=0)), rel=0.02)


def test_what_fresh_eyes_broke():
    base = f"scan_param --model2load a.ckpt {LOOK} --vec1_scan 0:1:4 --model_name fresh"
    assert "is a network" in refused(f"{base} --load_vec1 b.ckpt")
    assert "2 of 4 cells are computed" in ok(f"{base} --shard 1/2")
    half = "fresh_results_shard1of2"
    said = ok(f"plot --result {half}.nc --out_file half.png")
    assert said.splitlines() == [f"{half}: 2 of 4 cells are computed", "wrote half.png"]
    ok(f"{base} --shard 2/2")
    parts = "fresh_results_shard1of2.nc,fresh_results_shard2of2.nc"
    assert "input" in refused(f"merge --result {parts} --out_file fresh_results_shard1of2.nc")
    ok(f"merge --result {parts} --out_file fresh.nc")
    ok("export --result fresh.nc --out_file fresh.csv")
    assert len(Path("fresh.csv").read_text().splitlines()) == 5
    assert "exists" in refused("export --result fresh.nc --out_file fresh.csv")
    assert "unknown format" in refused("export --result fresh.nc --out_file fresh.doc")


def test_a_space_of_three_axes_is_scanned_and_exported():
    ok(f"scan_param --model2load a.ckpt {LOOK} --vec1_scan 0:1:2 --vec2_scan 0:1:2 "
       "--vec3_scan 0:1:2 --model_name space")  # fmt: skip
    ds = load_result("space_results.nc")
    assert ds["loss"].shape == (1, 2, 2, 2)
    vectors = [load_checkpoint(f"space_vec{n}.ckpt").tensors for n in (1, 2, 3)]
    flat = torch.stack([torch.cat([t.flatten() for t in v.values()]) for v in vectors])
    assert torch.linalg.matrix_rank(flat) == 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--vec1_scan 0:1", "needs min:max:count"),
        ("--vec1_scan 1:0:5", "needs min < max"),
        ("--vec1_scan 0:1:1", "2 to 100,000 points"),
        ("--vec1_scan rise=0.5", "rise must be above 1"),
        ("--vec1_scan rise=2,step=1", "unknown key"),
        ("--vec3_scan 0:1:2", "needs the axes before it"),
        ("--load_vec2 between:b.ckpt", "name --vec2_scan"),
        ("--load_vec1 between:b.ckpt --vec2_scan 0:1:2 --load_vec2 between:b.ckpt", "parallel"),
        ("--load_vec1 between:b.ckpt --vec2_scan 0:1:2 --load_vec2 between:b.ckpt "
         "--orthogonal True", "lies in the span"),
        ("--extras loss", "unknown --extras"),
        ("--shard 3/2", "needs i in 1..n"),
        ("--adversary max --extras gradient_norm", "has no --extras"),
        ("--adversary frozen", "needs --attack"),
        ("--vec1_scan step=0.5,adv_calc_freq=2", "adv_calc_freq has no effect"),
        ("--trajectory a_1.ckpt,b.ckpt --vec_scale 2", "--vec_scale has no effect where no"),
        ("--load_vec1 between:b.ckpt --vec_bias layer", "--vec_bias has no effect where no"),
        ("--orthogonal True", "--orthogonal has no effect without a second"),
        ("--vec_scale 0", "zero"),
    ],
)  # fmt: skip
def test_what_makes_no_scan_is_refused(options, said, runs):
    before = sorted(p.name for p in runs.iterdir())
    assert said in refused(f"scan_param --model2load a.ckpt {LOOK} --model_name no {options}")
    assert sorted(p.name for p in runs.iterdir()) == before


def test_networks_on_a_curve_make_an_ensemble():
    ok("train_curve --model2load a.ckpt,,b.ckpt --fix_points 1,0,1 --epoch_num 1 --model_name bend "
       f"--out_folder . --subset_size 24 --batch_size 12 --optim {ADAM}")  # fmt: skip
    for t, file in (("0", "a.ckpt"), ("1", "b.ckpt")):
        ok(f"test_ensemble --model2load bend.ckpt@{t} --subset_size 8 --out_file on{t}")
        ok(f"test_ensemble --model2load {file} --subset_size 8 --out_file off{t}")
        on, off = load_result(f"on{t}.nc"), load_result(f"off{t}.nc")
        np.testing.assert_array_equal(on["losses"], off["losses"])  # LeNet has no BatchNorm
    ok("test_ensemble --model2load bend.ckpt@0,bend.ckpt@0.5,bend.ckpt@1 --subset_size 8 "
       "--out_file all")  # fmt: skip
    single = load_result("on0.nc")
    assert abs(load_result("all.nc")["losses"] - single["losses"]).max() > 1e-6
    assert "lies in 0..1" in refused("test_ensemble --model2load bend.ckpt@1.5")
    assert "not a curve" in refused("test_ensemble --model2load a.ckpt@0.5")
    assert "no such" in refused("test_ensemble --model2load none.ckpt@0.5")
