"""Does curvature grow with the budget? A plain and a PGD-trained MNIST LeNet5 (advertorch's).

    python benchmarks/advertorch_pair.py --checkpoints FOLDER --data_dir FOLDER

Runs `run/calc_hessian.py` for both networks on the same training images, clean and under PGD-20 at
eps 0.1, 0.2, 0.3 (l_inf), with adversarial images frozen as found, refined to the maximum nearby,
and following the weights (total), then prints one table. Finished results are read again.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parent.parent
ATTACK = "name=pgd,threshold=0.3,iter_num=20,order=-1"
NETWORKS = {"plain": "mnist_lenet5_clntrained.pt", "PGD 0.3": "mnist_lenet5_advtrained.pt"}


class LeNet5(nn.Module):
    """The network of both checkpoints; `--model_type advertorch_pair:LeNet5` names it."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.linear1 = nn.Linear(7 * 7 * 64, 200)
        self.linear2 = nn.Linear(200, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 10) of images (N, 1, 28, 28)."""
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.linear2(F.relu(self.linear1(x.flatten(1))))


def compute(options: argparse.Namespace, file: str, adversary: str, out: Path) -> None:
    """One command: every budget of one network under one kind of adversary."""
    clean = adversary == "frozen"
    budgets = f"name=linear,start_v={0 if clean else 0.1},slope=0.1,pt_num={4 if clean else 3}"
    topk = options.topk if adversary == "frozen" else 1
    command = [
        sys.executable, str(ROOT / "run" / "calc_hessian.py"),
        "--model_type", "advertorch_pair:LeNet5",
        "--model2load", str(options.checkpoints / file),
        "--dataset", "mnist", "--data_dir", str(options.data_dir),
        "--subset_size", str(options.size), "--batch_size", "250",
        "--attack", ATTACK, "--adv_budget_list", budgets, "--adversary", adversary,
        "--topk", str(topk), "--tol", "1e-3", "--max_iter", "3",
        "--trace_products", str(options.trace_products), "--out_file", str(out),
    ]  # fmt: skip
    path = os.pathsep.join([str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH", "")])
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": path})


def outliers(values: np.ndarray) -> int:
    """Eigenvalues above the largest relative gap among those found, in descending order."""
    values = values[values > 0]
    return int(np.argmax(values[:-1] / values[1:])) + 1 if len(values) > 2 else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoints", type=Path, required=True)
    parser.add_argument("--data_dir", type=Path, required=True)
    parser.add_argument("--out_folder", type=Path, default=Path("runs/advertorch"))
    parser.add_argument("--size", type=int, default=5000)
    parser.add_argument("--topk", type=int, default=10)
    parser.add_argument("--trace_products", type=int, default=8)
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    from ridgeline.landscape.result import load_result

    options.out_folder.mkdir(parents=True, exist_ok=True)
    header = ["network", "images", "eps", "loss", "lambda_max (residual)", "trace +- se",
              "outliers", "settled"]  # fmt: skip
    print(f"| {' | '.join(header)} |")
    print("|" + "---|" * len(header))
    for adversary in ("frozen", "refined", "total"):
        for name, file in NETWORKS.items():
            out = options.out_folder / f"{file.split('_')[-1].split('.')[0]}_{adversary}.nc"
            if not out.is_file():
                compute(options, file, adversary, out)
            ds = load_result(out).isel(block=0)
            for eps in ds["eps"].values:
                row = ds.sel(eps=eps)
                values = row["eigenvalue"].values
                share = float(row["share_regular"])
                cells = [
                    name, f"{adversary if eps else 'clean'}, {ds.sizes['example']}", f"{eps:.1f}",
                    f"{float(row['mean_loss']):.4f}",
                    f"{values[0]:.4g} ({float(row['residual'][0]):.0e})",
                    f"{float(row['trace']):.4g} +- {float(row['trace_se']):.2g}",
                    str(outliers(values)) if len(values) > 2 else "",
                    "" if np.isnan(share) else f"{share:.1%}",
                ]  # fmt: skip
                print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
