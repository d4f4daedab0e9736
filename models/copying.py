"""Private copies of networks."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TypeVar

from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


def copy_of(network: Network) -> Network:
    """A copy that shares nothing with the network; ties between its parameters are kept.

    Tensors that a module computed and kept as plain attributes (the `weight` of the old
    `torch.nn.utils.weight_norm`, cached activations) belong to a graph, which `copy.deepcopy`
    refuses: the copy holds their values, until its next forward pass computes them anew.
    """
    computed = {id(t): t.detach().clone() for t in _attributes(network) if not t.is_leaf}
    return copy.deepcopy(network, computed)


def _attributes(network: nn.Module) -> Iterator[Tensor]:
    """Tensors in plain attributes of any module, alone or in a list, tuple or dict."""
    for module in network.modules():
        for value in vars(module).values():
            parts = value.values() if isinstance(value, dict) else value
            for part in parts if isinstance(value, dict | list | tuple) else [value]:
                if isinstance(part, Tensor):
                    yield part
