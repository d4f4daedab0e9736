"""scan_forgetting: the plane and the line through the networks around a forgetting."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr

from ridgeline.analysis.figures import draw
from ridgeline.landscape.batchnorm import place_on
from ridgeline.landscape.problem import Problem
from ridgeline.landscape.weights.paths import curve
from ridgeline.landscape.weights.point import norm, select, subtract
from ridgeline.models import build_model
from ridgeline.train.data.datasets import load_images
from ridgeline.train.files.checkpoint import load_checkpoint
from tests.commands import call, tiny_set

STAGES = ("before", "after", "relearnt")
PGD = "name=pgd,threshold=0.1,step_size=0.05,iter_num=2"
LINE = "scan_forgetting --points 5 --subset_size 10 --model2load " + ",".join(
    f"runs/f_cycle1_{stage}.ckpt" for stage in STAGES
)


@pytest.fixture(scope="module")
def forgetful(tmp_path_factory):
    """A run of FOMO and one of LURE, of one cycle and two chunks, on a network with BatchNorm."""
    folder = tmp_path_factory.mktemp("forgetful")
    tiny_set(folder)
    shared = ("--dataset tiny.npz --model_type preact --width 1 --out_folder runs --optim "
              "name=adam,lr=1e-3 --eval_size 4")  # fmt: skip
    for line in (
        f"train_fomo --model_name f {shared} --subset_size 20 --batch_size 10 --epoch_num 3 "
        f"--fomo_warmup 1 --fomo_relearn 1 --fomo_rate 0.3 --eval_attack None --attack {PGD}",
        f"train_lure --model_name l {shared} --meta_batch_size 20 --meta_batch_number 2 "
        "--epoch_num 1 --batch_size 9",
    ):
        done = call(line, folder)
        assert done.returncode == 0, done.stderr
    return folder


def points(folder):
    """The problem at the network before forgetting, and the three networks' weights."""
    images = load_images(str(folder / "tiny.npz"), "train").subset(10)
    files = [load_checkpoint(folder / f"runs/f_cycle1_{stage}.ckpt") for stage in STAGES]
    network = build_model("preact", (3, 32, 32), width=1)
    files[0].load_into(network)
    problem = Problem(network, images)
    return problem, [select(f.tensors, problem.origin, str(f.path)) for f in files]


def test_the_plane_holds_the_three_networks(forgetful):
    done = call(LINE, forgetful)
    assert done.returncode == 0, done.stderr
    ds = xr.load_dataset(forgetful / "runs/f_cycle1_before_forgetting.nc", engine="h5netcdf")
    assert dict(ds.sizes) == {"eps": 1, "x1": 5, "x2": 5, "checkpoint": 3, "axis": 2}
    assert ds["checkpoint"].values.tolist() == list(STAGES)
    assert ds["loss"].notnull().all()
    _, (before, after, relearnt) = points(forgetful)
    moved = norm(subtract(after, before))
    np.testing.assert_allclose(ds["position"][:2], [[0, 0], [moved, 0]], rtol=1e-4, atol=1e-5)
    far = norm(subtract(relearnt, before))
    np.testing.assert_allclose(np.hypot(*ds["position"].values[2]), far, rtol=1e-4)
    assert (ds["off_plane"] < 1e-3 * far).all()
    for axis in ("x1", "x2"):  # every network lies within, a margin beside it
        inside = ds["position"].sel(axis=axis)
        assert ds[axis][0] < inside.min() and inside.max() < ds[axis][-1]
    for suffix in ("png", "pdf"):
        assert (forgetful / f"runs/f_cycle1_before_forgetting.{suffix}").stat().st_size > 1000


