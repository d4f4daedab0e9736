"""Top-k Hessian eigenvalues of a LeNet on mnist5k: Ridgeline beside PyHessian, in one run.

    python benchmarks/eigenvalues.py            # top-5, 1,000 images, medians of 3
    python benchmarks/eigenvalues.py --topk 20 --repeats 1

Both work on the same trained network, images, batch size and number of threads. Residuals of both
are ||Hv - lambda v|| with our float32 product, eigenvectors normalised. PyHessian's `eigenvalues`
runs with its own defaults (tol 1e-3, at most 100 iterations per eigenvalue).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import platform
import statistics
import time
import warnings
from importlib import metadata

import numpy as np
import torch
from pyhessian import hessian as pyhessian_hessian

from landscape.operators import Hessian
from landscape.problem import Problem
from landscape.spectrum import top_eigenpairs
from models import build_model
from train.datasets import load_images
from train.loop import fit
from train.methods import Standard
from train.optimizers import parse_optimizer


def trained(width: int) -> Problem:
    train, test = (load_images("mnist5k", s) for s in ("train", "test"))
    torch.manual_seed(0)
    network = build_model("lenet", train.image_shape, width=width)
    fit(
        Standard(network), train, test, epochs=6, batch_size=50,
        optimizer=parse_optimizer("name=adam,lr=1e-3"),
    )  # fmt: skip
    return Problem(network, train.subset(1000), batch_size=100)


def ridgeline(problem: Problem, k: int) -> tuple[np.ndarray, np.ndarray]:
    pairs = top_eigenpairs(Hessian(problem), k)
    return pairs.values, pairs.vectors


def pyhessian(problem: Problem, k: int) -> tuple[np.ndarray, np.ndarray]:
    loader = [(b.x, b.y) for b in problem.batches()]
    problem.network.requires_grad_(True)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        tool = pyhessian_hessian(
            problem.network, torch.nn.CrossEntropyLoss(), dataloader=loader, cuda=False
        )
        values, vectors = tool.eigenvalues(top_n=k)
    problem.network.requires_grad_(False)
    flat = [torch.cat([p.flatten() for p in v]).double().numpy() for v in vectors]
    return np.array(values), np.stack([v / np.linalg.norm(v) for v in flat], axis=1)


def residuals(problem: Problem, values: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    operator = Hessian(problem)
    return np.array(
        [
            np.linalg.norm(operator.matvec(torch.tensor(v)).double().numpy() - w * v)
            for w, v in zip(values, vectors.T, strict=True)
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--topk", type=int, default=5)
    parser.add_argument("--width", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    problem = trained(options.width)
    versions = {p: metadata.version(p) for p in ("torch", "scipy", "pyhessian")}
    print(f"Python {platform.python_version()}, {versions}, {os.cpu_count()} cores, "
          f"{torch.get_num_threads()} threads, LeNet w={options.width}, "
          f"{len(problem.images)} images, batch {problem.batch_size}")  # fmt: skip
    rows = {}
    for name, solve in (("Ridgeline", ridgeline), ("PyHessian", pyhessian)):
        seconds = []
        for _ in range(options.repeats):
            torch.manual_seed(0)
            began = time.perf_counter()
            values, vectors = solve(problem, options.topk)
            seconds.append(time.perf_counter() - began)
        order = np.argsort(-values)
        values, vectors = values[order], vectors[:, order]
        rest = residuals(problem, values, vectors) / np.abs(values)
        rows[name] = (values, rest.max(), statistics.median(seconds))
        print(f"{name:10s} {rows[name][2]:8.2f} s (median of {options.repeats})  largest relative "
              f"residual {rest.max():.1e}  {np.array2string(values, precision=4)}")  # fmt: skip
    ours, theirs = rows["Ridgeline"], rows["PyHessian"]
    apart = np.abs(theirs[0] / ours[0] - 1).max()
    print(f"ratio of times {theirs[2] / ours[2]:.1f}, of residuals {theirs[1] / ours[1]:.0f}, "
          f"largest relative difference of eigenvalues {100 * apart:.2f} %")  # fmt: skip


if __name__ == "__main__":
    main()
