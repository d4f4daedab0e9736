"""Sharing the images of a diagnostic over the processes of `torchrun`.

Every process runs the same program on its own images; sums over all of them are exchanged, so
that every process holds the same numbers. Without torchrun there is one process and no exchange.
"""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from torch import Tensor

from ridgeline.models.errors import InputError
from ridgeline.train.data.examples import Images


def join(device: torch.device) -> torch.device:
    """Join the processes torchrun started; returns this process's device. Call once, first."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        return device
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return device


def leader() -> bool:
    """Whether this process is the one that prints and writes files, also before it has joined."""
    return os.environ.get("RANK", "0") == "0" if not dist.is_initialized() else dist.get_rank() == 0


def shard(images: Images, unit: int = 1) -> Images:
    """The images of this process: every world-size-th run of `unit` examples.

    `unit` keeps together what an attack treats together. InputError if a process gets none.
    """
    if not dist.is_initialized():
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
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def all_count(count: int) -> int:
    """The sum of an integer over all processes."""
    if not dist.is_initialized():
        return count
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    return int(all_sum(torch.tensor(count, device=device)).item())
