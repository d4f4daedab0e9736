"""Torchvision's classification networks by name: `torchvision:resnet18`, freshly initialised.

Options of the network follow after a comma, `torchvision:mobilenet_v2,width_mult=0.5`. Their code
is installed and not the user's. So they are not external networks, and names in files are allowed.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from torch import nn

from ridgeline.models.errors import InputError
from ridgeline.models.external import in_one_line, options_in
from ridgeline.models.torchvision_import import import_torchvision

PREFIX = "torchvision:"
#: options that a user must not set, and why
_FIXED = {
    "weights": "networks start from random weights; load others by --model2load",
    "weights_backbone": "networks start from random weights; load others by --model2load",
    "num_classes": "the classes are those of the data set",
    "progress": "nothing is downloaded",
    "aux_logits": "training and diagnostics take one tensor of logits",
}


def check_torchvision(model_type: str, image_shape: Sequence[int]) -> str:
    """The name of the network behind `torchvision:NAME,...`.

    Raises InputError for a name that torchvision does not have, and for images without 3 channels.
    """
    name = model_type.removeprefix(PREFIX).partition(",")[0]
    models = import_torchvision("models")
    names = models.list_models(module=models)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=5) or ["resnet18", "vgg11_bn"]
        raise InputError(
            f"torchvision has no network {name!r} among its {len(names)} classifiers; "
            f"similar names: {', '.join(near)}"
        )
    if image_shape[0] != 3:
        raise InputError(f"{PREFIX}{name} takes images of 3 channels, these have {image_shape[0]}")
    return name


def torchvision_network(
    model_type: str,
    image_shape: Sequence[int],
    *,
    width: int | None = None,
    bias: bool = True,
    num_classes: int = 10,
) -> nn.Module:
    """A network of torchvision for images of shape (3, H, W), without auxiliary outputs.

    A vision transformer is built for images of that height. Other networks have the stem for
    224 x 224 pixels; a later pass checks whether they accept smaller images
    (`train.data.network_check`). Raises InputError as `check_torchvision`, for options that the
    network does not have, and for a width or biases (these networks have neither option).
    """
    name = check_torchvision(model_type, image_shape)
    if width is not None or not bias:
        asked = "bias" if width is None else "width"
        raise InputError(
            f"{PREFIX}{name} has no --{asked}; its own options follow its name, "
            f"as in {PREFIX}mobilenet_v2,width_mult=0.5"
        )
    given = options_in(model_type.partition(",")[2], model_type)
    for key in given:
        if key in _FIXED:
            raise InputError(f"{PREFIX}{name} takes no option {key}: {_FIXED[key]}")
    own: dict[str, object] = {"num_classes": num_classes}
    if name in ("googlenet", "inception_v3"):
        own |= {"aux_logits": False, "init_weights": True}
    if name.startswith("vit_"):
        own["image_size"] = image_shape[1]
    build = import_torchvision("models").get_model
    return in_one_line(
        lambda: build(name, weights=None, **{**own, **given}), f"{PREFIX}{name} failed"
    )
