"""Pre-activation ResNet18 (He et al. 2016) with a width factor."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class PreActBlock(nn.Module):
    """BN-ReLU-conv twice. The shortcut uses the raw input; noise at conv1 does not reach it."""

    def __init__(self, channels: int, out: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, out, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels != out:
            self.shortcut = nn.Conv2d(channels, out, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, out, H/stride, W/stride)."""
        h = F.relu(self.bn1(x))
        return self.conv2(F.relu(self.bn2(self.conv1(h)))) + self.shortcut(x)


class PreActResNet18(nn.Module):
    """Four stages of two blocks, final BN-ReLU, global pooling; w=16 is the usual network.

    `bias` is accepted for a common signature and has no effect. With w=16 and three channels it is
    the network of APART (Li et al. 2020), 11,172,170 parameters.
    """

    def __init__(
        self, width: int = 16, bias: bool = True, num_classes: int = 10, channels: int = 3
    ):
        super().__init__()
        del bias
        sizes = [4 * width, 8 * width, 16 * width, 32 * width]
        self.conv1 = nn.Conv2d(channels, sizes[0], 3, padding=1, bias=False)
        self.layer1 = self._stage(sizes[0], sizes[0], 1)
        self.layer2 = self._stage(sizes[0], sizes[1], 2)
        self.layer3 = self._stage(sizes[1], sizes[2], 2)
        self.layer4 = self._stage(sizes[2], sizes[3], 2)
        self.bn = nn.BatchNorm2d(sizes[3])
        self.classifier = nn.Linear(sizes[3], num_classes)

    @staticmethod
    def _stage(channels: int, out: int, stride: int) -> nn.Sequential:
        return nn.Sequential(PreActBlock(channels, out, stride), PreActBlock(out, out, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, channels, 32, 32) or (N, channels, 28, 28)."""
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(x)))))
        return self.classifier(F.relu(self.bn(x)).mean((2, 3)))


class MnistPreActResNet18(PreActResNet18):
    """The same network for 1x28x28 images."""

    def __init__(self, width: int = 16, bias: bool = True, num_classes: int = 10):
        super().__init__(width, bias, num_classes, channels=1)
