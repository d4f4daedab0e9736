"""Full precision unless the user asks for less."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ridgeline.models.copying import in_pool


@contextmanager
def exact() -> Iterator[None]:
    """Full precision inside: cuDNN's convolutions run in TF32 unless forbidden.

    Who wants TF32 sets `torch.set_float32_matmul_precision("high")`, which is obeyed for both.
    The setting is restored afterwards.
    """
    if in_pool():  # the flag is the whole process's; CPUs, whose pool this is, have no TF32
        yield
        return
    wanted = torch.get_float32_matmul_precision() != "highest"
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = wanted
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before
