"""Curvature as commands give it: log of products, several processes, anchors, figures."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import xarray as xr

from ridgeline.analysis import exact_checks
from ridgeline.analysis.figures.curvature import draw_hessian
from ridgeline.landscape.curvature.measures import SpectrumOptions, blocks_of, measure
from ridgeline.landscape.curvature.operators import Hessian, Operator
from ridgeline.landscape.curvature.product_log import ProductLog
from ridgeline.landscape.problem import Problem
from ridgeline.landscape.result import load_result, save_result, stamp
from ridgeline.landscape.weights.point import point_of
from ridgeline.models import InputError
from ridgeline.train.files.checkpoint import load_checkpoint
from tests.commands import call
from tests.conftest import ROOT, make_conv_bn, make_images, make_mlp

WANTED = SpectrumOptions(topk=3, density_probes=2, density_steps=12, trace_products=6)


def hessian() -> Hessian:
    return Hessian(Problem(make_mlp(), make_images(20), batch_size=7))


class Killed(Exception):
    pass


@pytest.mark.parametrize("torn", [0, 5])
def test_a_killed_measurement_repeats_its_products_and_ends_the_same(tmp_path, monkeypatch, torn):
    straight, vectors, _ = measure(ProductLog(hessian(), tmp_path / "a", {"n": 1}), WANTED, 0)
    product, calls = Operator.matmat, []

    def failing(self, v):
        calls.append(1)
        if len(calls) > 9:
            raise Killed
        return product(self, v)

    monkeypatch.setattr(Operator, "matmat", failing)
    with pytest.raises(Killed):
        measure(ProductLog(hessian(), tmp_path / "b", {"n": 1}), WANTED, 0)
    monkeypatch.undo()
    with (tmp_path / "b").open("ab") as file:
        file.write(b"x" * torn)  # a record the kill tore
    log = ProductLog(hessian(), tmp_path / "b", {"n": 1})
    again, same, _ = measure(log, WANTED, 0)
    assert log.replayed == 9
    assert np.array_equal(vectors, same)
    xr.testing.assert_identical(straight.drop_vars("seconds"), again.drop_vars("seconds"))
    log.remove()
    assert not (tmp_path / "b").exists()


def test_a_journal_of_another_recipe_or_another_course_is_not_believed(tmp_path):
    v, w = torch.randn(2, hessian().shape[0], dtype=torch.float64)
    first = ProductLog(hessian(), tmp_path / "a", {"n": 1})
    hv = first.matvec(v)
    assert ProductLog(hessian(), tmp_path / "a", {"n": 1}).matvec(v).equal(hv)
    other = ProductLog(hessian(), tmp_path / "a", {"n": 1})
    torch.testing.assert_close(other.matvec(w), hessian().matvec(w))
    assert other.replayed == 0
    fresh = ProductLog(hessian(), tmp_path / "a", {"n": 2})
    fresh.matvec(w)
    assert fresh.replayed == 0


def test_blocks():
    origin = point_of(make_conv_bn())
    assert list(blocks_of(origin, "each")) == ["conv", "bn", "conv2", "bn2", "head"]
    assert blocks_of(origin, "conv*.weight,head.*") == {
        "conv*.weight": ["conv.weight", "conv2.weight"],
        "head.*": ["head.weight", "head.bias"],
    }
    with pytest.raises(InputError, match="matches no parameter"):
        blocks_of(origin, "layer4.*")


@pytest.mark.parametrize("anchor", exact_checks.ANCHORS, ids=lambda a: a.__name__)
def test_anchors_pass(anchor):
    findings = list(anchor(exact_checks.Bench(torch.device("cpu"), torch.float64)))
    assert findings
    assert all(f.passed for f in findings), [f for f in findings if not f.passed]


@pytest.mark.parametrize("name", ["least_squares", "softmax", "small_network",
                                  "adversarial_logistic"])  # fmt: skip
def test_anchors_fail_when_a_batch_is_weighted_wrongly(name, monkeypatch):
    """The commonest error of the field: the mean of batch means, on ragged batches."""
    product = Operator.matmat
    monkeypatch.setattr(
        Operator, "matmat", lambda self, v: product(self, v) * self.examples / (self.examples + 1)
    )
    findings = list(
        getattr(exact_checks, name)(exact_checks.Bench(torch.device("cpu"), torch.float64))
    )
    assert not all(f.passed for f in findings)


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("untrained")
    line = "train_normal --model_name net --epoch_num 0 --width 1 --out_folder runs"
    assert call(line, folder).returncode == 0
    return folder / "runs"


@pytest.fixture
def checkpoint(untrained, tmp_path):
    shutil.copytree(untrained, tmp_path / "runs")
    return tmp_path / "runs" / "net.ckpt"


def command(checkpoint, name, *options):
    return ["--model2load", checkpoint, "--subset_size", "30", "--out_file",
            checkpoint.with_name(name), *options]  # fmt: skip


def test_every_operator_by_command(checkpoint, run_command):
    pgd = ["--attack", "name=pgd,threshold=0.1,iter_num=3,order=-1"]
    l2 = ["--attack", "name=pgd,threshold=1/2,iter_num=5,order=2"]
    runs = {
        "blocks.nc": ["--blocks", "conv1.*", "--topk", "2", "--density_probes", "2",
                      "--density_steps", "5", "--trace_products", "4"],
        "ggn.nc": ["--operator", "ggn", "--weight_decay", "0.5"],
        "mc.nc": ["--operator", "mc_fisher", "--precision", "float64"],
        "input.nc": ["--operator", "input", "--topk", "2", *pgd],
        "total.nc": ["--adversary", "total", *l2],
        "eps.nc": [*pgd, "--adv_budget_list", "name=linear,start_v=0,slope=0.1,pt_num=2"],
        "ph.nc": ["--estimator", "pyhessian", "--which", "LM", "--trace_products", "3"],
    }  # fmt: skip
    for name, options in runs.items():
        if name == "input.nc":
            options += ["--subset", "test"]
        run_command("calc_hessian", *command(checkpoint, name, *options), check=True)
    results = {n: load_result(checkpoint.with_name(n), "hessian") for n in runs}
    assert results["blocks.nc"]["eigenvalue"].shape == (1, 1, 2)
    assert float(results["blocks.nc"]["trace_se"].squeeze()) > 0
    assert float(results["ggn.nc"]["eigenvalue"].squeeze()) > 0.5
    assert results["input.nc"].sizes["block"] == 30
    assert "follow the weights" in results["total.nc"].attrs["hessian"]
    assert 0 <= float(results["total.nc"]["share_regular"].squeeze()) <= 1
    assert results["eps.nc"]["eps"].values.tolist() == [0, 0.1]
    assert results["eps.nc"].sizes["example"] == 30
    assert results["ph.nc"].attrs["estimator"] == "pyhessian"
    assert not list(checkpoint.parent.glob(".*"))  # nothing left of journals and parts
    vector = load_checkpoint(checkpoint.with_name("blocks_vec1.ckpt")).tensors
    assert all(t.abs().max() == 0 for n, t in vector.items() if not n.startswith("conv1"))
    plotted = run_command("plot", "--result", checkpoint.with_name("eps.nc"), "--against", "eps")
    assert plotted.returncode == 0
    refused = run_command("plot", "--result", checkpoint.with_name("ggn.nc"), "--against", "eps",
                          "--out_file", "x")  # fmt: skip
    assert refused.returncode == 2
    assert "one budget" in refused.stderr


def test_calc_hessian_survives_kill_9(checkpoint, run_command):
    """Two budgets, killed in the middle of the first: same numbers, same eigenvectors."""
    wanted = ["--topk", "4", "--density_probes", "3", "--density_steps", "40",
              "--attack", "name=pgd,threshold=0.1,iter_num=3,order=-1",
              "--adv_budget_list", "name=linear,start_v=0,slope=0.1,pt_num=2"]  # fmt: skip
    run_command("calc_hessian", *command(checkpoint, "straight.nc", *wanted), check=True)
    line = command(checkpoint, "killed.nc", *wanted)
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "run/calc_hessian.py"), *map(str, line)],
        stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    log = checkpoint.with_name(".killed_eps0_all.products")
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (log.exists() and log.stat().st_size > 1e6):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert log.stat().st_size > 1e6
    assert not checkpoint.with_name("killed.nc").exists()
    run_command("calc_hessian", *line, check=True)
    straight, killed = (
        load_result(checkpoint.with_name(f"{n}.nc")) for n in ("straight", "killed")
    )
    xr.testing.assert_equal(straight.drop_vars("seconds"), killed.drop_vars("seconds"))
    for n in range(4):
        a, b = (load_checkpoint(checkpoint.with_name(f"{x}_eps0.1_all_vec{n}.ckpt")).tensors
                for x in ("straight", "killed"))  # fmt: skip
        assert all(torch.equal(a[k], b[k]) for k in a)
    assert not list(checkpoint.parent.glob(".*"))


def test_what_a_killed_run_left_is_refused_at_once_or_dropped(checkpoint, run_command):
    """A part of another recipe: one line before computing; with --overwrite it goes."""
    budgets = ["--attack", "name=pgd,threshold=0.1,iter_num=3,order=-1",
               "--adv_budget_list", "name=linear,start_v=0,slope=0.1,pt_num=2"]  # fmt: skip
    line = command(checkpoint, "a.nc", *budgets)
    run_command("calc_hessian", *line, check=True)
    part = checkpoint.with_name(".a_eps0.1_all.part")
    ds = load_result(checkpoint.with_name("a.nc"))
    save_result(stamp(ds, "hessian cell", {"n": 1}), part)
    checkpoint.with_name("a.nc").unlink()
    for vector in checkpoint.parent.glob("a_*"):
        vector.unlink()
    refused = run_command("calc_hessian", *line)
    assert refused.returncode == 2
    assert ".a_eps0.1_all.part" in refused.stderr
    assert not list(checkpoint.parent.glob("a_*"))
    run_command("calc_hessian", *line, "--overwrite", check=True)
    assert not part.exists()


def test_the_diagonal_alone(checkpoint, run_command):
    line = command(checkpoint, "e.nc", "--topk", "0", "--diagonal_products", "4")
    run_command("calc_hessian", *line, check=True)
    assert int(load_result(checkpoint.with_name("e.nc"))["products"].squeeze()) == 4
    assert checkpoint.with_name("e_diagonal.ckpt").exists()


def test_the_diagonal_is_written_as_a_point(checkpoint, run_command):
    line = command(checkpoint, "d.nc", "--topk", "0", "--diagonal_products", "4",
                   "--trace_products", "4")  # fmt: skip
    run_command("calc_hessian", *line, check=True)
    diagonal, error = (load_checkpoint(checkpoint.with_name(f"d_{n}.ckpt")).tensors
                       for n in ("diagonal", "diagonal_se"))  # fmt: skip
    assert diagonal.keys() == error.keys()
    assert all((e >= 0).all() for e in error.values())
    ds = load_result(checkpoint.with_name("d.nc"))
    assert int(ds["products"].squeeze()) == 8  # those of the diagonal count
    total = sum(t.double().sum().item() for t in diagonal.values())
    spread = sum(e.double().square().sum().item() for e in error.values()) ** 0.5
    assert abs(total - float(ds["trace"].squeeze())) < 10 * (
        spread + float(ds["trace_se"].squeeze())
    )


def test_two_processes_give_the_numbers_of_one(checkpoint, run_command):
    """Sums over ragged shards; files written once, by the first process."""
    attack = ["--attack", "name=pgd,threshold=0.1,iter_num=3,order=-1", "--topk", "2",
              "--trace_products", "3", "--precision", "float64"]  # fmt: skip
    odd = ["--model2load", str(checkpoint), "--subset_size", "31", *attack]
    run_command("calc_hessian", *odd, "--out_file", "one.nc", check=True)
    cwd = checkpoint.parent.parent
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
         str(ROOT / "run" / "calc_hessian.py"), *odd, "--out_file", "two.nc"],
        cwd=cwd, check=True, timeout=200, capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    one, two = (load_result(cwd / f"{n}.nc", "hessian") for n in ("one", "two"))
    for name in ("eigenvalue", "trace", "trace_se", "mean_loss"):
        np.testing.assert_allclose(one[name], two[name], rtol=1e-5)


def test_density_and_eigenvalues_share_a_figure():
    ds, *_ = measure(hessian(), WANTED, 0)
    figure = draw_hessian({"a": ds, "b": ds})
    assert [a.get_xlabel() for a in figure.axes] == ["rank", "Hessian eigenvalue"]
    with pytest.raises(InputError, match="one budget"):
        draw_hessian({"a": ds}, against="eps")
