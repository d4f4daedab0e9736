"""Networks of checkpoints that others trained; `--model_type foreign_networks:NAME` names them."""

from __future__ import annotations

import itertools

from torch import Tensor, nn
from torch.nn import functional as F


def _two_convolutions(channels: int, padding: int, sizes: tuple[int, ...]) -> nn.Sequential:
    """Two 4x4 convolutions of stride 2, with 16 and 32 channels, then linear layers of `sizes`."""
    layers: list[nn.Module] = [
        nn.Conv2d(channels, 16, 4, 2, padding), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, padding),
        nn.ReLU(), nn.Flatten(),
    ]  # fmt: skip
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def m7_mnist() -> nn.Sequential:
    """The network of fast_adversarial and convex_adversarial: 7 x 7 maps, 100 hidden units."""
    return _two_convolutions(1, 1, (1568, 100, 10))


def m7_cifar() -> nn.Sequential:
    """The same for CIFAR-10: cnn_a and wide of alpha-beta-CROWN."""
    return _two_convolutions(3, 1, (2048, 100, 10))


def marabou_medium() -> nn.Sequential:
    """Convolutions without padding and two hidden layers: alpha-beta-CROWN's marabou_medium."""
    return _two_convolutions(3, 0, (1152, 128, 64, 10))


class PlainBlock(nn.Module):
    """Two 3x3 convolutions without normalisation; a 1x1 convolution where the shape changes."""

    def __init__(self, channels: int, out: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1)
        change = stride > 1 or channels != out
        self.shortcut = nn.Sequential(
            nn.Conv2d(channels, out, 1, stride) if change else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, out, H / stride, W / stride)."""
        return F.relu(self.conv2(F.relu(self.conv1(x))) + self.shortcut(x))


class ResNet2b(nn.Module):
    """alpha-beta-CROWN's resnet2b: two residual blocks, a hidden layer of 100 units."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, 2, 1)
        self.layer1 = nn.Sequential(PlainBlock(8, 16, 2), PlainBlock(16, 16, 1))
        self.linear1, self.linear2 = nn.Linear(1024, 100), nn.Linear(100, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 10) of images (N, 3, 32, 32)."""
        x = self.layer1(F.relu(self.conv1(x)))
        return self.linear2(F.relu(self.linear1(x.flatten(1))))
