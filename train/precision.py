"""Full precision unless the user asks for less."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

import torch

from ridgeline.models.copying import in_pool


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
    with convolutions(_rounds(torch.backends.cuda.matmul)):
        yield


def convolutions(rounded: bool) -> AbstractContextManager[None]:
    """CuDNN's kernels with TF32 inside, or without."""
    cudnn = torch.backends.cudnn

    def old(value: bool) -> None:
        cudnn.allow_tf32 = value

    kernels = (cudnn.conv, cudnn.rnn)
    return _flags(kernels, kernels, rounded, lambda: cudnn.allow_tf32, old, rounded)


def products(rounded: bool) -> AbstractContextManager[None]:
    """Products of matrices with TF32 inside, or without."""
    matmul = torch.backends.cuda.matmul
    return _flags(
        (matmul,), (matmul, torch.backends.mkldnn.matmul), rounded,
        torch.get_float32_matmul_precision, torch.set_float32_matmul_precision,
        "high" if rounded else "highest",
    )  # fmt: skip


@contextmanager
def _flags(
    kernels: tuple, touched: tuple, rounded: bool,
    read: Callable[[], Any], write: Callable[[Any], None], value: Any,
) -> Iterator[None]:  # fmt: skip
    """Kernels with TF32 inside, or without; `touched` are those that an old flag sets too.

    PyTorch has two sets of flags, and an old one raises RuntimeError where a new one contradicts
    it. So both are written, the old one (`read`, `write` and its `value`) only if it can be read.
    Nothing is written that is so already: a flag that was written no longer follows
    `torch.backends.fp32_precision`.
    """
    before, held = [k.fp32_precision for k in touched], None
    if all(_rounds(k) == rounded for k in kernels):
        yield
        return
    with suppress(RuntimeError):
        held = read()
    try:
        if held is not None:
            write(value)
        for kernel in kernels:
            if _rounds(kernel) != rounded:
                kernel.fp32_precision = "tf32" if rounded else "ieee"
        yield
    finally:
        if held is not None:
            write(held)
        for kernel, then in zip(touched, before, strict=True):
            if kernel.fp32_precision != then:
                kernel.fp32_precision = then


def _rounds(kernel: Any) -> bool:
    return kernel.fp32_precision not in ("none", "ieee")
