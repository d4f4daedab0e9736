"""The sharpness battery on real checkpoints: two MNIST networks and five for CIFAR-10, by others.

    python benchmarks/sharpness.py --checkpoints FOLDER --data_dir FOLDER --cifar FILE.npz

Options that it does not know go to the command: --also boundary,spikes --steps 10.
Runs `run/calc_sharpness.py` for each, prints tables in Markdown and writes `sharpness.json` beside
the results. What is finished is read again, what was cut off is continued.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from torch import nn

NUMBERS = ("value", "se", "forward", "backward", "seconds")
ROOT = Path(__file__).resolve().parent.parent
MNIST = {
    "LeNet5, plain": "advertorch/mnist_lenet5_clntrained.pt",
    "LeNet5, PGD 0.3": "advertorch/mnist_lenet5_advtrained.pt",
}
S = "mean=.49137:.48235:.44667,std=.24706:.24353:.26157"
O = "mean=.485:.456:.406,std=.225:.225:.225"  # noqa: E741
#: name -> (file, model, normalisation)
CIFAR = {
    "CNN-B, plain": ("alpha_beta_crown/cifar_marabou_medium.pth", "sharpness:Medium", None),
    "CNN-A, mixed": ("alpha_beta_crown/cifar_cnn_a_mix.model", "sharpness:CnnA", S),
    "CNN-A, PGD": ("alpha_beta_crown/cifar_cnn_a_adv.model", "sharpness:CnnA", S),
    "CNN-A, provable": ("alpha_beta_crown/cifar_wide.pth", "sharpness:CnnA", O),
    "ResNet-20, plain": (
        "pytorch_resnet_cifar10/resnet20-12fca82f.th", "real_networks:ResNet20",
        "mean=.485:.456:.406,std=.229:.224:.225",
    ),
}  # fmt: skip
ATTACKS = {
    "mnist": "name=pgd,threshold=0.1,step_size=0.025,iter_num=10,order=-1",
    "cifar": "name=pgd,threshold=2/255,step_size=0.5/255,iter_num=10,order=-1",
}


class CnnA(nn.Sequential):
    """Two convolutions with stride 2, two linear layers; `--model_type sharpness:CnnA`."""

    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(),
            nn.Flatten(), nn.Linear(2048, 100), nn.ReLU(), nn.Linear(100, 10),
        )  # fmt: skip


class Medium(nn.Sequential):
    """Two convolutions with stride 2, three linear layers; `--model_type sharpness:Medium`."""

    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 16, 4, 2), nn.ReLU(), nn.Conv2d(16, 32, 4, 2), nn.ReLU(), nn.Flatten(),
            nn.Linear(1152, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10),
        )  # fmt: skip


def compute(options: argparse.Namespace, name: str) -> Path:
    """The result of one network, by the command."""
    out = options.out_folder / f"{name.replace(', ', '_').replace(' ', '_')}.nc"
    if name in MNIST:
        network = ["--model2load", options.checkpoints / MNIST[name], "--dataset", "mnist",
                   "--model_type", "advertorch_pair:LeNet5", "--data_dir", options.data_dir,
                   "--attack", ATTACKS["mnist"]]  # fmt: skip
    else:
        file, model, normalisation = CIFAR[name]
        network = ["--model2load", options.checkpoints / file, "--dataset", options.cifar,
                   "--model_type", model, "--attack", ATTACKS["cifar"]]  # fmt: skip
        network += ["--normalize", normalisation] if normalisation else []
    line = [
        sys.executable, ROOT / "run" / "calc_sharpness.py", *network, "--subset_size", options.size,
        "--held_out", options.held_out, "--out_file", out, *options.more,
    ]  # fmt: skip
    path = os.pathsep.join([str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH", "")])
    if not out.is_file():
        subprocess.run([*map(str, line)], check=True, env={**os.environ, "PYTHONPATH": path})
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoints", type=Path, required=True)
    parser.add_argument("--data_dir", type=Path, required=True)
    parser.add_argument("--cifar", default="cifar10", help="cifar10, or an .npz file of it")
    parser.add_argument("--out_folder", type=Path, default=Path("runs/sharpness"))
    parser.add_argument("--size", type=int, default=500)
    parser.add_argument("--held_out", type=int, default=1000)
    options, options.more = parser.parse_known_args()
    sys.path.insert(0, str(ROOT))
    from ridgeline.landscape.result import load_result

    options.out_folder.mkdir(parents=True, exist_ok=True)
    results = {name: load_result(compute(options, name)) for name in (*MNIST, *CIFAR)}
    rows = {}
    for loss in ("clean", "robust"):
        for way in ("plain", "normalised"):
            print(f"\n{loss} loss, {way} logits\n")
            print(f"| measure | {' | '.join(results)} |\n" + "|---" * (len(results) + 1) + "|")
            for measure in next(iter(results.values()))["measure"].values:
                cells = []
                for name, ds in results.items():
                    row = ds.sel(loss=loss, logits=way, measure=measure)
                    found = {n: float(row[n]) for n in NUMBERS}
                    rows[f"{name}; {loss}; {way}; {measure}"] = found
                    cells.append("" if np.isnan(found["value"]) else
                                 f"{found['value']:.3g} +- {found['se']:.1g}")  # fmt: skip
                print(f"| {measure} | {' | '.join(cells)} |")
    header = ["network", "loss clean, robust", "accuracy", "gap clean", "robust",
              "passes forward, backward", "seconds"]  # fmt: skip
    print(f"\n| {' | '.join(header)} |\n" + "|---" * len(header) + "|")
    for name, ds in results.items():
        plain = ds.sel(logits="plain")
        both = [f"{float(plain['mean_loss'].sel(loss=k)):.3f}" for k in ("clean", "robust")]
        right = [f"{float(ds['accuracy'].sel(loss=k)):.3f}" for k in ("clean", "robust")]
        gaps = [f"{float(ds['gap'].sel(loss=k)):.3f} +- {float(ds['gap_se'].sel(loss=k)):.2f}"
                for k in ("clean", "robust")]  # fmt: skip
        cost = [f"{float(ds[n].sum()):.0f}" for n in ("forward", "backward", "seconds")]
        print(f"| {name} | {', '.join(both)} | {', '.join(right)} | {gaps[0]} | {gaps[1]} | "
              f"{cost[0]}, {cost[1]} | {cost[2]} |")  # fmt: skip
    (options.out_folder / "sharpness.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
