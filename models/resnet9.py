"""ResNet-9 for small images (Lukasik et al. 2023, released code)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class _ConvBN(nn.Module):
    """3x3 convolution, BatchNorm, ReLU."""

    def __init__(self, channels: int, out: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, out, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, out, H, W)."""
        return F.relu(self.bn(self.conv(x)))


class ResNet9(nn.Module):
    """Eight 3x3 convolutions, two identity shortcuts added after the ReLU; w=16 is published.

    `bias` is accepted for a common signature and has no effect.
    """

    block_inputs = ("block1.0.conv", "block2.0.conv")

    def __init__(
        self, width: int = 16, bias: bool = True, num_classes: int = 10, channels: int = 3
    ):
        super().__init__()
        del bias
        w = 4 * width
        self.stem = _ConvBN(channels, w)
        self.layer1 = _ConvBN(w, 2 * w)
        self.block1 = nn.Sequential(_ConvBN(2 * w, 2 * w), _ConvBN(2 * w, 2 * w))
        self.layer2 = _ConvBN(2 * w, 4 * w)
        self.layer3 = _ConvBN(4 * w, 8 * w)
        self.block2 = nn.Sequential(_ConvBN(8 * w, 8 * w), _ConvBN(8 * w, 8 * w))
        self.classifier = nn.Linear(8 * w, num_classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, channels, 32, 32) or (N, channels, 28, 28)."""
        x = F.max_pool2d(self.layer1(self.stem(x)), 2)
        x = x + self.block1(x)
        x = F.max_pool2d(self.layer2(x), 2)
        x = F.max_pool2d(self.layer3(x), 2)
        x = x + self.block2(x)
        return self.classifier(x.amax((2, 3)))


class MnistResNet9(ResNet9):
    """The same network for 1x28x28 images."""

    def __init__(self, width: int = 16, bias: bool = True, num_classes: int = 10):
        super().__init__(width, bias, num_classes, channels=1)
