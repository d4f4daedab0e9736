"""Every command once, on tiny networks and few images, in one process: a chain for other tests."""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import xarray as xr
from torch.utils._python_dispatch import TorchDispatchMode

from ridgeline.train.files.checkpoint import load_checkpoint

ROOT = Path(__file__).resolve().parent.parent
PGD = "name=pgd,threshold=0.1,step_size=0.05,iter_num=2"
ADAM = "name=adam,lr=1e-3"
_TRAIN = (
    "--out_folder runs --epoch_num 2 --subset_size 24 --batch_size 12 --eval_size 6 --width 1 "
    f"--dataset tiny.npz --model_type lenet --optim {ADAM} --attack {PGD}"
)
_LOOK = "--subset_size 8 --batch_size 5"

#: command lines in an order in which each finds what it needs
CHAIN = (
    f"train_normal --model_name at {_TRAIN} --val_fraction 0.25 --average ema --average_from 1 "
    f"--awp_gamma 0.01 --eval_attack None --objective trades --epoch_ckpts 1,2 --augment True",
    f"train_normal --model_name swa {_TRAIN} --average swa --seed 1",
    f"train_cure --model_name cure {_TRAIN} --natural_epochs 1 --eval_attack None "
    "--conserve strict",
    f"train_cure --model_name blocks {_TRAIN} --natural_epochs 0 --eval_attack None "
    "--cure_variant freeze --blocks 1",
    f"train_fomo --model_name fomo {_TRAIN} --fomo_warmup 0 --fomo_relearn 1 --eval_attack None "
    "--fomo_select snip --fomo_cr_on both",
    "scan_forgetting --points 3 --subset_size 6 --model2load runs/fomo_cycle1_before.ckpt,"
    f"runs/fomo_cycle1_after.ckpt,runs/fomo_cycle1_relearnt.ckpt --attack {PGD}",
    f"train_apart --model_name apart {_TRAIN} --augment True --nocycle_momentum".replace(
        "lenet", "resnet9"
    ),
    f"train_frequency --model_name dct {_TRAIN} --basis_filter SD --init_scale kaiming_normal "
    "--reg_diff True",
    f"train_liet --model_name liet {_TRAIN} --average_decay 0.9 --wide False",
    f"train_lure --model_name lure {_TRAIN} --meta_batch_size 12 --meta_batch_number 2".replace(
        f" --attack {PGD}", ""
    ),
    "train_curve --model_name curve --out_folder runs --fix_points 1,0,1 "
    f"--model2load runs/at.ckpt,,runs/swa.ckpt --epoch_num 1 --subset_size 12 --attack {PGD}",
    f"scan_curve --model2load runs/curve.ckpt --step_size 0.5 --subset_size 6 --attack {PGD}",
    f"calc_hessian --model2load runs/at.ckpt {_LOOK} --topk 2 --attack {PGD} --adversary total "
    "--density_probes 2 --density_steps 4 --trace_products 4 --diagonal_products 3 "
    "--out_file runs/total",
    f"calc_hessian --model2load runs/apart.ckpt {_LOOK} --topk 1 --max_iter 2 --weight_decay 0.1 "
    "--blocks classifier.* --batchnorm recalibrate --out_file runs/bn",
    f"calc_hessian --model2load runs/at.ckpt {_LOOK} --operator mc_fisher --blocks fc2.* "
    f"--attack {PGD} --adversary refined --out_file runs/fisher",
    f"calc_hessian --model2load runs/at.ckpt {_LOOK} --operator ggn --blocks conv1.* "
    f"--attack {PGD},order=2 --out_file runs/ggn",
    "calc_hessian --model2load runs/at.ckpt --subset_size 2 --operator input --out_file runs/input",
    f"scan_param --model2load runs/at.ckpt {_LOOK} --vec1_scan step=1 --vec2_scan step=1,max=0 "
    f"--load_vec1 runs/total.nc --attack {PGD} --adv_budget_list 0,0.1 --adversary max",
    "scan_param --model2load runs/apart.ckpt --subset_size 4 --vec1_scan step=1 "
    "--vec_sample_mode low --batchnorm recalibrate",
    *(
        f"scan_param --model2load runs/at.ckpt {_LOOK} --vec1_scan -1:1:3 --shard {n}/2 "
        f"--extras gradient_norm --attack {PGD} --model_name parts"
        for n in (1, 2)
    ),
    "merge --result runs/parts_results_shard1of2.nc,runs/parts_results_shard2of2.nc "
    "--out_file runs/parts_whole",
    "scan_param --model2load runs/at_2.ckpt --subset_size 4 --model_name run "
    "--trajectory runs/at_init.ckpt,runs/at_1.ckpt",
    f"analyze_scattering --model2load runs/at.ckpt --subset_size 4 --attack {PGD} "
    "--distances 0,0.1 --directions random,gradient",
    "align_network --model2load runs/swa.ckpt --to runs/at.ckpt",
    "perturb_param --model2load runs/at.ckpt --vec_scale 0.5 --model_name moved",
    "calc_param_distance --ckpt_file1 runs/at.ckpt --ckpt_file2 runs/moved.ckpt "
    "--out_file runs/distance",
    f"generate_adversary --model2load runs/at.ckpt --subset_size 6 --attack {PGD} --out_file adv/a",
    f"generate_adversary --model2load runs/swa.ckpt --subset_size 6 --attack {PGD} "
    "--out_file adv/b",
    "analyze_adversary --folder adv",
    f"test_ensemble --model2load runs/at.ckpt,runs/swa.ckpt {_LOOK} --attack {PGD} "
    "--adv_budget_list 0.05,0.1 --out_file runs/ensemble",
    f"test_ensemble --model2load runs/at.ckpt {_LOOK} --out_file runs/apgd "
    "--attack name=apgd,threshold=0.1,iter_num=2,restarts=1",
    f"test_ensemble --model2load runs/at.ckpt {_LOOK} --out_file runs/square "
    "--attack name=square,threshold=0.1,iter_num=3",
    f"test_ensemble --model2load runs/at.ckpt {_LOOK} --out_file runs/smallest --trace True "
    "--attack name=fmn,eps=0.1,iterations=4",
    f"test_ensemble --model2load runs/at.ckpt,runs/swa.ckpt {_LOOK} --out_file runs/trust "
    f"--attack {PGD} --also masking,convergence,transfer,calibration,classes",
    f"test_ensemble --model2load runs/curve.ckpt@0,runs/curve.ckpt@0.5,runs/curve.ckpt@1 {_LOOK} "
    f"--attack {PGD} --out_file runs/on_curve",
    f"test_budgets --model2load runs/at.ckpt,runs/dct.ckpt {_LOOK} --attack {PGD} "
    "--adv_budget_list 0.05,0.1 --out_file runs/budgets",
    "calc_filter_spectrum --model2load runs/at.ckpt --initial runs/at_init.ckpt",
    "calc_filter_spectrum --model2load runs/swa.ckpt",
    "calc_filter_spectrum --model2load runs/cure.ckpt",
    *(
        f"test_ensemble --model2load runs/{n}.ckpt {_LOOK} --attack {PGD} --out_file runs/r_{n}"
        for n in ("at", "swa", "cure")
    ),
    "analyze_spectral_bias --spectra "
    "runs/at_spectrum.nc,runs/swa_spectrum.nc,runs/cure_spectrum.nc --robustness "
    "runs/r_at.nc,runs/r_swa.nc,runs/r_cure.nc --out_file runs/bias",
    f"calc_sharpness --model2load runs/at.ckpt {_LOOK} --attack {PGD} --draws 2 --steps 2 "
    "--inputs 1 --trace_products 2 --linearity_steps 2 --also boundary,spikes --held_out 6",
    *(
        f"calc_sharpness --model2load runs/{n}.ckpt {_LOOK} --attack {PGD} --held_out 6 "
        f"--measures sam,trace --trace_products 2 --out_file runs/s_{n}"
        for n in ("at", "swa", "cure")
    ),
    "analyze_sharpness --sharpness runs/s_at.nc,runs/s_swa.nc,runs/s_cure.nc --draws 100 "
    "--out_file runs/ranking",
    f"compare_checkpoints --model2load runs/at.ckpt,runs/swa.ckpt,runs/cure.ckpt --subset_size 6 "
    f"--attack {PGD} --places 1 --minibatch 4",
    "calc_fourier --model2load runs/at.ckpt --subset_size 3 --cutoffs 0.5",
    f"calc_cka --model2load runs/at.ckpt --subset_size 6 --attack {PGD} --minibatch 4",
    "calc_cka --model2load runs/at.ckpt --subset_size 6 --second runs/swa.ckpt --minibatch 4 "
    "--out_file runs/cka2",
    "calc_trajectory --model2load runs/at_1.ckpt,runs/at_2.ckpt --initial runs/at_init.ckpt "
    f"--subset_size 6 --attack {PGD} --directions 2 --trace_products 2 --best runs/at_best.ckpt "
    "--metrics runs/at.jsonl --subset train",
    "analyze_generator --model2load runs/at_1.ckpt,runs/at_2.ckpt --reference runs/swa.ckpt "
    f"--subset_size 6 --train_size 6 --attack {PGD}",
    "analyze_overfitting --metrics runs/at.jsonl,runs/swa.jsonl --out_file runs/overfitting",
    "test_corruptions --model2load runs/at.ckpt --subset_size 2 --corruptions gaussian_noise "
    "--severities 1,5",
    "plot --result runs/at.jsonl",
    "figures",
    "export --result runs/at_results.nc --out_file runs/at_table.csv",
    "report --model2load runs/at.ckpt,runs/swa.ckpt --out_file runs/report.html --result "
    "runs/total.nc,runs/at_results.nc,runs/curve_scan.nc,runs/at_2_trajectory.nc,runs/at_cka.nc,"
    "runs/trust.nc,runs/r_at.nc,runs/r_swa.nc,runs/budgets.nc,runs/at_fourier.nc,adv/a.nc,"
    "runs/at_2_generator.nc,adv/similarity.nc,runs/at_corruptions.nc,runs/at_spectrum.nc,"
    "runs/distance.nc,runs/bias.nc,runs/overfitting.nc,runs/at_scattering.nc,"
    "runs/at_sharpness.nc,runs/ranking.nc,runs/at_pairs.nc,runs/at.jsonl",
)


