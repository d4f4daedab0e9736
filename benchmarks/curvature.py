"""Top-k eigenpairs and one product: Ridgeline beside PyHessian and curvlinops.

    python benchmarks/curvature.py lenet --topk 20 --with_pyhessian
    python benchmarks/curvature.py resnet --images FILE.npz

LeNet w=4 on 1,000 embedded MNIST images, or ResNet18 w=8 on 256 images of an .npz (CIFAR-10), all
with the same network, images, batch size and threads, contestants taking turns. curvlinops runs
under scipy's eigsh with our tolerance; residuals are ||Hv - lambda v|| by our product.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib import metadata

import numpy as np
import torch
from curvlinops import HessianLinearOperator
from eigenvalues import pyhessian, trained
from scipy.sparse.linalg import LinearOperator, eigsh
from threadpoolctl import threadpool_limits

from landscape.operators import Hessian
from landscape.problem import Problem
from landscape.spectrum import product_of, top_eigenpairs
from models import build_model
from train.datasets import load_images
from train.loop import fit
from train.methods import Standard
from train.optimizers import parse_optimizer

TOL = 1e-4


def resnet(path: str, epochs: int) -> Problem:
    train, test = (load_images(path, s) for s in ("train", "test"))
    torch.manual_seed(0)
    network = build_model("resnet", train.image_shape, width=8)
    fit(Standard(network), train.subset(1024), test.subset(100), epochs=epochs, batch_size=64,
        optimizer=parse_optimizer("name=adam,lr=1e-3"))  # fmt: skip
    return Problem(network, train.subset(256), batch_size=128)


def curvlinops_operator(problem: Problem) -> Callable[[np.ndarray], np.ndarray]:
    loader = [(b.x, b.y) for b in problem.batches()]
    network = problem.network.requires_grad_(True)
    operator = HessianLinearOperator(
        network, torch.nn.CrossEntropyLoss(), list(network.parameters()), loader,
        check_deterministic=False,
    )  # fmt: skip
    return lambda v: (operator @ torch.from_numpy(v.ravel()).float()).double().numpy()


def by_eigsh(product, size: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    start = np.random.default_rng(0).standard_normal(size)
    with threadpool_limits(limits=1, user_api="blas"):
        return eigsh(LinearOperator((size, size), matvec=product, dtype=np.float64), k=k,
                     which="LA", tol=TOL, v0=start)  # fmt: skip


def ours(problem: Problem, k: int) -> tuple[np.ndarray, np.ndarray]:
    pairs = top_eigenpairs(Hessian(problem), k, tol=TOL)
    return pairs.values, pairs.vectors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network", choices=["lenet", "resnet"])
    parser.add_argument("--topk", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--images")
    parser.add_argument("--with_pyhessian", action="store_true")
    options = parser.parse_args()
    lenet = options.network == "lenet"
    problem = trained(4) if lenet else resnet(options.images, options.epochs)
    size = sum(p.numel() for p in problem.origin.values())
    names = ("torch", "scipy", "curvlinops-for-pytorch", "pyhessian")
    print(f"Python {platform.python_version()}, {({n: metadata.version(n) for n in names})}, "
          f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, {options.network}, {size} "
          f"parameters, {len(problem.images)} images, batch {problem.batch_size}")  # fmt: skip

    operator, theirs = Hessian(problem), curvlinops_operator(problem)
    v = torch.from_numpy(np.random.default_rng(1).standard_normal(size))

    def forward() -> None:
        with torch.no_grad():
            for batch in problem.batches():
                problem.network(batch.x)

    kept = f"{len(operator._kept)} of {len(operator._batches)} graphs kept"
    turns = {"forward": forward, f"Ridgeline ({kept})": lambda: operator.matvec(v),
             "curvlinops": lambda: theirs(v.numpy())}  # fmt: skip
    times = {name: [] for name in turns}
    for _ in range(max(5, options.repeats)):
        for name, call in turns.items():
            began = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - began)
    base = statistics.median(times["forward"])
    for name, seconds in times.items():
        middle = statistics.median(seconds)
        print(f"one product, {name}: {middle:.3f} s = {middle / base:.2f} forward passes")
    apart = np.linalg.norm(theirs(v.numpy()) - product_of(operator, v.numpy()))
    print(f"products differ by {apart / np.linalg.norm(theirs(v.numpy())):.1e}")
    if options.topk == 0:
        return
    solvers = {
        "Ridgeline": lambda: ours(problem, options.topk),
        "curvlinops + eigsh": lambda: by_eigsh(theirs, size, options.topk),
    }
    if options.with_pyhessian:
        solvers["PyHessian"] = lambda: pyhessian(problem, options.topk)
    rows = {name: [] for name in solvers}
    answers = {}
    for turn in range(options.repeats):
        for name, solve in solvers.items():
            if name == "PyHessian" and turn:
                continue  # minutes: once
            problem.network.requires_grad_(name != "Ridgeline")
            torch.manual_seed(0)
            began = time.perf_counter()
            answers[name] = solve()
            rows[name].append(time.perf_counter() - began)
    problem.network.requires_grad_(False)
    check = Hessian(problem)
    for name, (values, vectors) in answers.items():
        rest = [np.linalg.norm(product_of(check, u) - w * u) / abs(w)
                for w, u in zip(values, vectors.T, strict=True)]  # fmt: skip
        middle = statistics.median(rows[name])
        print(f"top-{options.topk}, {name}: {middle:.2f} s (of {len(rows[name])}), "
              f"{middle / statistics.median(rows['Ridgeline']):.2f} x, largest relative residual "
              f"{max(rest):.1e}, largest eigenvalue {max(values):.5g}")  # fmt: skip


if __name__ == "__main__":
    main()
