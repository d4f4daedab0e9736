"""Every command as a user types it: smoke tests, README's examples, help, and bad input."""

from __future__ import annotations

import importlib
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from PIL import Image

from ridgeline.models import build_model
from ridgeline.run.shared.launch import arguments, options_of
from ridgeline.train.files.checkpoint import load_checkpoint, save_checkpoint
from ridgeline.train.files.recipe import file_digest
from tests.commands import DEMO, call

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = sorted(p.stem for p in (ROOT / "run").glob("*.py") if "launch(main" in p.read_text())
REQUIRED = {
    "train_normal", "selfcheck", "calc_hessian", "scan_param", "train_curve", "scan_curve",
    "generate_adversary", "analyze_adversary", "perturb_param", "calc_param_distance",
    "calc_filter_spectrum", "test_ensemble", "test_budgets", "plot", "demo", "train_apart",
    "analyze_generator", "train_frequency", "calc_fourier", "figures",
    "test_corruptions", "analyze_spectral_bias", "train_fomo", "train_cure", "train_lure",
    "analyze_overfitting", "calc_trajectory", "calc_cka", "merge", "analyze_scattering",
    "align_network", "redo", "export", "scan_forgetting", "calc_sharpness",
    "analyze_sharpness", "compare_checkpoints", "train_liet", "report",
}  # fmt: skip
ATTACK = "name=pgd,step_size=0.05,iter_num=2,order=-1,threshold=0.1"
SMALL = ("--subset_size", 40)