def tiny_set(folder: Path) -> None:
    """tiny.npz: 40 training and 10 test images of 3 x 32 x 32 in ten classes."""
    rng = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 40), ("test", 10)):
        arrays[f"{part}_images"] = rng.integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)
        arrays[f"{part}_labels"] = np.arange(count) % 10
    np.savez(folder / "tiny.npz", **arrays)


def manifest(folder: Path) -> None:
    """figures.toml: two figures of what the chain computes."""
    (folder / "figures.toml").write_text(
        'style = "icml2024"\n[[figure]]\nresult = "runs/total.nc"\nout_file = "paper/a"\n'
        '[[figure]]\nresult = ["runs/r_at.nc", "runs/r_swa.nc"]\nout_file = "paper/b.svg"\n'
    )


class Done(NamedTuple):
    """What a command came to; the names are those of `subprocess.CompletedProcess`."""

    returncode: int
    stdout: str
    stderr: str


def call(line: str | Sequence[object], folder: Path | str = ".") -> Done:
    """Run a command line, or its words, in this process and folder. Errors pass through.

    A process of its own costs seconds of imports: tests start one only where it is the point.
    """
    launch = importlib.import_module("ridgeline.run.shared.launch").launch
    command, *argv = line.split() if isinstance(line, str) else map(str, line)
    main = importlib.import_module(f"ridgeline.run.{command}").main
    said, error, status = io.StringIO(), io.StringIO(), 0
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stderr(error),
        contextlib.redirect_stdout(said),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(sys, "argv", [f"{command}.py"])
        try:
            launch(main, argv)
        except SystemExit as stop:
            status = stop.code
    return Done(status, said.getvalue(), error.getvalue())


