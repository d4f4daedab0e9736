"""Plain training on clean images."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from ridgeline.train.data.examples import Batch
from ridgeline.train.methods.base import Method, Step


class Standard(Method):
    """Empirical risk minimisation of the cross-entropy. An attack is used only for evaluation."""

    def loss(self, batch: Batch, step: Step) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy of the clean batch."""
        logits = self.network(batch.x)
        return F.cross_entropy(logits, batch.y), logits
