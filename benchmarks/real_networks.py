"""Surfaces, curves, alignment and perturbations of real networks, by the commands of this suite.

    python benchmarks/real_networks.py resnet20 --checkpoints FOLDER --data_dir FOLDER
    python benchmarks/real_networks.py bezier --data_dir FOLDER
    python benchmarks/real_networks.py alignment --data_dir FOLDER
    python benchmarks/real_networks.py perturbations --checkpoints FOLDER --data_dir FOLDER

Each prints the commands it runs, then its tables; what is finished is read again, what was cut off
is continued. `--cifar FILE.npz` instead of torchvision's CIFAR-10. For timings as in BENCHMARKS.md
set OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    import xarray as xr

    from ridgeline.landscape.problem import Problem

ROOT = Path(__file__).resolve().parent.parent

RESNET20 = "pytorch_resnet_cifar10/resnet20-12fca82f.th"
IMAGENET = "mean=.485:.456:.406,std=.229:.224:.225"
PAIR = {"plain": "mnist_lenet5_clntrained.pt", "PGD 0.3": "mnist_lenet5_advtrained.pt"}
TRAINING_ATTACK = "name=pgd,threshold=0.3,step_size=0.1,iter_num=7,order=-1"
TEST_ATTACK = "name=pgd,threshold=0.3,step_size=0.0375,iter_num=20,order=-1"
DISTANCES = "0,1e-5,1e-4,3e-4,1e-3,3e-3,1e-2,3e-2,1e-1"
PLACES = torch.linspace(0, 1, 11, dtype=torch.float64).tolist()


class Block(nn.Module):
    """Two 3x3 convolutions; the shortcut drops pixels and adds channels of zeros (option A)."""

    def __init__(self, channels: int, out: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.stride, self.more = stride, (out - channels) // 2

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, out, H / stride, W / stride)."""
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        kept = x[:, :, :: self.stride, :: self.stride]
        return F.relu(out + F.pad(kept, (0, 0, 0, 0, self.more, self.more)))