#: operations that cuBLAS computes; others, as einsum and linear, end in these
MATMULS = {"mm", "bmm", "addmm", "baddbmm", "addbmm", "_grouped_mm", "mv", "addmv", "dot",
           "_scaled_dot_product_efficient_attention"}  # fmt: skip


class Precision(TorchDispatchMode):
    """Notes the operations that would run in TF32 on a CUDA device, in backward passes too."""

    def __init__(self):
        super().__init__()
        self.rounded: set[str] = set()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.removeprefix("aten::")
        if "convolution" in name:
            self.seen.add(name)
            if torch.backends.cudnn.allow_tf32:
                self.rounded.add(name)
        elif name in MATMULS:
            self.seen.add(name)
            if torch.get_float32_matmul_precision() != "highest":
                self.rounded.add(name)
        return func(*args, **(kwargs or {}))


#: the demo in miniature
DEMO = (
    "demo --width 1 --train_size 120 --epoch_num 2 --iter_num 2 --hessian_size 30 --scan_size 15 "
    "--scan_points 3 --curve_epochs 1 --test_size 20"
)


def run_chain(folder: Path, modes=(), gpu=None) -> dict[str, set[str]]:
    """Run every command in a folder; by command line, what `Precision` noted."""
    tiny_set(folder)
    manifest(folder)
    noted = {}
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        if gpu is not None:
            patch.setattr("ridgeline.run.shared.networks.device_of", lambda _: gpu)
        for line in CHAIN:
            with contextlib.ExitStack() as stack:
                found = [stack.enter_context(mode()) for mode in modes]
                status, _, error = call(line)
            assert status == 0, f"{line}: {error}"
            noted[line] = set().union(*(getattr(mode, "rounded", ()) for mode in found))
    return noted


def compared(
    reference: Path, folder: Path, weights: tuple[float, float], numbers: tuple[float, float]
) -> int:
    """Assert that checkpoints and results are alike up to (relative, absolute); how many there are.

    `weights` are the tolerances of checkpoints, `numbers` those of the variables of results.
    """
    count = 0
    for path in sorted(reference.rglob("*")):
        other = folder / path.relative_to(reference)
        if path.suffix == ".ckpt":
            a, b = load_checkpoint(path).tensors, load_checkpoint(other).tensors
            for name in a:
                torch.testing.assert_close(a[name], b[name], rtol=weights[0], atol=weights[1])
        elif path.suffix == ".nc":
            a, b = (xr.load_dataset(p, engine="h5netcdf") for p in (path, other))
            for name, variable in a.data_vars.items():
                if variable.dtype.kind == "f" and name != "seconds":
                    np.testing.assert_allclose(
                        b[name], variable, rtol=numbers[0], atol=numbers[1],
                        err_msg=f"{path.name}: {name}",
                    )  # fmt: skip
        else:
            continue
        count += 1
    return count
