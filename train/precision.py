"""Full precision unless the user asks for less."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch

from ridgeline.models.copying import in_pool

_FULL = ("none", "ieee")


@contextmanager
def exact() -> Iterator[None]:
    """Full precision inside: without it, cuDNN's convolutions use TF32.

    To allow TF32 set `torch.set_float32_matmul_precision("high")`, or
    `torch.backends.cuda.matmul.fp32_precision = "tf32"`. It then applies to convolutions too. The
    setting is restored afterwards.
    """
    if in_pool():  # the flag belongs to the whole process; the pool is for CPUs, without TF32
        yield
        return
    with convolutions(torch.backends.cuda.matmul.fp32_precision not in _FULL):
        yield


@contextmanager
def convolutions(rounded: bool) -> Iterator[None]:
    """CuDNN's kernels with TF32 inside, or without.

    PyTorch has two sets of flags, and an old one raises RuntimeError where a new one contradicts
    it. So both are written, the old one only if it can be read. Nothing is written that is so
    already: a flag that was written no longer follows `torch.backends.fp32_precision`.
    """
    cudnn = torch.backends.cudnn
    kernels = (cudnn.conv, cudnn.rnn)
    before, old = [k.fp32_precision for k in kernels], None
    if all((value == "tf32") == rounded for value in before):
        yield
        return
    with suppress(RuntimeError):
        old = cudnn.allow_tf32
    try:
        if old is not None:
            cudnn.allow_tf32 = rounded
        for kernel in kernels:
            if (kernel.fp32_precision == "tf32") != rounded:
                kernel.fp32_precision = "tf32" if rounded else "ieee"
        yield
    finally:
        if old is not None:
            cudnn.allow_tf32 = old
        _restore(kernels, before)


@contextmanager
def products(rounded: bool) -> Iterator[None]:
    """Products of matrices with TF32 inside, or without; as `convolutions`."""
    kernels = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)
    before, old = [k.fp32_precision for k in kernels], None
    if (before[0] not in _FULL) == rounded:
        yield
        return
    with suppress(RuntimeError):
        old = torch.get_float32_matmul_precision()
    try:
        if old is not None:
            torch.set_float32_matmul_precision("high" if rounded else "highest")
        if (kernels[0].fp32_precision not in _FULL) != rounded:
            kernels[0].fp32_precision = "tf32" if rounded else "ieee"
        yield
    finally:
        if old is not None:
            torch.set_float32_matmul_precision(old)
        _restore(kernels, before)


def _restore(kernels: tuple, before: list[str]) -> None:
    for kernel, value in zip(kernels, before, strict=True):
        if kernel.fp32_precision != value:
            kernel.fp32_precision = value
