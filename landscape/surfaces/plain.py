"""What is just what it seems: layers, tensors and networks that a scan may compute otherwise."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.autograd.forward_ad import unpack_dual
from torch.nn.modules import module as every

from ridgeline.models.layers import Normalize

#: packages whose modules keep nothing of a pass outside the network
_KNOWN = ("torch", "ridgeline", "torchvision", "timm")


def plain_layer(module: nn.Module, kinds: tuple[type, ...]) -> bool:
    """Whether a module is just of these kinds, and its weight, if any, a parameter."""
    own = "forward" not in vars(module)  # not one that somebody has put there
    weight = not hasattr(module, "weight") or module._parameters.get("weight") is not None
    return type(module) in kinds and own and weight


def plain_tensor(x: Any) -> bool:
    """Whether x is a tensor of numbers alone: torch.func's know of transforms, duals of tangents.

    Tensors of inference mode do not tell whether they have been overwritten.
    """
    try:
        return x.data_ptr() is not None and unpack_dual(x)[1] is None and not x.is_inference()
    except (RuntimeError, AttributeError):
        return False


def known(network: nn.Module) -> bool:
    """Whether all modules are of well-known packages, and nobody has hooked anything to them."""
    packages = {type(m).__module__.partition(".")[0] for m in network.modules()}
    return packages <= set(_KNOWN) and not hooked(network, Normalize)


def hooked(network: nn.Module, but: type | tuple = ()) -> bool:
    """Whether hooks see its passes, `but` those of some types."""
    own = [h for m in network.modules()
           for h in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())]  # fmt: skip
    of_all = every._global_forward_hooks or every._global_forward_pre_hooks
    return bool(of_all) or not all(isinstance(h, but) for h in own)
