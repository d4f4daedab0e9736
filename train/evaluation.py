"""Loss and accuracy of a predictor, clean or under attack, example by example."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ridgeline.train.attacks import Attack, MinimumNorm, Predict, Smallest
from ridgeline.train.attacks.minimum_norm import within_budget
from ridgeline.train.attacks.norms import row_norm, where
from ridgeline.train.attacks.record import Trace
from ridgeline.train.data.examples import Batch, Data, Images
from ridgeline.train.data.noise import Noise
from ridgeline.train.losses import Loss, correctness, cross_entropy, margins_of, predicted
from ridgeline.train.precision import exact
from ridgeline.train.statistics import mean_and_error
from ridgeline.train.undisturbed import undisturbed


@dataclass(frozen=True)
class Scores:
    """`losses` (N,) float64, `correct` (N,) bool and `margins` (N,) float64 of every example.

    A margin is the true class's logit minus the largest other logit. If outputs are not logits of
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
        """Mean margin: the true class's logit minus the largest other logit."""
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
    record: Trace | None = None,
) -> Scores:
    """Score every example. The attack's noise depends on seed and example, not on the batch.

    `predict` must be in eval mode (`train.undisturbed`). `tick(n)` is called with the number of
    finished examples, for a progress bar. `record` traces the attack, for a single batch.
    """
    parts: list[Scores] = []
    options = {"batch_size": batch_size, "seed": seed, "device": device, "dtype": dtype,
               "record": record}  # fmt: skip
    for batch, x in attacked(predict, images, attack, **options):
        with torch.no_grad(), exact():
            logits = predict(x)
        parts.append(_scored(logits, batch.y, loss))
        if tick is not None:
            tick(len(batch.y))
    return joined([vars(part) for part in parts])


def evaluate_smallest(
    predict: Predict,
    images: Data,
    attack: MinimumNorm,
    budgets: Sequence[float],
    *,
    batch_size: int = 500,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    loss: Loss = cross_entropy,
    record: Trace | None = None,
) -> tuple[Tensor, list[Scores]]:
    """The smallest budget (N,) float64 of every example and the scores at `budgets`, by one search.

    The smallest budget is infinite if none was found, and 0 if the clean prediction is wrong.
    `predict` must be in eval mode. `record` traces the search, for a single batch.
    """
    smallest: list[Tensor] = []
    scores: list[list[Scores]] = [[] for _ in budgets]
    size = attack.chunk or batch_size
    for batch in images.batches(size, device=device, dtype=dtype):
        x, y = batch.x, batch.y
        seen = predict if record is None else record.watch(predict, x, y, torch.inf, attack.order)
        found = attack.smallest(seen, x, y, Noise(seed, batch.index))
        for place in sorted(range(len(budgets)), key=lambda n: budgets[n]):
            with exact(), torch.no_grad():
                at = within_budget(predict, x, y, found, budgets[place], attack.order)
                logits = predict(at)
            norm = row_norm(at - x, attack.order)  # a step that fools is nearer than the result
            nearer = (predicted(logits) != y) & (norm < found.budget)
            found = Smallest(
                where(nearer, at, found.images), torch.where(nearer, norm, found.budget)
            )
            scores[place].append(_scored(logits, y, loss))
        smallest.append(found.budget.double().cpu())
    return torch.cat(smallest), [joined([vars(part) for part in some]) for some in scores]


def joined(parts: Sequence[Mapping[str, Tensor]]) -> Scores:
    """The scores of all examples from those of batches."""
    names = ("losses", "correct", "margins")
    if len(parts) == 1:
        return Scores(*(parts[0][n] for n in names))
    return Scores(*(torch.cat([p[n] for p in parts]) for n in names))


def _scored(outputs: Tensor, y: Tensor, loss: Loss) -> Scores:
    return Scores(loss(outputs, y).double().cpu(), correctness(outputs, y).cpu(),
                  margins_of(outputs, y).double().cpu())  # fmt: skip


def scores_of_networks(
    networks: Mapping[str, nn.Module],
    images: Images,
    attacks: Mapping[str, Attack | None],
    *,
    batch_size: int,
    seed: int,
    device: torch.device | str,
) -> dict[str, Scores]:
    """Scores of networks in training; their mode, buffers and gradients do not change.

    Keys are NETWORK_CONDITION, such as "stable_clean", or CONDITION for the network "". Conditions
    are `clean` and the names of the attacks. Equal attacks run once. An attack None is skipped. A
    budget of 0 gives the clean score.
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
    record: Trace | None = None,
) -> Iterator[tuple[Batch, Tensor]]:
    """Yield every clean batch with its adversarial images (the clean x without an attack).

    `record` traces the attack, for a single batch. An attack with random numbers per batch uses
    its own chunk size instead of `batch_size`.
    """
    size = batch_size if attack is None or attack.chunk is None else attack.chunk
    for batch in images.batches(size, device=device, dtype=dtype):
        noise = Noise(seed, batch.index)
        yield batch, attack(predict, batch.x, batch.y, noise, record) if attack else batch.x
