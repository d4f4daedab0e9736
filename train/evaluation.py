"""Loss and accuracy of a predictor, clean or under attack, example by example."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from train.attacks import Attack, Predict
from train.data import Images
from train.noise import Noise


@dataclass(frozen=True)
class Scores:
    """Cross-entropy `losses` (N,) float64 and `correct` (N,) bool of every example."""

    losses: Tensor
    correct: Tensor

    @property
    def loss(self) -> float:
        """Mean cross-entropy in nats: sum over examples / number of examples."""
        return self.losses.mean().item()

    @property
    def loss_se(self) -> float:
        """Standard error of the mean loss over examples (NaN for one example)."""
        return (self.losses.std() / math.sqrt(len(self.losses))).item()

    @property
    def accuracy(self) -> float:
        """Fraction of examples classified correctly."""
        return self.correct.double().mean().item()

    def summary(self, prefix: str) -> dict[str, float]:
        """Loss and accuracy as a flat dict with prefixed keys."""
        return {f"{prefix}_loss": self.loss, f"{prefix}_accuracy": self.accuracy}


def evaluate(
    predict: Predict,
    images: Images,
    attack: Attack | None = None,
    *,
    batch_size: int = 500,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    tick=None,
) -> Scores:
    """Score every example; the attack's noise is keyed by seed and example, not by batch.

    `predict` must be in eval mode (`train.guard.undisturbed`). `tick(n)` is called with the number
    of examples done, for a progress bar.
    """
    losses, correct = [], []
    for batch in images.batches(chunk_size(attack, batch_size), device=device, dtype=dtype):
        x = (
            batch.x
            if attack is None
            else attack(predict, batch.x, batch.y, Noise(seed, batch.index))
        )
        with torch.no_grad():
            logits = predict(x)
            losses.append(F.cross_entropy(logits, batch.y, reduction="none").double().cpu())
            correct.append((logits.argmax(1) == batch.y).cpu())
        if tick is not None:
            tick(len(batch.y))
    return Scores(torch.cat(losses), torch.cat(correct))


def chunk_size(attack: Attack | None, batch_size: int) -> int:
    """Examples per call of an attack: its own chunk where its random numbers are per batch."""
    return batch_size if attack is None or attack.chunk is None else attack.chunk