def quick_train(folder: Path, name: str, *options: str, seed: int = 0) -> None:
    line = (
        "train_normal", "--out_folder", "runs", "--model_name", name, "--width", 1,
        "--epoch_num", 1, "--subset_size", 100, "--eval_size", 50, "--seed", seed,
        "--optim", "name=adam,lr=1e-3", *options,
    )  # fmt: skip
    assert call(line, folder).returncode == 0


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two trained LeNets in runs/, shared by the tests of this file (copied per test)."""
    folder = tmp_path_factory.mktemp("trained")
    quick_train(folder, "a")
    quick_train(folder, "b", "--attack", ATTACK, seed=1)
    return folder


@pytest.fixture
def workspace(trained, tmp_path):
    subprocess.run(["cp", "-r", str(trained / "runs"), str(tmp_path / "runs")], check=True)
    return tmp_path


def test_help_needs_no_pager(run_process):
    done = run_process("plot", "--help", check=True)  # PAGER=false would fail one
    assert "--result" in done.stdout


def test_all_commands_are_there():
    assert set(COMMANDS) == REQUIRED


@pytest.mark.parametrize("command", COMMANDS)
def test_help_lists_every_option_with_type_default_and_one_line(command):
    status, said, _ = call(f"{command} --help")
    assert status == 0
    options = options_of(importlib.import_module(f"ridgeline.run.{command}").main)
    lines = {line.split()[0]: line for line in said.splitlines() if "--" in line[:6]}
    for name, option in options.items():
        assert option.type_name in lines[f"--{name}"]
        assert re.search(r"\S.* \[default: .+\]$", lines[f"--{name}"])
        assert option.about.note, name
        for word in option.about.choices:
            assert re.search(rf"\b{re.escape(word)}\b", lines[f"--{name}"]), (name, word)
    inside = re.findall(r"<\w+ .*>|\bobject at\b|\btyping\.|\bAnnotated\b|\bNoneType\b", said)
    assert not inside  # what Python calls a thing tells a user nothing


def test_the_whole_chain(workspace, run_command):
    """The pipelines of the reference, on a network of width 1."""
    run = lambda *a: run_command(*a, check=True).stdout  # noqa: E731
    out = run(
        "calc_hessian", "--model2load", "runs/a.ckpt", "--topk", 2, "--attack", ATTACK, *SMALL
    )
    assert "residual" in out and "images frozen" in out
    ds = xr.load_dataset(workspace / "runs/a_hessian.nc", engine="h5netcdf")
    assert (ds["residual"] <= 1e-3 * abs(ds["eigenvalue"])).all()
    vector = load_checkpoint(workspace / "runs/a_hessian_vec1.ckpt").tensors
    assert sum(float((v**2).sum()) for v in vector.values()) == pytest.approx(1, rel=1e-5)

    run("scan_param", "--model2load", "runs/a.ckpt", "--vec1_scan", "step=1", "--vec2_scan",
        "step=1,max=0", "--load_vec1", "runs/a_hessian.nc", "--attack", ATTACK,
        "--adv_budget_list", "name=linear,start_v=0,slope=0.1,pt_num=2", *SMALL)  # fmt: skip
    ds = xr.load_dataset(workspace / "runs/a_results.nc", engine="h5netcdf")
    assert dict(ds.sizes) == {"eps": 2, "x1": 3, "x2": 2}
    assert ds["loss"].notnull().all()
    saved = load_checkpoint(workspace / "runs/a_vec1.ckpt").tensors
    first = load_checkpoint(workspace / "runs/a_hessian_vec0.ckpt").tensors
    assert all(torch.equal(saved[k], first[k]) for k in first)

    out = run("perturb_param", "--model2load", "runs/a.ckpt", "--vec2load", "runs/a_hessian.nc",
              "--eigenvec_idx", 1, "--vec_scale", 0.5)  # fmt: skip
    out = run("calc_param_distance", "--ckpt_file1", "runs/a.ckpt", "--ckpt_file2",
              "runs/a_perturbed.ckpt", "--out_file", "runs/d")  # fmt: skip
    assert "distance     0.5000" in out.splitlines()[-1]
    run("perturb_param", "--model2load", "runs/a.ckpt", "--model_name", "gauss")
    assert (workspace / "runs/gauss.ckpt").exists()

    run("train_curve", "--fix_points", "1,0,1", "--model2load", "runs/a.ckpt,,runs/b.ckpt",
        "--epoch_num", 1, "--attack", ATTACK, *SMALL, "--eval_size", 20)  # fmt: skip
    out = run("scan_curve", "--model2load", "runs/curve.ckpt", "--step_size", 0.5, *SMALL,
              "--fix_points", "1,0,1", "--curve_type", "bezier")  # fmt: skip
    assert out.count("barrier") == 4

    for name in "ab":
        run("generate_adversary", "--model2load", f"runs/{name}.ckpt", "--attack", ATTACK,
            "--out_file", f"adv/{name}", *SMALL)  # fmt: skip
    run("generate_adversary", "--model2load", "runs/a.ckpt", "--out_file", "adv/clean", *SMALL)
    out = run("analyze_adversary", "--folder", "adv", "--dataset", "mnist5k")
    assert "noise floor" in out and "zero perturbations 40" in out

    assert "K=5" in run("calc_filter_spectrum", "--model2load", "runs/a.ckpt")
    out = run("test_ensemble", "--model2load", "runs/a.ckpt,runs/b.ckpt", *SMALL, "--out_file",
              "runs/e.json", "--attack",
              "name=apgd,threshold=0.1,iter_num=3,loss_type=dlr,order=-1,rho=0.75")  # fmt: skip
    assert "adversarial accuracy" in out
    assert (workspace / "runs/e.nc").exists()
    for result in ("a_hessian.nc", "a_results.nc", "curve_scan.nc", "d.nc", "a_spectrum.nc",
                   "a.jsonl", "../adv/similarity.nc"):  # fmt: skip
        out = run("plot", "--result", f"runs/{result}")
        assert all((workspace / name).stat().st_size for name in re.findall(r"\S+\.p\w\w", out))


def test_results_are_reused_completed_or_refused(workspace, run_command):
    scan = ("scan_param", "--model2load", "runs/a.ckpt", "--vec1_scan", "step=0.5", *SMALL)
    run_command(*scan, check=True)
    path = workspace / "runs/a_results.nc"
    whole = xr.load_dataset(path, engine="h5netcdf")
    half = whole.copy(deep=True)
    for name in half.data_vars:
        half[name].values[:, 2:] = np.nan
    half["done"].values[:, 2:] = False
    half["loss"].values[0, 0] = 123.0  # a stored cell is trusted, not computed again
    half.to_netcdf(path, engine="h5netcdf")
    run_command(*scan, "--batch_size", 7, check=True)
    again = xr.load_dataset(path, engine="h5netcdf")
    assert float(again["loss"][0, 0]) == 123.0
    np.testing.assert_allclose(again["loss"][0, 1:], whole["loss"][0, 1:], rtol=1e-5)
    content = path.read_bytes()
    done = run_command(*scan, "--seed", 5)
    assert done.returncode == 2
    assert "another recipe" in done.stderr and "--overwrite" in done.stderr
    assert path.read_bytes() == content
    run_command(*scan, "--seed", 5, "--overwrite", check=True)
    assert path.read_bytes() != content


README_EXAMPLES = {
    # the four commands of the reference's README; the tests change only what the marks name
    "hessian": "calc_hessian --model_type lenet --width 16 --model2load {lenet} --attack "
    "name=pgd,step_size=0.01,threshold=0.1,iter_num=20,order=-1 --out_file out/h --topk 20 "
    "--max_iter 50 --gpu cpu",
    "pas": "train_normal --dataset mnist --epoch_num 100 --epoch_ckpts 50,75,100 "
    "--model_type lenet --width 16 --out_folder out --model_name pas --optim name=adam,lr=1e-4 "
    "--attack "
    "name=pgd,step_size=0.01,iter_num=50,order=-1,threshold=0.4 --attack_threshold_schedule "
    "name=cycle_cos,eps_min=0,eps_max=0.6,ckpt_list=0:100,max=0.4 --gpu cpu --lr_schedule "
    "name=constant,start_v=1e-4",
    "ensemble": "test_ensemble --batch_size 100 --model2load {resnet},{resnet},{resnet} --out_file "
    "out/e --gpu cpu --attack name=apgd,threshold=8,iter_num=100,order=-1,rho=0.75,loss_type=dlr "
    "--model_type resnet --dataset cifar10 --width 8",
    "curve": "train_curve --epoch_num 200 --dataset cifar10 --model_type resnet --width 8 "
    "--fix_points 1,0,0,0,1 --model2load {resnet},,,,{resnet} --curve_type bezier --out_folder out "
    "--model_name curve --optim name=sgd,lr=0.1,momentum=0.9,weight_decay=1e-6 --lr_schedule "
    "name=jump,min_jump_pt=100,jump_freq=50,power=0.1,start_v=1e-1 --attack "
    "name=pgd,step_size=2,threshold=8,iter_num=10,order=-1 --gpu cpu",
}
SHORTER = {
    "hessian": [("iter_num=20", "iter_num=1"), ("--width 16", "--width 1"),
                ("--topk 20", "--topk 2")],
    "pas": [("--epoch_num 100", "--epoch_num 2"), ("50,75,100", "1,2"),
            ("iter_num=50", "iter_num=1"), ("--width 16", "--width 1"), ("0:100", "0:2")],
    "ensemble": [("iter_num=100", "iter_num=2"), ("--width 8", "--width 1")],
    "curve": [("--epoch_num 200", "--epoch_num 1"), ("--width 8", "--width 1"),
              ("iter_num=10", "iter_num=1")],
}  # fmt: skip


@pytest.fixture
def tiny_cifar(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "tiny.npz"
    arrays = {}
    for part, count in (("train", 20), ("test", 10)):
        arrays[f"{part}_images"] = rng.integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)
        arrays[f"{part}_labels"] = np.arange(count) % 10
    np.savez(path, **arrays)
    return str(path)


@pytest.mark.parametrize("name", README_EXAMPLES)
def test_examples_of_the_reference_run_with_unchanged_flags(
    name, tmp_path, run_command, tiny_cifar
):
    """Only epochs, iterations, width (and eigenpairs) shrink; the data set is a small stand-in."""
    torch.manual_seed(0)
    for model, shape in (("lenet", (1, 28, 28)), ("resnet", (3, 32, 32))):
        torch.save(build_model(model, shape, width=1).state_dict(), tmp_path / f"{model}.ckpt")
    line = README_EXAMPLES[name].format(lenet="lenet.ckpt", resnet="resnet.ckpt")
    for old, new in SHORTER[name]:
        assert old in line
        line = line.replace(old, new)
    options = line.replace("--dataset mnist", "--dataset mnist5k").replace(
        "--dataset cifar10", f"--dataset {tiny_cifar}"
    )
    extra = {"hessian": "--dataset mnist5k --subset_size 30", "pas": "--subset_size 30"}
    run_command(*options.split(), *extra.get(name, "").split(), check=True)
    written = {p.name for p in (tmp_path / "out").iterdir()}
    wanted = {
        "hessian": {"h.nc", "h_vec0.ckpt", "h_vec1.ckpt"},
        "pas": {"pas.ckpt", "pas_1.ckpt", "pas_2.ckpt", "pas_init.ckpt", "pas.jsonl"},
        "ensemble": {"e.nc"},
        "curve": {"curve.ckpt", "curve_init.ckpt", "curve.jsonl"},
    }
    assert written == wanted[name]
    if name == "pas":
        lines = [json.loads(x) for x in (tmp_path / "out/pas.jsonl").read_text().splitlines()]
        assert [m["eps"] for m in lines] == pytest.approx([0, 0.3])
        assert [m["lr"] for m in lines] == [1e-4, 1e-4]


@pytest.mark.parametrize("name", README_EXAMPLES)
def test_examples_of_the_reference_parse_to_the_last_flag(name):
    command, *argv = README_EXAMPLES[name].format(lenet="l", resnet="r").split()
    parsed = arguments(importlib.import_module(f"ridgeline.run.{command}").main, argv)
    if name == "curve":
        assert parsed["control"].fix_points == (1, 0, 0, 0, 1)
        assert parsed["control"].model2load == ("r", "", "", "", "r")
        assert parsed["training"].epoch_num == 200
    if name == "pas":
        assert parsed["output"].epoch_ckpts == (50, 75, 100)


def bad_lines(folder: Path) -> dict[str, tuple[str, str]]:
    """Name -> (command line, what the one line on stderr must hold)."""
    claimed = {"model": {"model_type": "lenet", "width": 1}, "data": {"dataset": "mnist5k"}}
    wider = build_model("lenet", (1, 28, 28), width=2)
    save_checkpoint(folder / "w2.ckpt", wider.state_dict(), claimed)
    good = (folder / "runs/a.ckpt").read_bytes()
    (folder / "cut.ckpt").write_bytes(good[: len(good) // 2])

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(folder / "executed"),)

    (folder / "evil.ckpt").write_bytes(pickle.dumps(Evil()))
    save_checkpoint(folder / "ext.ckpt", {}, {"model": {"model_type": "os:getcwd"}})
    (folder / "broken.nc").write_bytes(b"no netCDF")
    hessian, scan = "calc_hessian --model2load runs/a.ckpt", "scan_param --model2load runs/a.ckpt"
    train = "train_normal --model_name new --out_folder runs"
    return {
        "unknown flag": (f"{train} --epoch=5", "did you mean"),
        "single dash": (f"{train} -e 5", "unknown option '-e'"),
        "positional": (f"{train} 5", "--name value"),
        "repeated flag": (f"{train} --width 1 --width 2", "given twice"),
        "flag without value": (f"{train} --width", "needs a value (int)"),
        "required": ("calc_hessian", "required: --model2load"),
        "wrong type": (f"{train} --width abc", "--width must be a whole number, got 'abc'"),
        "wrong bool": (f"{train} --bias maybe", "0, 1, true, false"),
        "wrong list": (f"{train} --epoch_ckpts 1,x", "--epoch_ckpts must be a whole number"),
        "unknown model": (f"{train} --model_type lenett", "did you mean 'lenet'"),
        "unfit model": (f"{train} --model_type vgg", "does not take images of shape 1x28x28"),
        "unknown attack": (f"{train} --attack name=pdg,threshold=0.1", "did you mean 'pgd'"),
        "unknown schedule": (f"{train} --lr_schedule name=cosine", "allowed: constant"),
        "unknown optimiser": (f"{train} --optim name=lion,lr=1", "allowed: adadelta"),
        "unknown data set": (f"{train} --dataset mnist5", "did you mean 'mnist5k'"),
        "missing npz": (f"{train} --dataset a.npz", "no such file: a.npz"),
        "absent set": (f"{train} --dataset cifar10 --data_dir empty", "--data_dir"),
        "mixed units": (
            f"{train} --attack name=pgd,threshold=8,step_size=2/255,iter_num=1", "mixed units"),
        "ambiguous unit": (f"{train} --attack name=pgd,threshold=1,iter_num=1", "1/255"),
        "negative budget": (
            f"{train} --attack name=pgd,threshold=-0.1,iter_num=1", "must not be negative"),
        "eps schedule alone": (
            f"{train} --attack_threshold_schedule name=constant,start_v=0", "need --attack"),
        "eps below 0": (
            f"{train} --attack name=pgd,threshold=0.1,iter_num=1 --attack_threshold_schedule "
            "name=linear,start_v=0.1,slope=-0.01", "min=0 clips"),
        "lr below 0": (f"{train} --lr_schedule name=linear,start_v=0.1,slope=-0.01", "epoch 11"),
        "no ratio": (
            f"{train} --attack name=pgd,threshold=0,step_size=0.1,iter_num=1 "
            "--attack_threshold_schedule name=constant,start_v=0.1", "threshold=0"),
        "output folder": (f"{hessian} --out_file runs/a.ckpt/x.nc", "cannot be written"),
        "training folder": ("train_normal --out_folder runs/a.ckpt", "cannot be written"),
        "epoch_ckpts": (f"{train} --epoch_num 2 --epoch_ckpts 3", "1..2"),
        "negative epochs": (f"{train} --epoch_num -3", "must not be negative"),
        "batch size": (f"{train} --batch_size 0", "--batch_size must be at least 1"),
        "seed": (f"{train} --seed -1", "seed must lie in 0..2^64-1, got -1"),
        "clock": (f"{train} --schedule_update_mode step", "allowed: batch, epoch"),
        "gpu": (f"{hessian} --gpu 99", "allowed: cpu"),
        "missing checkpoint": ("calc_hessian --model2load no.ckpt", "no such checkpoint: no.ckpt"),
        "truncated": ("calc_hessian --model2load cut.ckpt", "truncated or not a checkpoint"),
        "malicious": ("calc_hessian --model2load evil.ckpt --dataset mnist5k", "refused"),
        "external by file": ("calc_hessian --model2load ext.ckpt --dataset mnist5k",
                             "pass --model_type os:getcwd yourself"),
        "architecture": ("calc_hessian --model2load w2.ckpt", "another architecture"),
        "topk": (f"{hessian} --topk 0", "--topk must be at least 1"),
        "topk beyond": (f"{hessian} --topk 99999999", "1..13514"),
        "which": (f"{hessian} --which LX", "allowed: LA, LM, SA"),
        "operator": (f"{hessian} --operator fischer", "did you mean 'fisher'"),
        "total clean": (f"{hessian} --adversary total", "needs --attack"),
        "block": (f"{hessian} --blocks layer4.*", "matches no parameter"),
        "trace budget": (f"{hessian} --trace_products 20 --trace_estimator xtrace", "at least 24"),
        "negative": (f"{hessian} --density_probes -1", "must not be negative"),
        "pyhessian": (f"{hessian} --estimator pyhessian", "--which LM"),
        "precision": ("selfcheck --precision half", "allowed: float32, float64, tf32"),
        "batchnorm": (f"{hessian} --batchnorm fresh", "allowed: keep, recalibrate"),
        "subset": (f"{hessian} --subset dev", "allowed: test, train, trained, val"),
        "subset_size": (f"{hessian} --subset_size 0", "--subset_size must be at least 1"),
        "axis key": (f"{scan} --vec1_scan from=0", "allowed: adv_calc_freq, max, min, step"),
        "axis step": (f"{scan} --vec1_scan step=0", "step > 0"),
        "axis freq": (f"{scan} --vec1_scan adv_calc_freq=2 --vec2_scan step=1", "must equal"),
        "budget list below 0": (
            f"{scan} --attack name=pgd,threshold=0.1,iter_num=1 --adv_budget_list "
            "name=linear,start_v=0.1,slope=-0.1,pt_num=3", "must not be negative, got -0.1"),
        "budget list": (f"{scan} --adv_budget_list name=constant,start_v=0,pt_num=2", "--attack"),
        "direction": (f"{scan} --load_vec1 runs/none.ckpt", "no such checkpoint"),
        "direction result": (f"{scan} --load_vec1 broken.nc", "not a netCDF result"),
        "vec mode": (f"{scan} --vec_sample_mode filters", "did you mean 'filter'"),
        "vec bias": (f"{scan} --vec_bias none", "allowed: elementwise, layer, zero"),
        "adversary": (f"{scan} --adversary still", "allowed: anchored, frozen, max, moving"),
        "curve points": ("train_curve --fix_points 1,1 --model2load runs/a.ckpt,runs/b.ckpt",
                         "at least 3"),
        "curve ends": ("train_curve --fix_points 1,0,1 --model2load ,,runs/b.ckpt", "the first"),
        "curve all fixed": (
            "train_curve --fix_points 1,1,1 --model2load runs/a.ckpt,,runs/b.ckpt", "free"),
        "curve type": (
            "train_curve --fix_points 1,0,1 --model2load runs/a.ckpt,,runs/b.ckpt "
            "--curve_type spline", "allowed: bezier"),
        "no curve": ("scan_curve --model2load runs/a.ckpt", "not a curve"),
        "curve step": ("scan_curve --model2load runs/a.ckpt --step_size 0.3", "divide 1"),
        "no folder": ("analyze_adversary --folder none", "no such folder"),
        "empty folder": ("analyze_adversary --folder runs", "holds no result"),
        "foreign folder": ("analyze_adversary --folder .", "broken.nc is truncated or not"),
        "plot missing": ("plot --result none.nc", "no such result file"),
        "plot foreign": ("plot --result broken.nc", "not a netCDF result"),
        "plot labels": ("plot --result a.nc,b.nc --label x", "one label per file"),
        "demo eps": ("demo --probe_eps 0.9", "--probe_eps <= --eps"),
        "training recipe": ("train_normal --model_name a --out_folder runs --width 1",
                            "another recipe"),
    }  # fmt: skip


def test_bad_input_is_one_line_status_2_and_harms_nothing(workspace):
    lines = bad_lines(workspace)
    before = {p: p.read_bytes() for p in workspace.rglob("*") if p.is_file()}
    failures = []
    for name, (line, expected) in lines.items():
        status, said, error = call(line, workspace)
        if status != 2 or error.count("\n") != 1 or expected not in error or said:
            failures.append((name, status, expected, error, said))
    assert not failures, failures
    assert not (workspace / "executed").exists()
    assert {p: p.read_bytes() for p in workspace.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("name", ["unknown flag", "malicious", "training recipe"])
def test_bad_input_as_typed(name, workspace, run_process):
    line, expected = bad_lines(workspace)[name]
    done = run_process(*line.split())
    assert done.returncode == 2
    assert expected in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_training_survives_kill_9(tmp_path, run_command, run_process):
    line = ["train_normal", "--out_folder", "runs", "--width", "1", "--epoch_num", "8",
            "--subset_size", "300", "--eval_size", "20", "--batch_size", "10", "--attack", ATTACK,
            "--optim", "name=adam,lr=1e-3", "--model_name"]  # fmt: skip
    run_command(*line, "straight", check=True)
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "run/train_normal.py"), *line[1:], "killed"], cwd=tmp_path,
        stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    metrics = tmp_path / "runs/killed.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not metrics.exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "runs/killed.ckpt").exists()
    assert 1 <= len(metrics.read_text().splitlines()) < 8
    run_process(*line, "killed", check=True)
    a, b = (load_checkpoint(tmp_path / f"runs/{n}.ckpt").tensors for n in ("straight", "killed"))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_the_demo_is_refused_before_its_work_where_no_figure_can_be_written(tmp_path, run_command):
    (tmp_path / "figures").write_text("a file")
    done = run_command("demo")
    assert done.returncode == 2
    assert "overview.png cannot be written" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["figures"]


def test_demo_in_miniature(tmp_path, run_command):
    line = DEMO.split()
    out = run_command(*line, check=True).stdout
    assert "PGD-40 %" in out
    figures = {p.name for p in (tmp_path / "figures").iterdir()}
    for name in ("overview", "eigenvalues", "surface", "curve", "similarity", "spectrum"):
        assert {f"{name}.png", f"{name}.pdf"} <= figures
    kept = {p.name: file_digest(p) for p in (tmp_path / "runs/demo").glob("*.*")}
    drawn_from = {}
    for path in (tmp_path / "figures").glob("*.png"):
        call, _, *files = Image.open(path).text["Description"].split("; ")
        assert call.startswith("ridgeline demo --")
        drawn_from[path.stem] = dict(f.split(" sha256=") for f in files)
    assert all(kept[n] == d for held in drawn_from.values() for n, d in held.items())
    assert len(drawn_from["eigenvalues"]) == 6 and len(drawn_from["training"]) == 3
    assert {n for n in kept if n.endswith(".nc")} == {
        n for n in drawn_from["overview"] if n.endswith(".nc")
    }  # fmt: skip
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "runs/demo").iterdir()}
    again = run_command(*line, check=True).stdout
    assert again.splitlines()[-9:-1] == out.splitlines()[-9:-1]
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "runs/demo").iterdir()} == stamps
