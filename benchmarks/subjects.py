"""The networks and images that the measurements are taken on."""

from __future__ import annotations

import torch

from ridgeline.landscape.problem import Problem
from ridgeline.models import build_model
from ridgeline.train.data.datasets import load_images
from ridgeline.train.loop import fit
from ridgeline.train.methods import Standard
from ridgeline.train.optimizers import parse_optimizer


def lenet(width: int = 4, images: int = 1000) -> Problem:
    """A LeNet trained on the embedded MNIST images, batches of 100."""
    train, test = (load_images("mnist5k", s) for s in ("train", "test"))
    torch.manual_seed(0)
    network = build_model("lenet", train.image_shape, width=width)
    fit(Standard(network), train, test, epochs=6, batch_size=50,
        optimizer=parse_optimizer("name=adam,lr=1e-3"))  # fmt: skip
    return Problem(network, train.subset(images), batch_size=100)


def resnet(path: str, epochs: int = 3, images: int = 256) -> Problem:
    """A ResNet18 w=8 trained for a while on 1,024 images of an .npz, batches of 128."""
    train, test = (load_images(path, s) for s in ("train", "test"))
    torch.manual_seed(0)
    network = build_model("resnet", train.image_shape, width=8)
    fit(Standard(network), train.subset(1024), test.subset(100), epochs=epochs, batch_size=64,
        optimizer=parse_optimizer("name=adam,lr=1e-3"))  # fmt: skip
    return Problem(network, train.subset(images), batch_size=128)
