"""CIFAR ResNet-20 (He et al. 2016, section 4.2) with 1x1 shortcuts (option B)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from ridgeline.models.resnet import BasicBlock


class CifarResNet20(nn.Module):
    """Three stages of three basic blocks for 3x32x32 images; w=4 is the usual width of 16.

    `bias` is accepted for a common signature and has no effect.
    """

    def __init__(self, width: int = 4, bias: bool = True, num_classes: int = 10):
        super().__init__()
        del bias
        w = 4 * width
        self.conv1 = nn.Conv2d(3, w, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(w)
        self.layer1 = self._stage(w, w, 1)
        self.layer2 = self._stage(w, 2 * w, 2)
        self.layer3 = self._stage(2 * w, 4 * w, 2)
        self.classifier = nn.Linear(4 * w, num_classes)

    @staticmethod
    def _stage(channels: int, out: int, stride: int) -> nn.Sequential:
        rest = [BasicBlock(out, out, 1) for _ in range(2)]
        return nn.Sequential(BasicBlock(channels, out, stride), *rest)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, 3, 32, 32)."""
        x = F.relu(self.bn1(self.conv1(x)))
        return self.classifier(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))
