"""Sharing the work of a diagnostic over the processes of `torchrun`.

Either every process runs the same program on its own images, and sums over all of them are
exchanged, so that every process holds the same numbers; or every process computes its own cells of
a grid and joins the others at the end. Without torchrun there is one process and no exchange.
"""

from __future__ import annotations

import os
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from ridgeline.models.errors import InputError
from ridgeline.train.data.examples import Images

#: how long one process may work while others wait for it
_PATIENCE = timedelta(days=30)
#: whether sums are over all processes: those that compute cells of their own only meet
_shared = {"sums": False}


def join(device: torch.device) -> torch.device:
    """Share sums from now on with the processes torchrun started; returns this process's device.

    Call once, first.
    """
    _connect(own_device(device))
    _shared.update(sums=dist.is_initialized())
    return own_device(device)


def _connect(device: torch.device) -> None:
    if processes()[1] == 1 or dist.is_initialized():
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)


def own_device(device: torch.device) -> torch.device:
    """The device of this process: under torchrun each has a GPU of its own."""
    if device.type != "cuda" or processes()[1] == 1:
        return device
    return torch.device("cuda", int(os.environ["LOCAL_RANK"]))


def processes() -> tuple[int, int]:
    """The number of this process, from 0, and how many torchrun started."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def meet() -> None:
    """Wait until every process is here; sums stay each process's own."""
    _connect(torch.device("cpu"))
    if dist.is_initialized():
        dist.barrier()


def sharing() -> bool:
    """Whether sums are over all processes."""
    return _shared["sums"]


def leave() -> None:
    """Part from the other processes; threads of the exchange must not outlive the program."""
    _shared.update(sums=False)
    if dist.is_initialized():
        dist.destroy_process_group()


def leader() -> bool:
    """Whether this process is the one that prints and writes files, also before it has joined."""
    return processes()[0] == 0


def shard(images: Images, unit: int = 1) -> Images:
    """The images of this process: every world-size-th run of `unit` examples.

    `unit` keeps together what an attack treats together. InputError if a process gets none.
    """
    if not sharing():
        return images
    rank, world = dist.get_rank(), dist.get_world_size()
    if len(images) <= unit * (world - 1):
        raise InputError(
            f"{len(images)} examples are too few for {world} processes in runs of {unit}"
        )
    positions = torch.arange(len(images))
    return images.take(positions[positions // unit % world == rank])


def all_sum(tensor: Tensor) -> Tensor:
    """The sum of a tensor over all processes (the tensor itself when there is one)."""
    if sharing():
        dist.all_reduce(tensor)
    return tensor


def all_count(count: int) -> int:
    """The sum of an integer over all processes."""
    if not sharing():
        return count
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    return int(all_sum(torch.tensor(count, device=device)).item())


def everywhere(here: bool) -> bool:
    """Whether it is so for every process, which must decide alike."""
    return all_count(int(not here)) == 0
