"""Vision transformers (Dosovitskiy et al. 2021; DeiT, Touvron et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ridgeline.models.errors import InputError

#: channels of a head; the width of a network is its number of heads
HEAD = 64
DEPTH = 12


class _Patches(nn.Module):
    """Square patches as tokens."""

    def __init__(self, channels: int, size: int, patch: int):
        super().__init__()
        self.proj = nn.Conv2d(channels, size, patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (N, T, size) of images (N, C, H, W), row by row."""
        return self.proj(x).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Self-attention in elementary operations: fused kernels have no second derivatives."""

    def __init__(self, size: int):
        super().__init__()
        self.qkv = nn.Linear(size, 3 * size)
        self.proj = nn.Linear(size, size)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (N, T, size), each a mean of all tokens' values."""
        count, tokens, size = x.shape
        heads = self.qkv(x).view(count, tokens, 3, size // HEAD, HEAD)
        q, k, v = heads.permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q @ k.transpose(-2, -1) * HEAD**-0.5).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(count, tokens, size))


class _MLP(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, size: int):
        super().__init__()
        self.fc1 = nn.Linear(size, 4 * size)
        self.fc2 = nn.Linear(4 * size, size)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (N, T, size); each is treated separately."""
        return self.fc2(F.gelu(self.fc1(x)))


class TransformerBlock(nn.Module):
    """LayerNorm before attention and before the linear layers, both residual."""

    def __init__(self, size: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(size, eps=1e-6)
        self.attn = Attention(size)
        self.norm2 = nn.LayerNorm(size, eps=1e-6)
        self.mlp = _MLP(size)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (N, T, size)."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """Twelve blocks of `width` heads with 64 channels each, on square patches; no dropout.

    w=3 is DeiT-Ti, w=6 (the default) DeiT-S, w=12 DeiT-B and ViT-B. Keys are those of the public
    DeiT checkpoints. `bias` is accepted for a common signature and has no effect. Raises
    InputError for images whose sides are not multiples of the patch.
    """

    def __init__(
        self,
        width: int = 6,
        bias: bool = True,
        num_classes: int = 10,
        *,
        patch: int = 16,
        image_shape: Sequence[int] = (3, 224, 224),
    ):
        super().__init__()
        del bias
        channels, height, across = image_shape
        if height % patch or across % patch:
            raise InputError(
                f"a transformer on patches of {patch} pixels takes images whose sides are "
                f"multiples of that, these are {height}x{across}"
            )
        size = HEAD * width
        tokens = 1 + (height // patch) * (across // patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, size))
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, size))
        for embedding in (self.cls_token, self.pos_embed):
            nn.init.trunc_normal_(embedding, std=0.02)
        self.patch_embed = _Patches(channels, size, patch)
        self.blocks = nn.Sequential(*(TransformerBlock(size) for _ in range(DEPTH)))
        self.norm = nn.LayerNorm(size, eps=1e-6)
        self.head = nn.Linear(size, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, C, H, W)."""
        x = self.patch_embed(x)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        return self.head(self.norm(self.blocks(x))[:, 0])
