"""SNIP saliency of each weight (connection sensitivity, Lee et al. 2019)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ridgeline.train.data.examples import Images
from ridgeline.train.precision import exact
from ridgeline.train.undisturbed import undisturbed


@exact()
def snip(
    network: nn.Module,
    images: Images,
    *,
    batch_size: int = 100,
    device: torch.device | str = "cpu",
) -> dict[str, Tensor]:
    """|w| * |d mean cross-entropy / dw| over all images, by parameter (Lee et al. 2019, eq. 3).

    The network is in eval mode and is not changed. Every image counts once.
    """
    with undisturbed(network):
        named = {n: p.detach().requires_grad_() for n, p in network.named_parameters()}
        total = {n: torch.zeros_like(p) for n, p in named.items()}
        for batch in images.batches(batch_size, device=device):
            logits = torch.func.functional_call(network, named, (batch.x,))
            loss = F.cross_entropy(logits, batch.y, reduction="sum")
            gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
            for n, g in zip(named, gradients, strict=True):
                if g is not None:
                    total[n] += g
        return {n: (g / len(images)).abs() * named[n].detach().abs() for n, g in total.items()}
