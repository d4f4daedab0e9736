"""ResNet18 with a width factor for CIFAR (Liu et al. 2020, released code)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm and a shortcut, ReLU after the addition."""

    def __init__(self, channels: int, out: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels != out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, out, 1, stride=stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, out, H/stride, W/stride)."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


class CifarResNet18(nn.Module):
    """Four stages of two basic blocks for 3x32x32 images; w=8 is published, w=16 is the usual one.

    `bias` is accepted for a common signature and has no effect, as in the published network.
    """

    def __init__(self, width: int = 8, bias: bool = True, num_classes: int = 10):
        super().__init__()
        del bias
        stem = 4 * width
        self.conv1 = nn.Conv2d(3, stem, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.layer1 = self._stage(stem, 4 * width, 1)
        self.layer2 = self._stage(4 * width, 8 * width, 2)
        self.layer3 = self._stage(8 * width, 16 * width, 2)
        self.layer4 = self._stage(16 * width, 32 * width, 2)
        self.classifier = nn.Linear(32 * width, num_classes)

    @staticmethod
    def _stage(channels: int, out: int, stride: int) -> nn.Sequential:
        return nn.Sequential(BasicBlock(channels, out, stride), BasicBlock(out, out, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, 3, 32, 32)."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.classifier(F.avg_pool2d(x, 4).flatten(1))
