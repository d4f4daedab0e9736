"""Private copies of networks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from queue import SimpleQueue
from threading import RLock, current_thread
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ridgeline.models.errors import InputError, reason_of

#: name of a module -> function called instead of its forward, with the module as first argument
Replacements = Mapping[str, Callable[..., Tensor]]
NOTHING: Replacements = {}
Network = TypeVar("Network", bound=nn.Module)
#: prefix of the names of the pool's threads
POOL = "ridgeline-pool"


def copy_of(network: Network) -> Network:
    """A copy that shares no memory with the network. Tied parameters stay tied.

    Some modules store computed tensors as plain attributes (the `weight` of the old
    `torch.nn.utils.weight_norm`, cached activations). These belong to a graph, which
    `copy.deepcopy` does not accept. The copy has their values without the graph.
    """
    return _deepcopy(network, {})


def _deepcopy(network: Network, known: dict[int, Tensor]) -> Network:
    computed = {id(t): t.detach().clone() for t in _attributes(network) if not t.is_leaf}
    return copy.deepcopy(network, known | computed)


def device_named(device: torch.device | str) -> torch.device:
    """The device of that name. Raises InputError if this machine does not have it."""
    try:
        device = torch.device(device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {device!s} cannot be used: {reason_of(error)}") from None
    return device


class Replicas:
    """A network, and copies of it for threads of the pool. All share the parameters.

    A call temporarily replaces a module's tensors, so no other thread may use this module then.
    Threads of the pool (`train.workers`) use copies, and wait if none is free. Other threads use
    the network itself, one at a time, so hooks on it see all passes outside the pool.
    """

    def __init__(self, network: nn.Module):
        self.network = network
        self._alone = RLock()
        self._free: SimpleQueue[nn.Module] = SimpleQueue()
        self._made = 0
        self._places: dict[int, dict[str, list[tuple[dict, str]]]] = {}

    def provide(self, count: int) -> None:
        """Make `count` copies. Called by the thread that starts the work."""
        with self._alone:  # no other thread runs the network while it is copied
            shared = {id(p): p for p in self.network.parameters()}
            while self._made < count:
                self._free.put(_deepcopy(self.network, dict(shared)))
                self._made += 1

    def call(
        self, state: Mapping[str, Tensor], positional: tuple, named: Mapping[str, Any],
        instead: Replacements = NOTHING,
    ) -> Any:  # fmt: skip
        """The network's output for arguments, with the tensors of `state` instead of its own.

        As `torch.func.functional_call`, but the places of the tensors are found once, not at every
        call. That takes a thirtieth of the time of a scan of a small network. `instead` is as in
        `replaced`.
        """
        with self.one() as network, replaced(network, instead):
            if id(network) not in self._places:
                self._places[id(network)] = _places_of(network)
            places = self._places[id(network)]
            own = []
            try:
                for name, tensor in state.items():
                    for held, key in places.get(name, ()):
                        own.append((held, key, held[key]))
                        held[key] = tensor
                return network(*positional, **named)
            finally:
                for held, key, tensor in own:
                    held[key] = tensor

    @contextmanager
    def one(self) -> Iterator[nn.Module]:
        """A copy (or the network) that no other thread uses."""
        if not in_pool():
            with self._alone:
                yield self.network
            return
        network = self._free.get()
        try:
            yield network
        finally:
            self._free.put(network)


@contextmanager
def replaced(network: nn.Module, instead: Replacements) -> Iterator[None]:
    """The network with functions instead of some modules' forward. Hooks still run.

    `instead` maps names of modules to functions (module, *arguments).
    """
    modules = [network.get_submodule(name) for name in instead]
    for module, function in zip(modules, instead.values(), strict=True):
        module.forward = partial(function, module)
    try:
        yield
    finally:
        for module in modules:
            del module.forward


def _places_of(network: nn.Module) -> dict[str, list[tuple[dict, str]]]:
    """Name -> all places in the modules where that parameter or buffer is stored."""
    places: dict[int, list[tuple[dict, str]]] = {}
    for module in network.modules():
        for held in (module._parameters, module._buffers):
            for key, tensor in held.items():
                if tensor is not None:
                    places.setdefault(id(tensor), []).append((held, key))
    named = (*network.named_parameters(), *network.named_buffers())
    return {name: places[id(tensor)] for name, tensor in named}


def in_pool() -> bool:
    """Whether this thread belongs to the pool."""
    return current_thread().name.startswith(POOL)


def _attributes(network: nn.Module) -> Iterator[Tensor]:
    """Tensors in plain attributes of any module, alone or in a list, tuple or dict."""
    for module in network.modules():
        for value in vars(module).values():
            parts = value.values() if isinstance(value, dict) else value
            for part in parts if isinstance(value, dict | list | tuple) else [value]:
                if isinstance(part, Tensor):
                    yield part
