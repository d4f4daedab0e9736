"""Wide residual networks WRN-d-k (Zagoruyko and Komodakis 2016)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F


class WideBlock(nn.Module):
    """BN-ReLU-conv twice. A shortcut with a convolution uses the input after BN-ReLU."""

    def __init__(self, channels: int, out: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, out, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.convShortcut = None  # the name in the published checkpoints
        if channels != out:
            self.convShortcut = nn.Conv2d(channels, out, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, out, H/stride, W/stride)."""
        h = F.relu(self.bn1(x))
        around = x if self.convShortcut is None else self.convShortcut(h)
        return around + self.conv2(F.relu(self.bn2(self.conv1(h))))


class _Group(nn.Module):
    """Consecutive blocks under `layer`, the published name."""

    def __init__(self, blocks: Sequence[nn.Module]):
        super().__init__()
        self.layer = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Features of the last block."""
        return self.layer(x)


class WideResNet(nn.Module):
    """Three groups of (depth - 4) / 6 blocks with 16k, 32k and 64k channels; k is the width.

    For images (N, C, H, W) of any size. Keys are those of the public adversarially trained
    checkpoints (`block1.layer.0.conv1`, ..., `fc`). `bias` is accepted for a common signature and
    has no effect. WRN-28-10 has 36.48 million parameters, WRN-34-10 46.16 million.
    """

    def __init__(
        self,
        width: int = 10,
        bias: bool = True,
        num_classes: int = 10,
        *,
        depth: int = 28,
        image_shape: Sequence[int] = (3, 32, 32),
    ):
        super().__init__()
        del bias
        if depth < 10 or depth % 6 != 4:
            raise ValueError(f"the depth of a wide ResNet is 10, 16, 22, 28, ..., got {depth}")
        sizes = [16, 16 * width, 32 * width, 64 * width]
        count = (depth - 4) // 6
        self.conv1 = nn.Conv2d(image_shape[0], sizes[0], 3, padding=1, bias=False)
        groups = [
            _Group([WideBlock(sizes[k] if n == 0 else out, out, stride if n == 0 else 1)
                    for n in range(count)])
            for k, (out, stride) in enumerate(zip(sizes[1:], (1, 2, 2), strict=True))
        ]  # fmt: skip
        self.block1, self.block2, self.block3 = groups
        self.bn1 = nn.BatchNorm2d(sizes[3])
        self.fc = nn.Linear(sizes[3], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, C, H, W)."""
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(F.relu(self.bn1(x)).mean((2, 3)))
