"""Small exact problems shared by the tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from ridgeline.train.data.examples import Images
from ridgeline.train.files.locks import release_all
from tests.commands import Done, Precision, call, run_chain

ROOT = Path(__file__).resolve().parent.parent
torch.set_num_threads(1)  # the problems are tiny: more threads only wait for each other


def make_images(
    count: int = 23, shape: tuple[int, int, int] = (1, 6, 6), classes: int = 4, seed: int = 0
) -> Images:
    """Random float images in [0.2, 0.8] with random labels."""
    generator = torch.Generator().manual_seed(seed)
    pixels = 0.2 + 0.6 * torch.rand(count, *shape, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (count,), generator=generator)
    return Images(pixels, labels, torch.arange(count), "random", classes)


def make_mlp(inputs: int = 36, hidden: int = 5, classes: int = 4, seed: int = 0) -> nn.Module:
    """A smooth two-layer network in float64."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, classes)
    ).double()


class ConvBN(nn.Module):
    """A small convolution network with BatchNorm whose statistics are not the default ones."""

    def __init__(self, channels: int = 1, classes: int = 4):
        super().__init__()
        self.conv = nn.Conv2d(channels, 3, 3, padding=1)
        self.bn = nn.BatchNorm2d(3)
        self.conv2 = nn.Conv2d(3, 2, 3)
        self.bn2 = nn.BatchNorm2d(2)
        self.head = nn.Linear(2 * 16, classes)

    def forward(self, x):
        x = torch.tanh(self.bn(self.conv(x)))
        return self.head(torch.tanh(self.bn2(self.conv2(x))).flatten(1))


def make_conv_bn(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    network = ConvBN().double()
    network.train()
    for batch in make_images(40, seed=5).batches(20, dtype=torch.float64):
        network(batch.x)
    return network


@pytest.fixture
def images() -> Images:
    return make_images()


class Killed(BaseException):
    """The end of a process in the middle of its work."""


@pytest.fixture
def free_locks(monkeypatch):
    """Nothing is held from test to test; what is written need not reach a disk."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    yield
    release_all()


@pytest.fixture
def run_command(tmp_path):
    """Run a command in this process, in an empty folder; returns what it came to."""

    def run(command: str, *options: object, check: bool = False) -> Done:
        done = call((command, *options), tmp_path)
        if check:
            assert done.returncode == 0, done.stderr
        return done

    return run


@pytest.fixture
def run_process(tmp_path):
    """Run a command of run/ as a user does, in a process of its own, in an empty folder."""

    def run(command: str, *options: object, check: bool = False):
        done = subprocess.run(
            [sys.executable, str(ROOT / "run" / f"{command}.py"), *map(str, options)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PAGER": "false"},
        )
        if check:
            assert done.returncode == 0, done.stderr
        return done

    return run


@pytest.fixture
def refuse(tmp_path):
    """Run a command in this process, which must refuse; returns its one line on stderr.

    Bad input is turned away before anything is computed or written: both are checked.
    """

    def run(command: str, *options: object) -> str:
        done = call((command, *options), tmp_path)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert not done.stdout
        assert not list(tmp_path.iterdir())
        return done.stderr

    return run


@pytest.fixture(scope="session")
def chain_noted(tmp_path_factory):
    """Every command once on the CPU: the folder, and what `Precision` noted by command line."""
    folder = tmp_path_factory.mktemp("chain")
    assert torch.backends.cudnn.allow_tf32  # as torch has it by default
    return folder, run_chain(folder, (Precision,))


@pytest.fixture(scope="session")
def every_result(chain_noted):
    """A folder with results of every command; do not write into it."""
    return chain_noted[0]
