"""Networks by name, for images in [0,1], and the loading of other networks."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial

from torch import nn

from ridgeline.models.deep_resnet import BLOCKS, DeepResNet
from ridgeline.models.efficientnet import cifar_efficientnet_b0
from ridgeline.models.errors import InputError, unknown
from ridgeline.models.external import code_of, external, materialise
from ridgeline.models.layers import Normalize, add_normalization, normalization_in
from ridgeline.models.lenet import CifarLeNet, MnistLeNet
from ridgeline.models.preact import MnistPreActResNet18, PreActResNet18
from ridgeline.models.resnet import CifarResNet18
from ridgeline.models.resnet9 import MnistResNet9, ResNet9
from ridgeline.models.resnet20 import CifarResNet20
from ridgeline.models.timm_networks import PREFIX as TIMM
from ridgeline.models.timm_networks import check_timm, timm_network
from ridgeline.models.torchvision_networks import PREFIX as TORCHVISION
from ridgeline.models.torchvision_networks import check_torchvision, torchvision_network
from ridgeline.models.vgg import CifarVGG16
from ridgeline.models.vit import VisionTransformer
from ridgeline.models.wide_resnet import WideResNet

#: (model_type, image shape) -> network; the state-dict keys are those of Liu et al. 2020.
MODELS: dict[tuple[str, tuple[int, int, int]], Callable[..., nn.Module]] = {
    ("lenet", (1, 28, 28)): MnistLeNet,
    ("lenet", (3, 32, 32)): CifarLeNet,
    ("vgg", (3, 32, 32)): CifarVGG16,
    ("resnet", (3, 32, 32)): CifarResNet18,
    ("preact", (1, 28, 28)): MnistPreActResNet18,
    ("preact", (3, 32, 32)): PreActResNet18,
    ("resnet9", (1, 28, 28)): MnistResNet9,
    ("resnet9", (3, 32, 32)): ResNet9,
    ("resnet20", (3, 32, 32)): CifarResNet20,
    ("efficientnet_b0", (3, 32, 32)): cifar_efficientnet_b0,
}

#: depth of a wide ResNet -> its usual width factor k
_WIDE = {16: 8, 28: 10, 34: 10, 40: 4, 70: 16}
#: sides of the patches of transformers: for images of 32, 64 and 224 pixels
_PATCHES = (4, 8, 16)


def _usual_width(build: Callable[..., nn.Module], usual: int) -> Callable[..., nn.Module]:
    """The same network with another default width."""

    def network(width: int = usual, bias: bool = True, num_classes: int = 10, **size) -> nn.Module:
        return build(width, bias, num_classes, **size)

    network.__signature__ = inspect.signature(network)
    return network


#: model_type -> network for images of any size, with an argument `image_shape`
ANY_SIZE: dict[str, Callable[..., nn.Module]] = {
    **{f"wrn{d}": _usual_width(partial(WideResNet, depth=d), k) for d, k in _WIDE.items()},
    **{f"resnet{d}": partial(DeepResNet, depth=d) for d in BLOCKS},
    **{f"resnet{d}_imagenet": partial(DeepResNet, depth=d, imagenet=True) for d in BLOCKS},
    **{f"vit{p}": partial(VisionTransformer, patch=p) for p in _PATCHES},
}

#: the forms of names of other networks
_OTHERS = {"torchvision:NAME", "timm:NAME", "package.module:factory"}

__all__ = [
    "ANY_SIZE", "MODELS", "InputError", "Normalize", "add_normalization", "build_model",
    "check_model_type", "code_of", "is_external", "normalization_in", "published_width", "unknown",
]  # fmt: skip


def is_external(model_type: str) -> bool:
    """Whether `model_type` names a user's code. Such code runs only if the user typed the name."""
    return ":" in model_type and not model_type.startswith((TORCHVISION, TIMM))


def check_model_type(model_type: str, image_shape: Sequence[int]) -> None:
    """Raise InputError unless `model_type` exists for images of shape (C, H, W)."""
    shape = tuple(image_shape)
    if model_type.startswith(TORCHVISION):
        check_torchvision(model_type, image_shape)
        return
    if model_type.startswith(TIMM):
        check_timm(model_type)
        return
    if is_external(model_type) or (model_type, shape) in MODELS or model_type in ANY_SIZE:
        return
    if model_type not in {name for name, _ in MODELS}:
        raise unknown("model_type", model_type, {n for n, _ in MODELS} | ANY_SIZE.keys() | _OTHERS)
    fits = sorted(name for name, s in MODELS if s == shape) + sorted(ANY_SIZE)
    raise InputError(
        f"model_type {model_type!r} does not take images of shape "
        f"{'x'.join(map(str, shape))}; allowed for them: {', '.join(fits)}"
    )


def published_width(model_type: str, image_shape: Sequence[int]) -> int | None:
    """The width factor of the published network: the default of its constructor.

    None for external networks and those of torchvision and timm. Raises InputError as
    `check_model_type`.
    """
    check_model_type(model_type, image_shape)
    if ":" in model_type:
        return None
    return inspect.signature(_registered(model_type, image_shape)).parameters["width"].default


def _registered(model_type: str, image_shape: Sequence[int]) -> Callable[..., nn.Module]:
    """The function that builds one of our networks from width, bias and number of classes."""
    shape = tuple(image_shape)
    return MODELS.get((model_type, shape)) or partial(ANY_SIZE[model_type], image_shape=shape)


def build_model(
    model_type: str,
    image_shape: Sequence[int],
    *,
    width: int | None = None,
    bias: bool = True,
    num_classes: int = 10,
    normalize: tuple[Sequence[float], Sequence[float]] | None = None,
) -> nn.Module:
    """Build a freshly initialised network for images of shape (C, H, W) in [0,1].

    The initial weights are torch's defaults and depend on the global random state.

    Args:
        model_type: A name in MODELS, torchvision:NAME, package.module:factory or file.py:factory.
        image_shape: (C, H, W) of the images.
        width: Factor on the number of channels; None: the published one.
        bias: Whether layers of LeNet and VGG have biases.
        num_classes: Number of outputs.
        normalize: (mean, std) per channel, applied inside the network; None: none.

    Returns:
        The network.

    Raises:
        InputError: for an unknown model type, one that does not accept this shape, or a width
            below 1.

    >>> build_model("lenet", (1, 28, 28), width=1)(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """
    check_model_type(model_type, image_shape)
    if normalize and len(normalize[0]) != image_shape[0]:
        raise InputError(
            f"the normalisation has {len(normalize[0])} means, the images {image_shape[0]} channels"
        )
    if width is not None and width < 1:
        raise InputError(f"width must be at least 1, got {width}")
    if model_type.startswith(TIMM):
        network = timm_network(
            model_type, image_shape[0], width=width, bias=bias, num_classes=num_classes
        )
    elif model_type.startswith(TORCHVISION):
        network = torchvision_network(
            model_type, image_shape, width=width, bias=bias, num_classes=num_classes
        )
    elif is_external(model_type):
        chosen = {} if width is None else {"width": width}
        network = external(
            model_type, **chosen, bias=bias, num_classes=num_classes, in_channels=image_shape[0]
        )
        materialise(network, image_shape)
    else:
        width = published_width(model_type, image_shape) if width is None else width
        network = _registered(model_type, image_shape)(width, bias, num_classes)
    return add_normalization(network, *normalize) if normalize else network
