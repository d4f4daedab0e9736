"""Networks of the optional package timm by name: `timm:resnet50d`, freshly initialised.

Options of the network follow after a comma, `timm:vit_small_patch16_224,img_size=32,patch_size=4`.
Like torchvision's, their code is installed and not the user's. So names in files are allowed.
"""

from __future__ import annotations

import difflib
import importlib
from types import ModuleType

from torch import nn

from ridgeline.models.errors import InputError
from ridgeline.models.external import in_one_line, options_in

PREFIX = "timm:"
#: options that a user must not set, and why
_FIXED = {
    "pretrained": "networks start from random weights; load others by --model2load",
    "checkpoint_path": "networks start from random weights; load others by --model2load",
    "features_only": "training and diagnostics take one tensor of logits",
    "num_classes": "the classes are those of the data set",
    "in_chans": "the channels are those of the images",
}


def check_timm(model_type: str) -> str:
    """The name of the network behind `timm:NAME,...`.

    Raises InputError if timm is not installed or does not have the name.
    """
    name = model_type.removeprefix(PREFIX).partition(",")[0]
    names = _timm(model_type).list_models()
    if name not in names:
        near = difflib.get_close_matches(name, names, n=5) or names[:2]
        raise InputError(
            f"timm has no network {name!r} among its {len(names)}; similar names: {', '.join(near)}"
        )
    return name


def timm_network(
    model_type: str,
    channels: int,
    *,
    width: int | None = None,
    bias: bool = True,
    num_classes: int = 10,
) -> nn.Module:
    """A network of timm for images with `channels` channels and `num_classes` classes.

    A later pass checks the size of the images (`train.data.network_check`). Raises InputError as
    `check_timm`. Raises it too for options that the network does not have, for a width or biases
    (no network of timm has these options), and for a network with a fixed number of classes.
    """
    name = check_timm(model_type)
    if width is not None or not bias:
        asked = "bias" if width is None else "width"
        raise InputError(f"{PREFIX}{name} has no --{asked}; its own options follow its name")
    given = options_in(model_type.partition(",")[2], model_type)
    for key in given:
        if key in _FIXED:
            raise InputError(f"{PREFIX}{name} takes no option {key}: {_FIXED[key]}")
    given["num_classes"] = num_classes
    build = _timm(model_type).create_model
    network = in_one_line(
        lambda: build(name, pretrained=False, in_chans=channels, **given), f"{PREFIX}{name} failed"
    )
    made = getattr(network, "num_classes", num_classes)
    if made != num_classes:
        raise InputError(
            f"{PREFIX}{name} has {made} classes, not {num_classes}, and this cannot be "
            "changed; take another network"
        )
    return network


def _timm(model_type: str) -> ModuleType:
    try:
        return in_one_line(lambda: importlib.import_module("timm"), "timm cannot be imported")
    except InputError as error:
        raise InputError(
            f"{model_type} needs the package timm (pip install timm): {error}"
        ) from None
