"""LeNets for MNIST and CIFAR with a width factor (Liu et al. 2020, released code)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from ridgeline.models.layers import Halving


class MnistLeNet(nn.Module):
    """Two 5x5 convolutions and two linear layers for 1x28x28 images in [0,1].

    Width w gives 2w and 4w channels and 64w hidden units. w=16 is the published network.
    """

    block_inputs = ("conv2",)

    def __init__(self, width: int = 16, bias: bool = True, num_classes: int = 10):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 2 * width, 5, padding=2, bias=bias)
        self.conv2 = nn.Conv2d(2 * width, 4 * width, 5, padding=2, bias=bias)
        self.pool = Halving()
        self.fc1 = nn.Linear(196 * width, 64 * width, bias=bias)
        self.fc2 = nn.Linear(64 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, 1, 28, 28)."""
        # ReLU after pooling gives the same values on a quarter of the pixels
        x = F.relu(self.pool(self.conv1(x)))
        x = F.relu(self.pool(self.conv2(x)))
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


class CifarLeNet(nn.Module):
    """Two unpadded 5x5 convolutions and three linear layers for 3x32x32 images in [0,1].

    Width w gives 6w and 16w channels. w=8 is the published network.
    """

    block_inputs = ("conv2",)

    def __init__(self, width: int = 8, bias: bool = True, num_classes: int = 10):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6 * width, 5, bias=bias)
        self.conv2 = nn.Conv2d(6 * width, 16 * width, 5, bias=bias)
        self.pool = Halving()
        self.fc1 = nn.Linear(400 * width, 120 * width, bias=bias)
        self.fc2 = nn.Linear(120 * width, 84 * width, bias=bias)
        self.fc3 = nn.Linear(84 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, 3, 32, 32)."""
        # ReLU after pooling gives the same values on a quarter of the pixels
        x = F.relu(self.pool(self.conv1(x)))
        x = F.relu(self.pool(self.conv2(x)))
        x = F.relu(self.fc1(x.flatten(1)))
        return self.fc3(F.relu(self.fc2(x)))
