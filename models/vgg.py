"""VGG16 with BatchNorm and a width factor for CIFAR (Liu et al. 2020, released code)."""

from __future__ import annotations

from torch import Tensor, nn

# channels in units of the width factor; "M" is a 2x2 max pooling
PLAN = (4, 4, "M", 8, 8, "M", 16, 16, 16, "M", 32, 32, 32, "M", 32, 32, 32, "M")


class CifarVGG16(nn.Module):
    """Thirteen 3x3 convolutions with BatchNorm, then one linear layer.

    w=8 is published (half of the usual width), w=16 is the usual VGG16.
    """

    def __init__(self, width: int = 8, bias: bool = True, num_classes: int = 10):
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for entry in PLAN:
            if entry == "M":
                layers.append(nn.MaxPool2d(2))
                continue
            out = entry * width
            layers += [
                nn.Conv2d(channels, out, 3, padding=1, bias=bias),
                nn.BatchNorm2d(out),
                nn.ReLU(),
            ]
            channels = out
        layers.append(nn.AvgPool2d(1))  # no effect; keeps the published module count
        self.feature_extractor = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, 3, 32, 32)."""
        return self.classifier(self.feature_extractor(x).flatten(1))
