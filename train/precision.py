"""Full precision unless the user asks for less."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ridgeline.models.copying import in_pool


@contextmanager
def exact() -> Iterator[None]:
    """Full precision inside: without it, cuDNN's convolutions use TF32.

    To allow TF32 set `torch.set_float32_matmul_precision("high")`; it then applies to convolutions
    too. The setting is restored afterwards.
    """
    if in_pool():  # the flag belongs to the whole process; the pool is for CPUs, without TF32
        yield
        return
    wanted = torch.get_float32_matmul_precision() != "highest"
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = wanted
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before
