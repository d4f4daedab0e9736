"""Cost of a PGD-10 training step: ours, the loop of Liu et al. (2020), a plain PyTorch loop.

    python benchmarks/training_loops.py                        # ResNet18 w=8, random 32x32 images
    python benchmarks/training_loops.py --images FILE.npz --batch_size 128
    python benchmarks/training_loops.py --gpu 0 --precisions float32,tf32,bf16 --width 64

Same network, images, batches, augmentation, optimiser and threads; the loops take turns batch by
batch, so that what else the machine does falls on all of them. A step is: images from bytes, crop
and flip, ten steps of PGD from a random start, forward and backward pass in train mode, optimiser,
running loss and accuracy.

`liu` repeats what the released code does: torchvision's transforms image by image,
`loss.backward()` in the attack (gradients of all weights, too), the attack in the network's
training mode, `.item()` twice a step. `plain` is what one writes today: tensors cut out of one
array, `autograd.grad` by the images in eval mode, transforms of the batch as a whole (one crop for
all), `.item()` twice a step.
"""

from __future__ import annotations

import argparse
import copy
import os
import platform
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ridgeline.models import build_model
from ridgeline.models.torchvision_import import import_torchvision
from ridgeline.train.acceleration import Acceleration
from ridgeline.train.attacks import PGD
from ridgeline.train.attacks.base import known_range
from ridgeline.train.data.augmentation import CROP_AND_FLIP
from ridgeline.train.data.datasets import load_images
from ridgeline.train.data.examples import Images
from ridgeline.train.loop import _gradients
from ridgeline.train.methods import METHODS, Setup, Step
from ridgeline.train.optimizers import parse_optimizer
from ridgeline.train.position import Guard, Position

EPS, STEP, ITERATIONS = 8 / 255, 2 / 255, 10
transforms = import_torchvision("transforms")
SGD = "name=sgd,lr=0.01,momentum=0.9,weight_decay=1e-4"


def ours(network: nn.Module, images: Images, device: torch.device, chosen: Acceleration):
    """The step of `train.loop.fit`."""
    pgd = PGD(eps=EPS, step_size=STEP, iterations=ITERATIONS, keep_best=False)
    method = METHODS["adversarial"](network.to(device), Setup(images, pgd, device=device))
    chosen.prepare(network)
    images = images.on(device)
    optim = parse_optimizer(SGD).build(network.parameters())
    guard = Guard(list(network.state_dict().values()), device)
    position = Position()

    def step(places: Tensor, number: int) -> None:
        network.train()
        optim.zero_grad(set_to_none=True)
        batch = CROP_AND_FLIP(images.batch(places, device, torch.float32), 0, 0)
        where = Step(0, 0.0, number, 0)
        with known_range(images), chosen.kernels(device):
            loss, hits = _gradients(method, batch, where, chosen, len(places))
        position.add(loss, hits, len(places))
        optim.step()
        guard.note(loss, number)
        if guard.due(number):
            guard.failure()

    return step


