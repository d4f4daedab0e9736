"""EfficientNet-B0 (torchvision's) for 32x32 images."""

from __future__ import annotations

from torch import nn

from ridgeline.models.torchvision_import import import_torchvision


def cifar_efficientnet_b0(width: int = 8, bias: bool = True, num_classes: int = 10) -> nn.Module:
    """Torchvision's EfficientNet-B0 with stem stride 1. w=8 is the original width.

    Every layer has symmetric padding, so small images need no other padding. Deep maps are as
    small as 2x2, smaller than their 5x5 kernels (see `models.blocks.input_sizes`). `bias` is
    accepted for a common signature and has no effect.
    """
    del bias
    source = import_torchvision("models.efficientnet")
    settings, last = source._efficientnet_conf(
        "efficientnet_b0", width_mult=width / 8, depth_mult=1.0
    )
    network = source.EfficientNet(settings, dropout=0.2, num_classes=num_classes, last_channel=last)
    network.features[0][0].stride = (1, 1)
    return network
