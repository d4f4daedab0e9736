"""Tests whether layers, tensors and networks are standard, so that a scan may replace them."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.autograd.forward_ad import unpack_dual
from torch.nn.modules import module as every

from ridgeline.models.layers import Normalize

#: packages whose modules store no values of a forward pass outside the network
_KNOWN = ("torch", "ridgeline", "torchvision", "timm")


def plain_layer(module: nn.Module, kinds: tuple[type, ...]) -> bool:
    """Whether a module is exactly of these types, and its weight (if any) is a parameter."""
    own = "forward" not in vars(module)  # not replaced on this instance
    weight = not hasattr(module, "weight") or module._parameters.get("weight") is not None
    return type(module) in kinds and own and weight


def plain_tensor(x: Any) -> bool:
    """Whether x is an ordinary tensor.

    Not ordinary are tensors of torch.func (in a transform), dual tensors (with a tangent), and
    tensors of inference mode (these do not count how often they were overwritten).
    """
    try:
        return x.data_ptr() is not None and unpack_dual(x)[1] is None and not x.is_inference()
    except (RuntimeError, AttributeError):
        return False


def known(network: nn.Module) -> bool:
    """Whether all modules are of known packages and have no hooks."""
    packages = {type(m).__module__.partition(".")[0] for m in network.modules()}
    return packages <= set(_KNOWN) and not hooked(network, Normalize)


def hooked(network: nn.Module, but: type | tuple = ()) -> bool:
    """Whether the network has forward hooks, apart from hooks of the types `but`."""
    own = [h for m in network.modules()
           for h in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())]  # fmt: skip
    of_all = every._global_forward_hooks or every._global_forward_pre_hooks
    return bool(of_all) or not all(isinstance(h, but) for h in own)