def liu(network: nn.Module, images: Images, device: torch.device):
    """The released loop of Liu et al.: attack by `backward()`, in training mode."""
    network.to(device)
    optim = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    change = transforms.Compose(
        [transforms.ToPILImage(), transforms.RandomCrop(images.image_shape[1], padding=4),
         transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    )  # fmt: skip
    sums = [0.0, 0.0]

    def step(places: Tensor, number: int) -> None:
        network.train()
        x = torch.stack([change(images.pixels[i]) for i in places.tolist()]).to(device)
        y = images.labels[places].to(device)
        delta = torch.empty_like(x).uniform_(-STEP, STEP)
        moved = (x + delta).clamp(0, 1)
        for _ in range(ITERATIONS):
            moved = moved.detach().requires_grad_()
            loss = F.cross_entropy(network(moved), y)
            loss.backward()
            moved = moved + STEP * moved.grad.sign()
            moved = (x + (moved - x).clamp(-EPS, EPS)).clamp(0, 1)
        update(network, optim, moved, y, sums)

    return step


def plain(network: nn.Module, images: Images, device: torch.device):
    """A loop as one writes it today."""
    network.to(device)
    optim = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    pixels, labels = images.pixels.to(device), images.labels.to(device)
    change = transforms.Compose([transforms.RandomCrop(images.image_shape[1], padding=4),
                                 transforms.RandomHorizontalFlip()])  # fmt: skip
    sums = [0.0, 0.0]

    def step(places: Tensor, number: int) -> None:
        places = places.to(device)
        x, y = change(pixels[places].float() / 255), labels[places]
        network.eval()
        moved = (x + torch.empty_like(x).uniform_(-EPS, EPS)).clamp(0, 1)
        for _ in range(ITERATIONS):
            moved.requires_grad_()
            loss = F.cross_entropy(network(moved), y)
            (gradient,) = torch.autograd.grad(loss, moved)
            moved = moved.detach() + STEP * gradient.sign()
            moved = (x + (moved - x).clamp(-EPS, EPS)).clamp(0, 1)
        network.train()
        update(network, optim, moved, y, sums)

    return step


def update(
    network: nn.Module, optim: torch.optim.Optimizer, x: Tensor, y: Tensor, sums: list[float]
) -> None:  # fmt: skip
    """The step itself on the images found; loss and accuracy are fetched, as both loops do."""
    optim.zero_grad()
    logits = network(x.detach())
    loss = F.cross_entropy(logits, y)
    loss.backward()
    optim.step()
    sums[0] += loss.item()
    sums[1] += (logits.argmax(1) == y).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", default="")
    parser.add_argument("--model", default="resnet")
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--gpu", default=None)
    parser.add_argument("--precisions", default="float32")
    parser.add_argument("--channels_last", action="store_true", help="time this layout too")
    parser.add_argument("--compile", action="store_true", help="time torch.compile too")
    options = parser.parse_args()
    if options.steps < 2:
        parser.error("--steps: at least 2, the first of which warms up")
    device = torch.device("cpu" if options.gpu is None else f"cuda:{options.gpu}")
    count = options.batch_size * options.steps
    if options.images:
        images = load_images(options.images, "train").subset(count)
    else:
        pixels = np.random.default_rng(0).integers(0, 256, (count, 3, 32, 32)).astype(np.uint8)
        images = Images(torch.from_numpy(pixels), torch.arange(count) % 10, torch.arange(count),
                        "random", 10)  # fmt: skip
    network = build_model(options.model, images.image_shape, width=options.width)
    loops: dict[str, Callable[[Tensor, int], None]] = {}
    for precision in options.precisions.split(","):
        for last in (False, True) if options.channels_last else (False,):
            for compiled in (False, True) if options.compile else (False,):
                chosen = Acceleration(precision, compile=compiled, channels_last=last)
                name = " ".join(["ours", precision, *["channels last"] * last,
                                 *["compiled"] * compiled])  # fmt: skip
                loops[name] = ours(copy.deepcopy(network), images, device, chosen)
    loops["liu"] = liu(copy.deepcopy(network), images, device)
    loops["plain"] = plain(copy.deepcopy(network), images, device)
    seconds = {name: [] for name in loops}
    for number, places in enumerate(torch.arange(count).split(options.batch_size)):
        for name, step in loops.items():
            began = time.perf_counter()
            step(places, number)
            if device.type == "cuda":
                torch.cuda.synchronize()
            if number:  # the first one warms up
                seconds[name].append(time.perf_counter() - began)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"Python {platform.python_version()}, torch {torch.__version__}, {where}, "
          f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, {options.model} "
          f"w={options.width}, batch {options.batch_size}, {images.name}")  # fmt: skip
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    for name, middle in medians.items():
        ratios = ", ".join(f"{medians[b] / middle:.2f}x {b}" for b in ("liu", "plain") if b != name)
        print(f"{name}: {middle:.3f} s per step ({min(seconds[name]):.3f} at best): {ratios}")


if __name__ == "__main__":
    main()