class ResNet20(nn.Module):
    """The network of RESNET20; `--model_type real_networks:ResNet20` names it."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        sizes = [(16, 16, 1), (16, 32, 2), (32, 64, 2)]
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(Block(a, b, stride), Block(b, b, 1), Block(b, b, 1))
            for a, b, stride in sizes
        )
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 10) of images (N, 3, 32, 32)."""
        x = F.relu(self.bn1(self.conv1(x)))
        return self.linear(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


def command(name: str, *arguments: object) -> None:
    """Run one command of the suite; what it has finished before it only says again."""
    line = [str(ROOT / "run" / f"{name}.py"), *map(str, arguments)]
    print(f"$ python run/{name}.py {shlex.join(line[1:])}", flush=True)
    path = os.pathsep.join([str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH", "")])
    subprocess.run([sys.executable, *line], check=True, env={**os.environ, "PYTHONPATH": path})


def table(header: list[str], rows: list[list[object]]) -> None:
    """A table in Markdown."""
    for row in (header, ["---"] * len(header), *rows):
        print("| " + " | ".join(map(str, row)) + " |")


def resnet20(options: argparse.Namespace) -> None:
    """A surface of a checkpoint of others, and its accuracy on every test image at the centre."""
    from ridgeline.landscape.result import load_result

    out = options.out_folder / "resnet20"
    network = ["--model2load", options.checkpoints / RESNET20, "--normalize", IMAGENET,
               "--model_type", "real_networks:ResNet20", "--dataset", options.cifar,
               "--data_dir", options.data_dir]  # fmt: skip
    command("test_ensemble", *network, "--out_file", out / "accuracy.nc")
    scan = ["--subset", "test", "--out_folder", out]
    command("scan_param", *network, *scan, "--model_name", "centre", "--vec1_scan", "-0.5:0.5:3")
    command("scan_param", *network, *scan, "--model_name", "surface", "--subset_size", 1000,
            "--vec1_scan", "-1:1:11", "--vec2_scan", "-1:1:11")  # fmt: skip
    for view in ("contour", "space"):
        command("plot", "--result", out / "surface_results.nc", "--label", "ResNet-20",
                "--view", view, "--out_file", out / f"{view}.png", "--overwrite", True)  # fmt: skip
    rows = []
    for name in ("centre", "surface"):
        ds = load_result(out / f"{name}_results.nc").isel(eps=0)
        middle = ds.sel(dict.fromkeys(ds["loss"].dims, 0.0), method="nearest")
        cells, low, high = ds["loss"].shape, float(ds["loss"].min()), float(ds["loss"].max())
        rows.append([name, "x".join(map(str, cells)), f"{float(middle['accuracy']):.2%}",
                     f"{float(middle['loss']):.4f} +- {float(middle['loss_se']):.4f}",
                     f"{low:.3f} to {high:.3g}"])  # fmt: skip
    table(["scan", "cells", "accuracy at the centre", "loss at the centre", "losses"], rows)


def bezier(options: argparse.Namespace) -> None:
    """A robust curve between two LeNets trained with PGD from different seeds."""
    from ridgeline.landscape.result import load_result

    out = options.out_folder / "bezier"
    shared = ["--data_dir", options.data_dir, "--out_folder", out, "--batch_size", 100,
              "--subset_size", 20000, "--eval_size", 500, "--attack", TRAINING_ATTACK]  # fmt: skip
    for seed in (1, 2):
        command("train_normal", "--dataset", "mnist", "--model_type", "lenet", "--width", 4,
                *shared, "--epoch_num", 12, "--seed", seed, "--model_name", f"lenet_{seed}",
                "--optim", "name=adam,lr=1e-3", "--lr_schedule", "name=drops,at=0.75,power=0.1",
                "--attack_threshold_schedule",
                "name=cycle_cos,eps_min=0,eps_max=0.45,ckpt_list=0:12,max=0.3")  # fmt: skip
    ends = [out / f"lenet_{seed}.ckpt" for seed in (1, 2)]
    command("train_curve", "--model2load", f"{ends[0]},,{ends[1]}", "--fix_points", "1,0,1",
            *shared, "--epoch_num", 12, "--optim", "name=adam,lr=1e-3",
            "--lr_schedule", "name=drops,at=0.75,power=0.1")  # fmt: skip
    command("scan_curve", "--model2load", out / "curve.ckpt", "--data_dir", options.data_dir,
            "--step_size", 0.1, "--subset_size", 2000, "--attack", TEST_ATTACK,
            "--adv_budget_list", "0,0.3")  # fmt: skip
    scanned = out / "curve_scan.nc"
    command("plot", "--result", scanned, "--label", "LeNets", "--out_file", out / "curve.png",
            "--overwrite", True)  # fmt: skip
    ds, rows = load_result(scanned), []
    for eps in ds["eps"].values:
        for subset in ds["subset"].values:
            here = ds.sel(eps=eps, subset=subset)
            for way in ds["path"].values:
                row = here.sel(path=way)
                ends_, middle = row["accuracy"].values[[0, -1]], row["accuracy"].values[1:-1].min()
                rows.append([f"{eps:g}", subset, way,
                             f"{float(row['barrier']):.4f} +- {float(row['barrier_se']):.4f}",
                             f"{float(row['barrier_at']):.2g}",
                             " ".join(f"{v:.3f}" for v in row["loss"].values[[0, -1]]),
                             f"{float(row['loss'].max()):.3f}",
                             " ".join(f"{v:.3f}" for v in ends_), f"{middle:.3f}"])  # fmt: skip
    table(["eps", "images", "path", "barrier [nat]", "at t", "loss at the ends", "largest loss",
           "accuracy at the ends", "lowest between"], rows)  # fmt: skip


def alignment(options: argparse.Namespace) -> None:
    """The barrier between two ResNets before and after weight matching, and after REPAIR.

    REPAIR of a network with BatchNorm is BatchNorm's statistics computed anew at every place.
    """
    from ridgeline.landscape.problem import Problem
    from ridgeline.models import build_model
    from ridgeline.train.data.datasets import load_images
    from ridgeline.train.files.checkpoint import load_checkpoint

    out = options.out_folder / "alignment"
    for seed in (1, 2):
        command("train_normal", "--dataset", options.cifar, "--data_dir", options.data_dir,
                "--model_type", "resnet20", "--width", options.width, "--batch_size", 128,
                "--augment", True, "--epoch_num", 4, "--eval_size", 1000,
                "--optim", "name=sgd,lr=0.1,momentum=0.9,weight_decay=5e-4",
                "--lr_schedule", "name=linear,slope=-0.0248", "--schedule_update_mode", "batch",
                "--out_folder", out, "--seed", seed, "--model_name", f"resnet_{seed}")  # fmt: skip
    command("align_network", "--model2load", out / "resnet_2.ckpt", "--to", out / "resnet_1.ckpt",
            "--out_folder", out, "--model_name", "resnet_2_aligned")  # fmt: skip
    train, test = (load_images(options.cifar, s, options.data_dir) for s in ("train", "test"))
    problems = {}
    for name in ("resnet_1", "resnet_2", "resnet_2_aligned"):
        network = build_model("resnet20", train.image_shape, width=options.width)
        load_checkpoint(out / f"{name}.ckpt").load_into(network)
        calibration = train.subset(2000)
        problems[name] = Problem(network, test.subset(options.size), calibration=calibration)
    first, rows = problems.pop("resnet_1"), []
    for name, other in problems.items():
        units = "weight matching" if name.endswith("aligned") else "as trained"
        for statistics in ("interpolated", "recalibrated (REPAIR)"):
            rows.append([units, statistics, *barrier(first, other, statistics)])
    table(["units", "BatchNorm's statistics", "barrier [nat]", "at t", "loss at the ends",
           "loss there", "accuracy at the ends", "accuracy there"], rows)  # fmt: skip


def barrier(first: Problem, other: Problem, statistics: str) -> list[str]:
    """Cells of the table: the straight line between two networks, errors paired over examples."""
    from ridgeline.landscape.batchnorm import statistics_at
    from ridgeline.landscape.weights.point import combine
    from ridgeline.train.statistics import mean_and_error

    found = []
    for t in PLACES:
        point = combine((1 - t, t), (first.origin, other.origin))
        if statistics == "interpolated":
            buffers = {n: torch.lerp(b, other.buffers[n], t) if b.is_floating_point() else b
                       for n, b in first.buffers.items()}  # fmt: skip
        else:
            buffers = statistics_at(first, point, "recalibrate")
        found.append(first.evaluate(point, buffers))
    ends = found[0], found[-1]
    rises = [mean_and_error((scores.losses - (1 - t) * ends[0].losses - t * ends[1].losses).numpy())
             for t, scores in zip(PLACES, found, strict=True)]  # fmt: skip
    at = max(range(len(rises)), key=lambda k: rises[k][0])
    loss, accuracy = (
        [f"{mean_and_error(getattr(s, name).double().numpy())[0]:.3f}" for s in (*ends, found[at])]
        for name in ("losses", "correct")
    )
    return [f"{rises[at][0]:.3f} +- {rises[at][1]:.3f}", f"{PLACES[at]:.1f}",
            " ".join(loss[:2]), loss[2], " ".join(accuracy[:2]), accuracy[2]]  # fmt: skip


def perturbations(options: argparse.Namespace) -> None:
    """How fast perturbations and gradients turn as weights move, plain and robust."""
    from ridgeline.landscape.result import load_result

    out, files = options.out_folder / "perturbations", {}
    for name, file in PAIR.items():
        files[name] = out / f"{file.split('_')[-1].split('.')[0]}.nc"
        command("analyze_scattering", "--model2load", options.checkpoints / "advertorch" / file,
                "--model_type", "advertorch_pair:LeNet5", "--dataset", "mnist",
                "--data_dir", options.data_dir, "--subset_size", 200, "--attack", TEST_ATTACK,
                "--adv_budget_list", "0.1,0.3", "--distances", DISTANCES,
                "--fit_to", 0.001, "--out_file", files[name])  # fmt: skip
        command("plot", "--result", files[name], "--label", name, "--overwrite", True,
                "--out_file", files[name].with_suffix(".png"))  # fmt: skip
    header = ["network", "eps", "direction", "distance", "cosine +- se", "flipped", "scatter",
              "frozen", "moving", "loss"]  # fmt: skip
    rows, lines = [], []
    for name, file in files.items():
        ds = load_result(file)
        for eps in ds["eps"].values:
            level = ds.sel(eps=eps)
            lines.append([name, eps, *(f"{float(level[v]):.3f}" for v in (
                "floor_cosine", "null_cosine", "null_cosine_sd", "floor_flipped", "null_flipped",
                "gradient_norm", "scatter_floor"))])  # fmt: skip
            for direction in ds["direction"].values:
                here = level.sel(direction=direction)
                for n in range(ds.sizes["distance"]):
                    rows.append([name, eps, direction, *_scattered(here.isel(distance=n))])
    table(["network", "eps", "cosine: floor", "null", "sd of the null", "flipped: floor", "null",
           "gradient", "scatter: floor"], lines)  # fmt: skip
    table(header, rows)
    rows = []
    for name, file in files.items():
        ds = load_result(file)
        for eps in ds["eps"].values:
            for direction in ds["direction"].values:
                here = ds.sel(eps=eps, direction=direction)
                rows.append([name, eps, direction, *(
                    f"{float(here['intercept'].sel(part=part)):.3g} +- "
                    f"{float(here['intercept_se'].sel(part=part)):.2g}"
                    for part in ("total", "frozen", "moving"))])  # fmt: skip
    table(["network", "eps", "direction", "intercept: total", "frozen", "moving"], rows)


def _scattered(cell: xr.Dataset) -> list[str]:
    """The cells of the table for one place."""
    same = cell.sel(pair="same_seed")
    parts = [f"{float(cell['scatter'].sel(part=p)):.3g}" for p in ("total", "frozen", "moving")]
    return [f"{float(cell['relative_distance']):g}",
            f"{float(same['cosine']):.3f} +- {float(same['cosine_se']):.3f}",
            f"{float(same['flipped']):.3f}", *parts, f"{float(cell['loss']):.3f}"]  # fmt: skip


STUDIES = {f.__name__: f for f in (resnet20, bezier, alignment, perturbations)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    studies = parser.add_subparsers(dest="study", required=True)
    for name, study in STUDIES.items():
        one = studies.add_parser(name, help=study.__doc__.splitlines()[0])
        one.add_argument("--data_dir", type=Path, required=True)
        one.add_argument("--out_folder", type=Path, default=Path("runs/real"))
        if name in ("resnet20", "perturbations"):
            one.add_argument("--checkpoints", type=Path, required=True)
        if name in ("resnet20", "alignment"):
            one.add_argument("--cifar", default="cifar10", help="cifar10, or an .npz file of it")
        if name == "alignment":
            one.add_argument("--width", type=int, default=4)
            one.add_argument("--size", type=int, default=5000, help="test images")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    STUDIES[options.study](options)


if __name__ == "__main__":
    main()
