"""Peak memory of a Hessian product under three budgets, on images whose graphs do not fit.

    python benchmarks/memory.py lenet --budgets 100 200 400
    python benchmarks/memory.py resnet --images FILE.npz --budgets 400 1000 3000

Each budget runs in a process of its own. The peak is the kernel's VmHWM, reset after a product on
8 images has loaded every library, above what was resident then; products are compared with the
largest budget's. Linux only.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from ridgeline.landscape.curvature.eigenpairs import product_of
from ridgeline.landscape.curvature.operators import Hessian
from ridgeline.landscape.problem import Problem
from ridgeline.models import build_model
from ridgeline.run.shared.launch import keep_freed_pages
from ridgeline.train.data.datasets import load_images


def resident(field: str) -> float:
    """VmRSS (now) or VmHWM (peak) of this process in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(x.split()[1]) for x in lines if x.startswith(field)) / 1024


def child(network: str, images: str, size: int, budget: int, out: str) -> None:
    """One budget: prints its row and saves the product."""
    keep_freed_pages()
    pictures = load_images(images, "train").subset(size)
    torch.manual_seed(0)
    model = build_model(network, pictures.image_shape, width=4 if network == "lenet" else 8)
    problem = Problem(model, pictures, batch_size=100 if network == "lenet" else 64)
    few = Hessian(problem.on(pictures.subset(8)))
    vector = np.random.default_rng(0).standard_normal(few.shape[0])
    product_of(few, vector)
    del few
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    operator = Hessian(problem, memory=budget * 2**20)
    product_of(operator, vector)
    began = time.perf_counter()
    np.save(out, product_of(operator, vector))
    seconds = time.perf_counter() - began
    peak = resident("VmHWM") - before
    print(f"budget {budget} MiB: peak {peak:.0f} MiB, {operator.graphs_kept} graphs kept, "
          f"{seconds:.2f} s per product", end="", flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network", choices=["lenet", "resnet"])
    parser.add_argument("--budgets", type=int, nargs="+", default=[100, 200, 400])
    parser.add_argument("--images", default="mnist5k")
    parser.add_argument("--size", type=int)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    size = options.size or (4000 if options.network == "lenet" else 512)
    if options.child:
        child(options.network, options.images, size, int(options.child[0]), options.child[1])
        return
    print(f"{options.network}, {size} images")
    with tempfile.TemporaryDirectory() as folder:
        largest = None
        for budget in sorted(options.budgets, reverse=True):
            out = f"{folder}/{budget}.npy"
            child_of = [sys.executable, __file__, options.network, "--images", options.images]
            own = ["--size", str(size), "--child", str(budget), out]
            subprocess.run([*child_of, *own], check=True)
            product = np.load(out)
            largest = product if largest is None else largest
            apart = np.linalg.norm(product - largest) / np.linalg.norm(largest)
            print(f", product differs by {apart:.1e}")


if __name__ == "__main__":
    main()
