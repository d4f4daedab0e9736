"""How much memory is free, and how much a graph holds."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from ridgeline.models.errors import is_out_of_memory

_UNKNOWN = 2**31  # if the system does not say: enough for small networks only


def free_bytes(device: torch.device) -> int:
    """Bytes that this process could allocate on a device now.

    On CUDA the unused memory of torch's cache counts as free. On the host the limits of the
    container and of the process (`ulimit -v`) apply, and the processes that torchrun started there
    get equal shares of what the container allows.
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    return min(_host_bytes() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")), _own_bytes())


def _own_bytes() -> int:
    """What the limit of this process leaves of its address space."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return sys.maxsize
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (OSError, ValueError):
        return limit
    return max(0, limit - pages * resource.getpagesize())


@contextmanager
def short_memory() -> Iterator[None]:
    """Raise torch.OutOfMemoryError for every failed allocation inside, also one on the host."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, torch.OutOfMemoryError) or not is_out_of_memory(error):
            raise
        said = str(error)
    else:
        return
    raise torch.OutOfMemoryError(said)  # outside: its traceback must not keep the memory in use


def _host_bytes() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = 1024 * next(int(x.split()[1]) for x in lines if x.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return _UNKNOWN
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = ((group / f"memory.{n}").read_text().strip() for n in ("max", "current"))
        return free if limit == "max" else max(0, min(free, int(limit) - int(used)))
    except (OSError, ValueError):
        return free


@contextmanager
def held_by_graphs(besides: list[Tensor]) -> Iterator[dict[int, int]]:
    """Collect the storages (address -> bytes) held by graphs that are recorded inside.

    The storages of the tensors `besides` are not counted.
    """
    known = {t.untyped_storage().data_ptr() for t in besides}
    held: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # the tensor itself would make a reference cycle, never freed

    with torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
        yield held
