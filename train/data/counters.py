"""The numbers of numpy's counter-based generator for many examples at once, as tensors.

`noise.stream` has one generator per example. To create them one by one in Python costs more than
the numbers. Here the same Philox 4x64-10 (Salmon et al. 2011) runs in 64-bit integer operations
over all examples, on any device. Every word is equal to numpy's.
"""

from __future__ import annotations

import torch
from torch import Tensor

_ROUNDS = 10
_LOW = 0xFFFFFFFF
#: multipliers of Philox 4x64 (Random123), high and low half of each
_MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
#: constants added to the two words of the key after every round
_WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)


def signed(word: int) -> int:
    """The int64 with the same bits as a 64-bit word (0 to 2^64 - 1)."""
    return word - 2**64 if word >= 2**63 else word


def philox_words(
    key: tuple[int, int], counters: tuple[int, Tensor, int], blocks: int
) -> Tensor:  # fmt: skip
    """The first 4 x `blocks` words of every example's generator: (N, 4 blocks) int64.

    Equal to `noise.stream(seed, purpose, epoch, i, draw).bit_generator.random_raw`, bit for bit.

    Args:
        key: Seed and purpose, 0 to 2^64 - 1 each.
        counters: Epoch, indices of the examples (N,) int64, and draw. The result is on the device
            of the indices.
        blocks: Number of groups of four words.
    """
    epoch, index, draw = counters
    place = {"dtype": torch.int64, "device": index.device}
    shape = (len(index), blocks)
    # numpy counts blocks from 1
    first = torch.arange(1, blocks + 1, **place).expand(shape)
    # words 0 and 2 are multiplied, words 1 and 3 only added
    even = torch.stack([first, index[:, None].expand(shape)])
    odd = torch.stack([torch.full(shape, epoch, **place), torch.full(shape, draw, **place)])
    low, high = (
        torch.tensor(half, **place)[:, None, None]
        for half in ([m & _LOW for m in _MULTIPLIERS], [m >> 32 for m in _MULTIPLIERS])
    )
    for turn in range(_ROUNDS):
        keys = [signed((k + turn * w) % 2**64) for k, w in zip(key, _WEYL, strict=True)]
        top, bottom = _product(low, high, even)
        # swapped: the first word comes from the product of the second
        even = top.flip(0) ^ odd ^ torch.tensor(keys, **place)[:, None, None]
        odd = bottom.flip(0)
    return torch.stack([even[0], odd[0], even[1], odd[1]], -1).flatten(1)


def halves(words: Tensor) -> Tensor:
    """The 32-bit numbers (N, 2 k) in words (N, k), in numpy's order: the low half first."""
    return torch.stack([words & _LOW, _upper(words)], -1).flatten(1)


def fractions(numbers: Tensor) -> Tensor:
    """Float32 in [0, 1) from 32-bit numbers, as numpy's `random(dtype=float32)`."""
    return (numbers >> 8).float() * 2.0**-24


def below(numbers: Tensor, limits: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers in [0, limit) from 32-bit numbers (Lemire 2019), as numpy's `integers`.

    The second result is True where numpy would draw again to make all numbers equally likely
    (about once in 10^9).
    """
    product = numbers * limits
    return product >> 32, (product & _LOW) < (2**32 - limits) % limits


def _product(low: Tensor, high: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Upper and lower 64 bits of products of unsigned 64-bit words, from their halves."""
    x_low, x_high = x & _LOW, _upper(x)
    first = low * x_low
    middle = high * x_low + _upper(first)
    other = low * x_high + (middle & _LOW)
    top = high * x_high + _upper(middle) + _upper(other)
    return top, (other << 32) | (first & _LOW)


def _upper(word: Tensor) -> Tensor:
    """The upper 32 bits; int64 shifts copy the sign."""
    return (word >> 32) & _LOW
