"""Loss and accuracy of a predictor, clean or under attack, example by example."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ridgeline.train.attacks import Attack, Predict
from ridgeline.train.data.examples import Batch, Data, Images
from ridgeline.train.data.noise import Noise
from ridgeline.train.losses import Loss, correctness, cross_entropy, margins_of
from ridgeline.train.precision import exact
from ridgeline.train.statistics import mean_and_error
from ridgeline.train.undisturbed import undisturbed


@dataclass(frozen=True)
class Scores:
    """`losses` (N,) float64, `correct` (N,) bool and `margins` (N,) float64 of every example.

    A margin is the true class's logit less the largest other. Where outputs are no logits of
    classes, `correct` and `margins` are NaN.
    """

    losses: Tensor
    correct: Tensor
    margins: Tensor

    def __repr__(self) -> str:
        return (
            f"Scores({len(self.losses)} examples: loss {self.loss:.6g} +- {self.loss_se:.2g}, "
            f"accuracy {self.accuracy:.4g})"
        )

    @property
    def loss(self) -> float:
        """Mean loss (cross-entropy: in nats): sum over examples / number of examples."""
        return self.losses.mean().item()

    @property
    def loss_se(self) -> float:
        """Standard error of the mean loss over examples (NaN for one example)."""
        return mean_and_error(self.losses)[1]

    @property
    def accuracy(self) -> float:
        """Fraction of examples classified correctly."""
        return self.correct.double().mean().item()

    @property
    def margin(self) -> float:
        """Mean margin: the true class's logit less the largest other."""
        return self.margins.mean().item()

    def summary(self, prefix: str) -> dict[str, float]:
        """Loss and accuracy as a flat dict with prefixed keys."""
        return {f"{prefix}_loss": self.loss, f"{prefix}_accuracy": self.accuracy}


def evaluate(
    predict: Predict,
    images: Data,
    attack: Attack | None = None,
    *,
    batch_size: int = 500,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    loss: Loss = cross_entropy,
    tick: Callable[[int], None] | None = None,
) -> Scores:
    """Score every example; the attack's noise is keyed by seed and example, not by batch.

    `predict` must be in eval mode (`train.undisturbed`). `tick(n)` is called with the number of
    examples done, for a progress bar.
    """
    losses, correct, margins = [], [], []
    options = {"batch_size": batch_size, "seed": seed, "device": device, "dtype": dtype}
    for batch, x in attacked(predict, images, attack, **options):
        with torch.no_grad(), exact():
            logits = predict(x)
        losses.append(loss(logits, batch.y).double().cpu())
        correct.append(correctness(logits, batch.y).cpu())
        margins.append(margins_of(logits, batch.y).double().cpu())
        if tick is not None:
            tick(len(batch.y))
    return Scores(*(one[0] if len(one) == 1 else torch.cat(one)
                    for one in (losses, correct, margins)))  # fmt: skip


def scores_of_networks(
    networks: Mapping[str, nn.Module],
    images: Images,
    attacks: Mapping[str, Attack | None],
    *,
    batch_size: int,
    seed: int,
    device: torch.device | str,
) -> dict[str, Scores]:
    """Scores of networks in training, whose mode, buffers and gradients stay as they are.

    By name of the network and condition: `clean`, and each attack's; the name "" is left out, the
    others stand before it ("stable_clean"). Equal attacks are run once; None is left out, a budget
    of 0 is the clean score.
    """
    options = {"batch_size": batch_size, "seed": seed, "device": device}
    scores = {}
    for prefix, network in networks.items():
        found: dict[Attack | None, Scores] = {}
        with undisturbed(network):
            for name, attack in {"clean": None, **attacks}.items():
                if attack is None and name != "clean":
                    continue
                key = attack if attack is not None and attack.eps else None
                if key not in found:
                    found[key] = evaluate(network, images, key, **options)
                scores[f"{prefix}_{name}" if prefix else name] = found[key]
    return scores


def attacked(
    predict: Predict,
    images: Data,
    attack: Attack | None,
    *,
    batch_size: int,
    seed: int,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Iterator[tuple[Batch, Tensor]]:
    """Yield every clean batch with what the attack makes of it (the clean x without an attack).

    An attack whose random numbers are per batch gets its own chunks instead of `batch_size`.
    """
    size = batch_size if attack is None or attack.chunk is None else attack.chunk
    for batch in images.batches(size, device=device, dtype=dtype):
        noise = Noise(seed, batch.index)
        yield batch, attack(predict, batch.x, batch.y, noise) if attack else batch.x
