"""Sharing the work of a diagnostic over the processes of `torchrun`.

There are two ways:

- Every process runs the same program on its own images. Sums over all processes are exchanged, so
  every process has the same numbers.
- Every process computes its own cells of a grid or its own pieces of the data. The results are
  put together at the end.

Without torchrun there is one process and no exchange.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ridgeline.models.errors import InputError
from ridgeline.train import exchange
from ridgeline.train.data.examples import Images
from ridgeline.train.exchange import connect, gathered, own_device, together

#: which of the two ways is used; processes with their own cells use neither and only wait
_shared = {"sums": False, "pieces": False}


def join(device: torch.device) -> torch.device:
    """Exchange sums with all processes of torchrun from now on; returns this process's device.

    Call it once, before any work.
    """
    _shared.update(sums=connect(own_device(device)))
    return own_device(device)


def share_pieces(device: torch.device) -> None:
    """From now on every process computes its own pieces of the data and receives the others'.

    All processes must ask for the same work in the same order. Call it once, before any work.
    """
    _shared.update(pieces=connect(device))


def own_pieces(count: int) -> range:
    """The numbers of the pieces (of `count`) that this process computes: all, if not shared."""
    if not _shared["pieces"]:
        return range(count)
    return range(dist.get_rank(), count, dist.get_world_size())


def all_pieces(own: Mapping[int, Any]) -> list[Any]:
    """The results of all processes in the order of the pieces. Tensors must be on the CPU."""
    found = {n: values for part in gathered(dict(own)) for n, values in part.items()}
    return [found[n] for n in sorted(found)]


def sharing() -> bool:
    """Whether sums are taken over all processes."""
    return _shared["sums"]


def leave() -> None:
    """Leave the group of processes."""
    _shared.update(sums=False, pieces=False)
    exchange.leave()


def shard(images: Images, unit: int = 1) -> Images:
    """The images of this process: every world-size-th block of `unit` examples.

    `unit` is the number of examples that an attack treats together. Raises InputError if a process
    gets no images.
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
    """The sum of a tensor over all processes (the tensor itself if there is only one)."""
    if sharing():
        with together():
            dist.all_reduce(tensor)
    return tensor


def all_count(count: int) -> int:
    """The sum of an integer over all processes."""
    if not sharing():
        return count
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    return int(all_sum(torch.tensor(count, device=device)).item())


def everywhere(here: bool) -> bool:
    """Whether `here` is True in every process, so that all decide the same."""
    return all_count(int(not here)) == 0
