"""Cost of a training step: APART and FGSM beside PGD-10, CURE and FOMO beside TRADES, in one run.

    python benchmarks/training.py                 # small PreAct ResNet18, embedded MNIST
    python benchmarks/training.py --width 4 --images FILE.npz
    python benchmarks/training.py --only PGD-10,TRADES,CURE,FOMO

Same network, images, batches and threads; methods take turns batch by batch. A step is loss,
backward and everything the method does around them, optimiser included.
"""

from __future__ import annotations

import argparse
import copy
import os
import platform
import statistics
import time

import torch

from ridgeline.models import build_model
from ridgeline.train.attacks import PGD
from ridgeline.train.data.datasets import load_images
from ridgeline.train.methods import Adversarial, Apart, Cure, Fomo, Standard, Step
from ridgeline.train.objectives import Trades
from ridgeline.train.optimizers import parse_optimizer
from ridgeline.train.parts.phases import Cycles
from ridgeline.train.parts.weight_average import Average
from ridgeline.train.schedules.shapes import Constant

BASES = ("PGD-10", "TRADES")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", default="mnist5k")
    parser.add_argument("--width", type=int, default=2)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--only", default="", help="methods to time, by name; PGD-10 is always")
    options = parser.parse_args()
    images = load_images(options.images, "train").subset(options.batch_size * options.steps)
    network = build_model("preact", images.image_shape, width=options.width)
    eps = 8 / 255
    pgd = PGD(eps=eps, step_size=eps / 4, iterations=10, keep_best=False)
    scalars = {"eps": eps, "rate": Constant(start_v=1e-7), "momentum": Constant(start_v=0.9)}

    def apart(**parts) -> Apart:
        return Apart(copy.deepcopy(network), images, pgd, augment=True, **scalars, **parts)

    cycles = Cycles(3, warmup=0, relearn=1, consolidate=1)
    fresh = lambda seed: copy.deepcopy(network)  # noqa: E731
    methods = {
        "plain": Standard(copy.deepcopy(network)),
        "FGSM": apart(memory=False, block_noise=False, step=eps),
        "APART": apart(),
        "PGD-10": Adversarial(copy.deepcopy(network), pgd),
        "TRADES": Adversarial(copy.deepcopy(network), pgd, objective=Trades(5.0)),
        "TRADES + EMA": Adversarial(
            other := copy.deepcopy(network), pgd, objective=Trades(5.0), average=Average(other)
        ),
        "CURE": Cure(copy.deepcopy(network), pgd),
        "CURE without mask": Cure(copy.deepcopy(network), pgd, variant="none"),
        "FOMO on TRADES": Fomo(
            copy.deepcopy(network), pgd, cycles, fresh, objective=Trades(5.0),
            consolidation="iter_all",
        ),
    }  # fmt: skip
    wanted = {"PGD-10", *options.only.split(",")} if options.only else set(methods)
    methods = {name: method for name, method in methods.items() if name in wanted}
    spec = parse_optimizer("name=sgd,lr=0.01")
    optimizers = {n: spec.build(m.network.parameters()) for n, m in methods.items()}
    for name, method in methods.items():
        method.attach(optimizers[name])
        method.start_epoch(0)
    seconds = {name: [] for name in methods}
    for number, batch in enumerate(images.batches(options.batch_size)):
        step = Step(0, 0.0, number, 0)
        for name, method in methods.items():
            method.network.train()
            began = time.perf_counter()
            optimizers[name].zero_grad(set_to_none=True)
            loss, _ = method.loss(batch, step)
            method.backward(loss)
            optimizers[name].step()
            method.after_step(step)
            if number:  # the first one warms up
                seconds[name].append(time.perf_counter() - began)
    print(f"Python {platform.python_version()}, torch {torch.__version__}, {os.cpu_count()} cores, "
          f"{torch.get_num_threads()} threads, preact w={options.width}, batch "
          f"{options.batch_size}, {images.name}")  # fmt: skip
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    for name, middle in medians.items():
        ratios = ", ".join(f"{middle / medians[base]:.3f} of {base}'s" for base in BASES
                           if base in medians)  # fmt: skip
        print(f"{name}: {middle:.3f} s per step, {ratios}")


if __name__ == "__main__":
    main()
