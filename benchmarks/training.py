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
from ridgeline.train.data.augmentation import CROP_AND_FLIP
from ridgeline.train.data.datasets import load_images
from ridgeline.train.methods import METHODS, Method, Setup, Step
from ridgeline.train.optimizers import parse_optimizer

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
    setup = Setup(
        images, pgd, epochs=3, augment=CROP_AND_FLIP, fresh=lambda seed: copy.deepcopy(network)
    )

    def method(name: str, /, **options) -> Method:
        kind = METHODS[name]
        return kind(copy.deepcopy(network), setup, kind.options_type(**options))

    trades = {"objective": "trades", "trades_beta": 5.0}
    generator = {"max_lr_alpha": 1e-7, "cycle_momentum": False}
    methods = {
        "plain": method("standard"),
        "FGSM": method("apart", method="fgsm", **generator),
        "APART": method("apart", **generator),
        "PGD-10": method("adversarial"),
        "TRADES": method("adversarial", **trades),
        "TRADES + EMA": method("adversarial", average="ema", **trades),
        "CURE": method("cure"),
        "CURE without mask": method("cure", cure_variant="none"),
        "FOMO on TRADES": method("fomo", fomo_warmup=0, fomo_relearn=1,
                                 fomo_consolidate="iter_all", **trades),
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
