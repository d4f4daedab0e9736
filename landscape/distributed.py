"""Sharing the work of a diagnostic over the processes of `torchrun`.

Either every process runs the same program on its own images, and sums over all of them are
exchanged, so that every process holds the same numbers; or every process computes its own cells of
a grid, or pieces of the data, and joins the others at the end. Without torchrun there is one
process and no exchange.
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

#: whether sums are over all processes: those that compute cells of their own only meet
_shared = {"sums": False, "pieces": False}


def join(device: torch.device) -> torch.device:
    """Share sums from now on with the processes torchrun started; returns this process's device.

    Call once, first.
    """
    _shared.update(sums=connect(own_device(device)))
    return own_device(device)


def share_pieces(device: torch.device) -> None:
    """From now on every process computes its pieces of a problem's data, and hears the others'.

    All must ask for the same work in the same order. Call once, first.
    """
    _shared.update(pieces=connect(device))


def own_pieces(count: int) -> range:
    """The pieces, of so many, that this process computes: all, unless they are shared."""
    if not _shared["pieces"]:
        return range(count)
    return range(dist.get_rank(), count, dist.get_world_size())


def all_pieces(own: Mapping[int, Any]) -> list[Any]:
    """What all processes computed, in the order of the pieces; tensors must lie on the CPU."""
    found = {n: values for part in gathered(dict(own)) for n, values in part.items()}
    return [found[n] for n in sorted(found)]


def sharing() -> bool:
    """Whether sums are over all processes."""
    return _shared["sums"]


def leave() -> None:
    """Part from the other processes."""
    _shared.update(sums=False, pieces=False)
    exchange.leave()


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
    """Whether it is so for every process, which must decide alike."""
    return all_count(int(not here)) == 0
