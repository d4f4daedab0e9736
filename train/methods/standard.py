"""Plain training on clean images."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ridgeline.train.data.examples import Batch, Images
from ridgeline.train.evaluation import Scores, scores_of_networks
from ridgeline.train.methods.base import Method, Step


class Standard(Method):
    """Empirical risk minimisation of the cross-entropy."""

    def __init__(self, network: nn.Module, device: torch.device | str = "cpu"):
        self.network, self.device = network, device

    def loss(self, batch: Batch, step: Step) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy of the clean batch."""
        logits = self.network(batch.x)
        return F.cross_entropy(logits, batch.y), logits

    def evaluate(self, images: Images, step: Step, batch_size: int) -> dict[str, Scores]:
        """Clean scores."""
        options = {"batch_size": batch_size, "seed": step.seed, "device": self.device}
        return scores_of_networks({"": self.network}, images, {}, **options)