def test_the_line_goes_from_network_to_network_with_statistics_of_its_own(forgetful):
    done = call(f"{LINE} --view line --attack {PGD} --adv_budget_list 0,0.1", forgetful)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("barrier") == 4  # two budgets, the way round and the straight one
    path = forgetful / "runs/f_cycle1_before_forgetting_line.nc"
    ds = xr.load_dataset(path, engine="h5netcdf").sel(subset="tiny")
    problem, knots = points(forgetful)
    chain = curve("poly_chain", knots)
    clean = ds["loss"].sel(eps=0, path="curve")
    for t in (0.0, 0.5, 1.0):
        here = problem.evaluate(*place_on(problem, chain, [t], "recalibrate"))
        assert float(clean.sel(t=t)) == pytest.approx(here.loss, rel=1e-5)
    middle = {n: (a + b) / 2 for n, (a, b) in zip(
        knots[0], zip(knots[0].values(), knots[2].values(), strict=True), strict=True)}  # fmt: skip
    straight = problem.evaluate(*place_on(problem, curve("poly_chain", [middle] * 2), [0.0],
                                          "recalibrate"))  # fmt: skip
    assert ds["checkpoint_t"].values.tolist() == [0, 0.5, 1]
    drawn = draw(xr.load_dataset(path, engine="h5netcdf"))
    texts = [t.get_text() for t in drawn.axes[0].texts]
    assert texts == ["before", "after", "relearnt"]
    assert float(ds["loss"].sel(eps=0, path="line", t=0.5)) == pytest.approx(
        straight.loss, rel=1e-5
    )
    assert (ds["loss"].sel(eps=0.1) > ds["loss"].sel(eps=0)).all()


def test_kept_statistics_give_other_numbers_and_a_drawn_figure_stays(forgetful):
    assert call(f"{LINE} --view line --out_file a", forgetful).returncode == 0
    assert call(f"{LINE} --view line --batchnorm keep --out_file b", forgetful).returncode == 0
    a, b = (xr.load_dataset(forgetful / f"{n}.nc", engine="h5netcdf") for n in "ab")
    assert not np.allclose(a["loss"], b["loss"])
    figure = forgetful / "a.png"
    figure.write_bytes(b"mine")
    again = call(f"{LINE} --view line --out_file a", forgetful)
    assert (again.returncode, "its figure is a.png" in again.stdout) == (0, True)
    assert figure.read_bytes() == b"mine"
    (forgetful / "c.png").write_bytes(b"mine")
    refused = call(f"{LINE} --view line --out_file c", forgetful)
    assert (refused.returncode, "c.png" in refused.stderr) == (2, True)
    assert not (forgetful / "c.nc").exists()


def test_chunks_of_lure_are_looked_at_the_same_way(forgetful):
    done = call("scan_forgetting --view line --points 3 --subset_size 6 --out_file lure "
                "--model2load runs/l_chunk1_best.ckpt,runs/l_chunk2_init.ckpt,"
                "runs/l_chunk2_best.ckpt", forgetful)  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, anew = (load_checkpoint(forgetful / f"runs/l_{n}.ckpt").tensors
                   for n in ("chunk1_best", "chunk2_init"))  # fmt: skip
    name = "layer4.1.conv2.weight"
    share = (first[name] != anew[name]).double().mean().item()
    assert 0 < share < 1  # what stands before the second chunk has forgotten a part
    assert torch.equal(first["layer4.1.bn2.weight"], anew["layer4.1.bn2.weight"])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--model2load a.ckpt,b.ckpt", "needs three checkpoints"),
        ("--model2load a.ckpt,,b.ckpt", "needs three checkpoints"),
        ("--model2load a.ckpt,b.ckpt,c.ckpt --points 4", "--points must be odd"),
        ("--model2load a.ckpt,b.ckpt,c.ckpt --view plane", "allowed: line, surface"),
        ("--model2load a.ckpt,b.ckpt,c.ckpt", "no such checkpoint: a.ckpt"),
    ],
)
def test_bad_input_is_one_line_and_nothing_on_disk(line, said, refuse):
    assert said in refuse("scan_forgetting", *line.split())


def test_networks_on_one_line_span_no_plane(forgetful):
    name = "runs/f_cycle1_before.ckpt"
    done = call(f"scan_forgetting --model2load {name},{name},runs/f_cycle1_after.ckpt "
                "--subset_size 4 --out_file none", forgetful)  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
