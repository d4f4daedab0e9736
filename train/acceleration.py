"""Options of the training step: rounding, compilation, memory. Every choice is recorded."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from ridgeline.models.errors import InputError, reason_of
from ridgeline.train.exchange import processes
from ridgeline.train.methods.base import Method
from ridgeline.train.options import Opt, Options
from ridgeline.train.precision import convolutions, products

Precision = Annotated[
    str,
    Opt("precision of training steps (scores are computed in float32)",
        choices={"float32": "", "tf32": "10-bit products on CUDA", "bf16": "autocast"}),
]  # fmt: skip
Compile = Annotated[bool, Opt("torch.compile the network")]
ChannelsLast = Annotated[bool, Opt("keep images and filters channels last in memory")]
Accumulate = Annotated[
    int,
    Opt("split every batch into so many parts and add their gradients: less memory, the same "
        "step; BatchNorm normalises each part", low=1),
]  # fmt: skip
SyncBatchnorm = Annotated[
    bool,
    Opt("under torchrun BatchNorm uses whole batches; False: each process's part"),
]  # fmt: skip
Deterministic = Annotated[bool, Opt("the same numbers from run to run on one CUDA device: slower")]


@dataclass(frozen=True)
class Acceleration(Options):
    """How steps are computed. Every change of these options changes the results."""

    precision: Precision = "float32"
    compile: Compile = False
    channels_last: ChannelsLast = False
    accumulate: Accumulate = 1
    deterministic: Deterministic = False
    sync_batchnorm: SyncBatchnorm = False

    def check(self) -> None:
        """Raise InputError for --sync_batchnorm with --compile."""
        if self.compile and self.sync_batchnorm:
            raise InputError("--sync_batchnorm exchanges sums within a pass, which --compile "
                             "cannot: leave one out")  # fmt: skip

    def check_device(self, device: torch.device) -> None:
        """Raise InputError for options that the device or this machine does not support."""
        if self.precision == "tf32" and device.type == "cpu":
            raise InputError("--precision tf32 is for CUDA devices; use float32 or bf16 here")
        if self.precision == "bf16" and device.type == "cuda" and not bf16_on(device):
            raise InputError(f"--precision bf16: {device} has no bfloat16; use tf32 or float32")
        if self.compile:
            try:
                torch.compile(lambda x: x + 1)(torch.ones(2, device=device))
            except Exception as error:  # of many types: no compiler, no headers, an old device
                raise InputError(
                    f"--compile does not work here ({reason_of(error)}); leave it out"
                ) from None

    def check_method(self, method: Method) -> None:
        """Raise InputError for options that the method does not support."""
        if self.accumulate > 1 and not method.divisible:
            raise InputError(
                f"--accumulate {self.accumulate}: {method.label} does more with a batch's "
                "gradients than add them; use a smaller --batch_size"
            )
        if self.compile and not method.compilable:
            raise InputError(f"--compile: {method.label} reads inner values of its network, which "
                             "a compiled one does not show; leave it out")  # fmt: skip
        attack = method.setup.attack
        if processes()[1] > 1 and not method.divisible:
            raise InputError(
                f"{method.label} does more with a batch's gradients than add them, so its batches "
                "cannot be shared; start it without torchrun"
            )
        if processes()[1] > 1 and attack is not None and attack.chunk is not None:
            raise InputError(
                f"--attack: {attack} draws for {attack.chunk} examples together, which processes "
                "cannot share in training; take pgd or fgsm, or start it without torchrun"
            )

    def parts(self, places: Tensor, least: int = 1) -> list[Tensor]:
        """A batch's positions in `accumulate` nearly equal parts of `least` examples or more.

        A small batch has fewer parts.
        """
        return list(places.tensor_split(max(1, min(self.accumulate, len(places) // least))))

    def prepare(self, network: nn.Module) -> None:
        """Change the memory layout of a network on its device, and compile it in place."""
        if self.channels_last:
            network.to(memory_format=torch.channels_last)
        if self.compile:
            network.compile()  # in place, so the keys of its state dict do not change

    def laid_out(self, x: Tensor) -> Tensor:
        """Images in the layout of the network."""
        return x.contiguous(memory_format=torch.channels_last) if self.channels_last else x

    def autocast(self, device: torch.device) -> contextlib.AbstractContextManager:
        """The autocast context of a forward pass. Casts are not cached, because weights change."""
        if self.precision != "bf16":
            return contextlib.nullcontext()
        return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)

    @contextlib.contextmanager
    def rounding(self) -> Iterator[None]:
        """TF32 inside, if chosen. It is for forward and backward passes, never for scores."""
        if self.precision != "tf32":
            yield
            return
        with products(rounded=True), convolutions(rounded=True):
            yield

    @contextlib.contextmanager
    def kernels(self, device: torch.device) -> Iterator[None]:
        """Choose kernels inside by timing (CUDA), or only deterministic ones if so chosen.

        Raises InputError for an operation that has no deterministic kernel.
        """
        if not self.deterministic:
            before = torch.backends.cudnn.benchmark
            torch.backends.cudnn.benchmark = device.type == "cuda"
            try:
                yield
            finally:
                torch.backends.cudnn.benchmark = before
            return
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read at the first product
        before = torch.are_deterministic_algorithms_enabled()
        chosen = torch.backends.cudnn.benchmark
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
        try:
            yield
        except RuntimeError as error:
            if "deterministic" not in str(error):
                raise
            raise InputError(f"--deterministic: {reason_of(error)}; leave it out") from None
        finally:
            torch.use_deterministic_algorithms(before)
            torch.backends.cudnn.benchmark = chosen


def bf16_on(device: torch.device) -> bool:
    """Whether a CUDA device has bfloat16 in hardware."""
    return torch.cuda.get_device_capability(device) >= (8, 0)
