"""Random numbers that depend on a seed, a purpose and an example, not on batch or device.

All draws come from a counter-based generator (Philox). Its key is (seed, purpose), so different
seeds are independent, and so are different uses of one seed. Its counters are the example, the
epoch or the repetition. Batch size, device, order of work and resuming never change a result.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

from ridgeline.models.errors import InputError
from ridgeline.train.data.counters import fractions, halves, philox_words

#: generation of the streams below, part of every recipe with random numbers: raise it when a
#: change gives other numbers for the same seed
STREAMS = 2
#: examples that share the draws of a generator, wherever such draws are for a whole batch
CHUNK = 100


class Purpose(IntEnum):
    """The use of a stream of random numbers. A member's number must never be reused or changed."""

    ATTACK = 1
    TRAINING_ATTACK = 2
    ANOTHER_SEED = 3
    INITIAL_WEIGHTS = 4
    TRAINING = 5
    ORDER = 6
    SUBSET = 7
    SPLIT = 8
    MNIST5K = 9
    CROP = 10
    CHUNKS = 11
    FORGETTING_MASK = 12
    FORGETTING_VALUES = 13
    SHRINK_PERTURB = 14
    REVISION = 15
    GENERATOR_MEMORY = 16
    FREEZING = 17
    DCT = 18
    CURVE = 19
    DIRECTION = 20
    LANCZOS_START = 21
    DENSITY = 22
    TRACE = 23
    DIAGONAL = 24
    FISHER_LABELS = 25
    STRICTNESS = 26
    SYMMETRY = 27
    PYHESSIAN = 28
    ALIGNMENT = 29
    RANDOM_SIGNS = 30
    CORRUPTION = 31
    FOURIER = 32
    BOOTSTRAP = 33
    PERMUTATION = 34
    ROTATION = 35
    CUTOUT = 36
    WEIGHT_NOISE = 40
    WEIGHT_ASCENT = 41
    LINEARITY = 42
    SIGN_DIRECTION = 43
    NETWORK = 60
    LIET = 70
    LIET_CLASSES = 71


def stream(seed: int, purpose: Purpose, *counters: int) -> np.random.Generator:
    """A numpy generator of a seed (0 to 2^64 - 1), a purpose and up to three counters (>= 0).

    Raises InputError for a seed outside that range.
    """
    check_seed(seed)
    key = np.array([seed, Purpose(purpose)], dtype=np.uint64)
    words = (0, *counters, *(0,) * (3 - len(counters)))
    return np.random.Generator(np.random.Philox(key=key, counter=np.array(words, dtype=np.uint64)))


def check_seed(seed: int) -> int:
    """The seed itself; InputError outside 0 to 2^64 - 1."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
        raise InputError(f"seed must be a whole number, got {seed!r}")
    if not 0 <= seed < 2**64:
        raise InputError(f"seed must lie in 0..2^64-1, got {seed}")
    return seed


def number_of(seed: int, purpose: Purpose, *counters: int) -> int:
    """A whole number below 2^63 drawn from `stream`, as a seed for other libraries."""
    return int(stream(seed, purpose, *counters).integers(2**63))


def another_seed(seed: int, number: int) -> int:
    """The seed of repetition `number`: for 0 the seed itself, else an independent one.

    seed + number is not used, because it would be the seed of another run.
    """
    return seed if number == 0 else number_of(seed, Purpose.ANOTHER_SEED, number)


def generator_of(seed: int, purpose: Purpose, *counters: int) -> torch.Generator:
    """A torch generator on the CPU. Draw on the CPU, then move: equal numbers on every device."""
    return torch.Generator().manual_seed(number_of(seed, purpose, *counters))


@contextmanager
def seeded(number: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Seed torch's global generators of the CPU and of `device` inside, and restore them after.

    For libraries that use them. `torch.manual_seed` would reseed every CUDA device permanently.
    """
    device = torch.device(device)
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(number)
        for each in cuda:
            place = torch.cuda.current_device() if each.index is None else each.index
            torch.cuda.default_generators[place].manual_seed(number)
        yield


@dataclass(frozen=True)
class Noise:
    """Noise for the examples of one batch: `index` (N,) are their indices in the data set."""

    seed: int
    index: Tensor
    epoch: int = 0
    purpose: Purpose = Purpose.ATTACK

    def uniform(self, like: Tensor, draw: int = 0) -> Tensor:
        """U(-1, 1) of the shape, dtype and device of `like` (N, ...); `draw` counts restarts.

        On an accelerator, tensor operations compute the same bits there.
        """
        size = like[0].numel()
        if like.device.type != "cpu":
            index = self.index.to(like.device)
            key = (check_seed(self.seed), int(self.purpose))
            words = philox_words(key, (self.epoch, index, draw), -(-size // 8))
            found = fractions(halves(words))[:, :size]
            return (2 * found.to(like.dtype) - 1).view_as(like)
        rows = np.empty((len(self.index), size), np.float32)
        for row, own in zip(rows, self._streams(draw), strict=True):
            own.random(dtype=np.float32, out=row)
        found = torch.from_numpy(rows).to(like.dtype)
        return (2 * found - 1).view_as(like)

    def normal(self, like: Tensor, draw: int = 0) -> Tensor:
        """N(0, 1) of the shape, dtype and device of `like` (N, ...)."""
        size = like[0].numel()
        rows = [own.standard_normal(size, np.float32) for own in self._streams(draw)]
        return self._stack(rows, like).view_as(like)

    def ball(self, like: Tensor, draw: int = 0) -> Tensor:
        """Uniform in the unit l_2 ball of each example, in the shape of `like`."""
        size = like[0].numel()
        rows = []
        for generator in self._streams(draw):
            direction = generator.standard_normal(size)
            radius = generator.random() ** (1 / size)
            rows.append((radius / np.linalg.norm(direction) * direction).astype(np.float32))
        return self._stack(rows, like).view_as(like)

    def batch_seed(self) -> int:
        """One seed for the batch, for libraries that do not accept noise per example."""
        first = stream(self.seed, self.purpose, self.epoch, int(self.index[0]), 0)
        return int(first.integers(2**31))

    def _streams(self, draw: int) -> Iterator[np.random.Generator]:
        """The stream of every example in turn: one generator, which is set anew for each.

        To make one costs as much as a thousand of its numbers.
        """
        own = stream(self.seed, self.purpose)
        state = own.bit_generator.state  # before the first number
        for index in self.index.tolist():
            state["state"]["counter"][:] = 0, self.epoch, index, draw
            own.bit_generator.state = state
            yield own

    @staticmethod
    def _stack(rows: list[np.ndarray], like: Tensor) -> Tensor:
        return torch.from_numpy(np.stack(rows)).to(like.device, like.dtype)


def noise_for(x: Tensor, noise: Noise | int) -> Noise:
    """The noise itself, or for a plain seed the noise of examples 0..N-1."""
    return noise if isinstance(noise, Noise) else Noise(noise, torch.arange(len(x)))
