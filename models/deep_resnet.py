"""ResNet-18, 34, 50, 101 and 152 (He et al. 2016) for images of any size."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from ridgeline.models.resnet import BasicBlock

#: depth -> blocks of the four stages
BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with BatchNorm and a shortcut. The 3x3 one has the stride."""

    def __init__(self, channels: int, out: int, stride: int):
        super().__init__()
        inner = out // 4
        self.conv1 = nn.Conv2d(channels, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels != out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, out, 1, stride=stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, out, H/stride, W/stride)."""
        y = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        return F.relu(self.bn3(self.conv3(y)) + self.shortcut(x))


class DeepResNet(nn.Module):
    """Four stages of basic blocks (18, 34) or bottlenecks (50, 101, 152); w=16 is published.

    The stem is one 3x3 convolution, for images of 32 or 64 pixels. With `imagenet` it is a 7x7
    convolution of stride 2 and a 3x3 max pooling; the network is then torchvision's. Checkpoints of
    torchvision can be loaded, because names are matched. `bias` is accepted for a common signature
    and has no effect.
    """

    def __init__(
        self,
        width: int = 16,
        bias: bool = True,
        num_classes: int = 10,
        *,
        depth: int = 18,
        imagenet: bool = False,
        image_shape: Sequence[int] = (3, 32, 32),
    ):
        super().__init__()
        del bias
        stem = 4 * width
        self.imagenet = imagenet
        size = {"kernel_size": 7, "stride": 2, "padding": 3} if imagenet else {
            "kernel_size": 3, "padding": 1}  # fmt: skip
        self.conv1 = nn.Conv2d(image_shape[0], stem, bias=False, **size)
        self.bn1 = nn.BatchNorm2d(stem)
        channels = stem
        for number, count in enumerate(BLOCKS[depth]):
            out = stem * 2**number * (4 if depth >= 50 else 1)
            kind = Bottleneck if depth >= 50 else BasicBlock
            blocks = [
                kind(channels if n == 0 else out, out, 2 if n == 0 and number else 1)
                for n in range(count)
            ]
            self.add_module(f"layer{number + 1}", nn.Sequential(*blocks))
            channels = out
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, C, H, W)."""
        x = F.relu(self.bn1(self.conv1(x)))
        if self.imagenet:
            x = F.max_pool2d(x, 3, stride=2, padding=1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.classifier(x.mean((2, 3)))
