"""Cost of a training step: APART and FGSM beside PGD-10, in one run.

    python benchmarks/training.py                 # small PreAct ResNet18, embedded MNIST
    python benchmarks/training.py --width 4 --images FILE.npz

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

from models import build_model
from train.attacks import PGD
from train.datasets import load_images
from train.methods import Adversarial, Apart, Standard, Step
from train.optimizers import parse_optimizer
from train.schedules import Constant


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", default="mnist5k")
    parser.add_argument("--width", type=int, default=2)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=7)
    options = parser.parse_args()
    images = load_images(options.images, "train").subset(options.batch_size * options.steps)
    network = build_model("preact", images.image_shape, width=options.width)
    eps = 8 / 255
    pgd = PGD(eps=eps, step_size=eps / 4, iterations=10, keep_best=False)
    scalars = {"eps": eps, "rate": Constant(start_v=1e-7), "momentum": Constant(start_v=0.9)}

    def apart(**parts) -> Apart:
        return Apart(copy.deepcopy(network), images, pgd, augment=True, **scalars, **parts)

    methods = {
        "plain": Standard(copy.deepcopy(network)),
        "FGSM": apart(memory=False, block_noise=False, step=eps),
        "APART": apart(),
        "PGD-10": Adversarial(copy.deepcopy(network), pgd),
    }
    spec = parse_optimizer("name=sgd,lr=0.01")
    optimizers = {n: spec.build(m.network.parameters()) for n, m in methods.items()}
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
            if number:  # the first one warms up
                seconds[name].append(time.perf_counter() - began)
    print(f"Python {platform.python_version()}, torch {torch.__version__}, {os.cpu_count()} cores, "
          f"{torch.get_num_threads()} threads, preact w={options.width}, batch "
          f"{options.batch_size}, {images.name}")  # fmt: skip
    base = statistics.median(seconds["PGD-10"])
    for name, times in seconds.items():
        middle = statistics.median(times)
        print(f"{name}: {middle:.3f} s per step, {middle / base:.3f} of PGD-10's")


if __name__ == "__main__":
    main()
