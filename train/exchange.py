"""Communication between the processes of torchrun."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

#: longest time that processes wait for one that still works
_PATIENCE = timedelta(days=30)


class Parted(RuntimeError):
    """Another process of torchrun has ended. Finished work is on disk."""


def processes() -> tuple[int, int]:
    """The number of this process, from 0, and the number of processes that torchrun started."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def leader() -> bool:
    """Whether this process prints and writes files. Known also before it has joined."""
    return os.environ.get("RANK", "0") == "0"


def own_device(device: torch.device) -> torch.device:
    """The device of this process: under torchrun each process has its own GPU."""
    if device.type != "cuda" or processes()[1] == 1:
        return device
    return torch.device("cuda", int(os.environ["LOCAL_RANK"]))


def connect(device: torch.device) -> bool:
    """Connect to the other processes, once. Returns whether there are any."""
    if processes()[1] > 1 and not dist.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        with together():
            backend = "nccl" if device.type == "cuda" else "gloo"
            dist.init_process_group(backend, timeout=_PATIENCE)
    return dist.is_initialized()


def meet() -> None:
    """Wait until every process calls this."""
    if connect(torch.device("cpu")):
        with together():
            dist.barrier()


def leave() -> None:
    """Leave the group of processes. Its threads must not run longer than the program."""
    if dist.is_initialized():
        dist.destroy_process_group()


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Turn errors of communication, which only name sockets, into `Parted`."""
    try:
        yield
    except (dist.DistError, RuntimeError) as error:
        number, world = processes()
        raise Parted(
            f"process {number + 1} of {world} has lost the others: one of them ended "
            f"({str(error).splitlines()[0][:80]}); run the same command again to continue"
        ) from None


def summed(tensors: Sequence[Tensor]) -> None:
    """Sum tensors over all processes, in place, with one message per dtype."""
    for dtype in dict.fromkeys(t.dtype for t in tensors):
        some = [t for t in tensors if t.dtype == dtype]
        flat = torch.cat([t.detach().reshape(-1) for t in some])
        with together():
            dist.all_reduce(flat)
        _put(some, flat)


def agreed(tensors: Sequence[Tensor]) -> None:
    """Set tensors to their values in the first process, in place."""
    for dtype in dict.fromkeys(t.dtype for t in tensors):
        some = [t for t in tensors if t.dtype == dtype]
        flat = torch.cat([t.detach().reshape(-1) for t in some])
        with together():
            dist.broadcast(flat, 0)
        _put(some, flat)


def gathered(mine: Any) -> list[Any]:
    """The objects of all processes, in order. They must be picklable."""
    found: list[Any] = [None] * dist.get_world_size()
    with together():
        dist.all_gather_object(found, mine)
    return found


def _put(tensors: Sequence[Tensor], flat: Tensor) -> None:
    parts = flat.split([t.numel() for t in tensors])
    with torch.no_grad():
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view(tensor.shape))
