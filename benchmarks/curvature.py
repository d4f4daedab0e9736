"""One product and the top eigenpairs of a Hessian: Ridgeline beside four others, in one run.

    python benchmarks/curvature.py lenet --topk 20 --power_iteration
    python benchmarks/curvature.py resnet --images FILE.npz

LeNet w=4 on 1,000 embedded MNIST images, or ResNet18 w=8 on 256 images of an .npz (CIFAR-10), all
with the same network, images, batches and threads, contestants taking turns. Residuals of all are
||Hv - lambda v|| / |lambda| by our product. Freed pages are kept, as Ridgeline's commands do, for
every contestant; `--fresh_pages` leaves the allocator as it is.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib import metadata

import numpy as np
import rivals
import subjects
import torch

from ridgeline.landscape.curvature.compiled_hessian import CompiledHessian
from ridgeline.landscape.curvature.eigenpairs import product_of, top_eigenpairs
from ridgeline.landscape.curvature.operators import Hessian
from ridgeline.landscape.problem import Problem
from ridgeline.run.shared.launch import keep_freed_pages

PACKAGES = ("torch", "scipy", "curvlinops-for-pytorch", "hessian-eigenthings", "pyhessian")


def ridgeline(problem: Problem, k: int) -> rivals.Pairs:
    """Ours, from the problem to the eigenpairs."""
    problem.network.requires_grad_(False)
    pairs = top_eigenpairs(Hessian(problem), k, tol=rivals.TOL)
    return pairs.values, pairs.vectors


def residuals(problem: Problem, pairs: rivals.Pairs) -> np.ndarray:
    """||Hv - lambda v|| / |lambda| of every pair (k,) by our product."""
    problem.network.requires_grad_(False)
    operator = Hessian(problem)
    rest = [np.linalg.norm(product_of(operator, u) - w * u) / abs(w)
            for w, u in zip(pairs[0], pairs[1].T, strict=True)]  # fmt: skip
    return np.array(rest)


def in_turns(calls: dict[str, Callable], repeats: int, once: tuple[str, ...] = ()) -> tuple:
    """Median seconds and last answer of every call."""
    seconds = {name: [] for name in calls}
    answers = {}
    for turn in range(repeats):
        for name, call in calls.items():
            if turn and name in once:
                continue
            began = time.perf_counter()
            answers[name] = call()
            seconds[name].append(time.perf_counter() - began)
            print(f"  {name}: {seconds[name][-1]:.3f} s", file=sys.stderr, flush=True)
    return {name: statistics.median(s) for name, s in seconds.items()}, answers


def compare_products(problem: Problem, repeats: int, compiled: bool) -> None:
    """One product beside a forward pass and curvlinops'; ours also by compiled code if asked."""
    operator, theirs = Hessian(problem), rivals.curvlinops_product(problem)
    v = np.random.default_rng(1).standard_normal(operator.shape[0])

    def forward() -> None:
        with torch.no_grad():
            for batch in problem.batches():
                problem.network(batch.x)

    calls = {
        "forward": forward,
        "Ridgeline": lambda: product_of(operator, v),
        "curvlinops": lambda: theirs(v),
    }
    if compiled:
        began = time.perf_counter()
        fast = CompiledHessian.of(problem)
        print(f"{fast.evaluation}: ready after {time.perf_counter() - began:.0f} s")
        calls["compiled"] = lambda: product_of(fast, v)
    seconds, answers = in_turns(calls, repeats)
    print(f"{operator.graphs_kept} of the Hessian's graphs kept")
    for name, middle in seconds.items():
        print(f"one product, {name}: {middle:.3f} s = {middle / seconds['forward']:.2f} forwards")
    for name in answers.keys() - {"forward", "Ridgeline"}:
        apart = np.linalg.norm(answers[name] - answers["Ridgeline"])
        print(f"products differ by {apart / np.linalg.norm(answers['Ridgeline']):.1e} ({name})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network", choices=["lenet", "resnet"])
    parser.add_argument("--topk", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--images")
    parser.add_argument("--lanczos_steps", type=int, default=120)
    parser.add_argument("--power_iteration", action="store_true", help="minutes: run once each")
    parser.add_argument("--fresh_pages", action="store_true")
    parser.add_argument("--compile", action="store_true", help="takes minutes to begin")
    options = parser.parse_args()
    if not options.fresh_pages:
        keep_freed_pages()
    k = options.topk
    lenet = options.network == "lenet"
    problem = subjects.lenet() if lenet else subjects.resnet(options.images, options.epochs)
    size = sum(p.numel() for p in problem.origin.values())
    print(f"Python {platform.python_version()}, {({n: metadata.version(n) for n in PACKAGES})}, "
          f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, {options.network}, {size} "
          f"parameters, {len(problem.images)} images, batch {problem.batch_size}")  # fmt: skip

    compare_products(problem, max(7, options.repeats), options.compile)
    if k == 0:
        return
    eigenthings = rivals.Eigenthings(problem, k, options.lanczos_steps)
    solvers = {
        "Ridgeline": lambda: ridgeline(problem, k),
        "curvlinops + eigsh": lambda: rivals.curvlinops(problem, k),
        f"hessian-eigenthings, {eigenthings.steps} steps": lambda: eigenthings(problem, k),
    }
    slow = {
        "PyHessian": lambda: rivals.pyhessian(problem, k),
        "power iteration of Liu et al.": lambda: rivals.reference(problem, k),
    }
    if options.power_iteration:
        solvers |= slow
    seconds, answers = in_turns(solvers, options.repeats, once=tuple(slow))
    for name, pairs in answers.items():
        rest = residuals(problem, pairs)
        print(f"top-{k}, {name}: {seconds[name]:.2f} s, "
              f"{seconds[name] / seconds['Ridgeline']:.2f} x, relative residual at most "
              f"{rest.max():.1e}, median {np.median(rest):.1e}, largest eigenvalues "
              f"{', '.join(f'{w:.5g}' for w in sorted(pairs[0])[:-4:-1])}")  # fmt: skip


if __name__ == "__main__":
    main()
