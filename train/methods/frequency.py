"""Training with a penalty on the high frequencies of convolution filters."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ridgeline.models.dct import DctConv2d, dct_layers, high_frequencies, plain_state
from ridgeline.models.errors import InputError, unknown
from ridgeline.train.attacks import Attack
from ridgeline.train.data.examples import Batch, Images
from ridgeline.train.evaluation import Scores, scores_of_networks
from ridgeline.train.methods.base import Method, Step, joined

#: penalty -> which frequencies of a layer it acts on
PENALTIES = {
    "highest": "sum of max(i, j) N_ij over max(i, j) > K/2",
    "all": "sum of (i^2 + j^2) N_ij; K = 3 spares (0,0), larger K the block i, j <= 1",
    "decay": "hinges: no N on an anti-diagonal i + j above any N on the one before",
}


class Frequency(Method):
    """Cross-entropy + strength * penalty on the DCT coefficients (Lukasik et al. 2023).

    `network` holds `DctConv2d` layers; `layers` of them, the first in module order, are penalised
    (`depth_rule`). N_ij is the Frobenius norm of a layer's coefficients at frequency (i, j) over
    all its filters, not squared, so whole frequencies of a layer can go to zero. `lowest` adds
    hinges that keep (0,1), (1,0), (1,1) below (0,0). The published default is taken to be the
    penalty "highest", strength 0.01, the first floor(N / 3) + 1 layers, on WD layers: what the
    commands of its README run. The training loss of the metrics includes the penalty; checkpoints
    hold plain convolution weights. `attack`, if given, is an attack of the evaluation only.
    Raises InputError if the network has no DCT layer or `layers` is out of range.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        strength: float = 0.01,
        penalty: str = "highest",
        lowest: bool = False,
        layers: int | None = None,
        attack: Attack | None = None,
        device: torch.device | str = "cpu",
    ):
        if penalty not in PENALTIES:
            raise unknown("penalty", penalty, PENALTIES)
        self.network, self.attack, self.device = network, attack, device
        self.kind, self.lowest, self.strength = penalty, lowest, strength
        found = dct_layers(network)
        count = depth_rule(len(found), 3) if layers is None else layers
        if not 1 <= count <= len(found):
            raise InputError(f"layers to penalise must lie in 1..{len(found)}, got {count}")
        self.all = found
        self.penalised: dict[str, DctConv2d] = dict(list(found.items())[:count])

    def penalty(self) -> Tensor:
        """The penalty summed over the penalised layers, without its strength."""
        return sum(
            penalty(m.coefficients, self.kind, lowest=self.lowest) for m in self.penalised.values()
        )

    def loss(self, batch: Batch, step: Step) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy of the clean batch + strength * penalty."""
        logits = self.network(batch.x)
        loss = F.cross_entropy(logits, batch.y)
        return (loss + self.strength * self.penalty() if self.strength else loss), logits

    def evaluate(self, images: Images, step: Step, batch_size: int) -> dict[str, Scores]:
        """Clean scores, and those under the attack."""
        options = {"batch_size": batch_size, "seed": step.seed, "device": self.device}
        return scores_of_networks({"": self.network}, images, {"target": self.attack}, **options)

    def metrics(self, step: Step) -> dict[str, float]:
        """Strength * penalty, and N_ij of every DCT layer, penalised or not."""
        with torch.no_grad():
            tables = {n: norms(m.coefficients).tolist() for n, m in self.all.items()}
            strength = self.strength * float(self.penalty())
        by_place = (
            {f"norm_{name}_{i}{j}": value for i, row in enumerate(table)
             for j, value in enumerate(row)} for name, table in tables.items()
        )  # fmt: skip
        return joined({"penalty": strength}, *by_place)

    def weights(self) -> dict[str, Tensor]:
        """The network in plain convolutions, the coordinates that all landscape tools share."""
        return plain_state(self.network)


def depth_rule(count: int, depth: float) -> int:
    """floor(N / depth) + 1 layers, at most N: 3 gives a third and one more, 1 gives all.

    >>> depth_rule(9, 3), depth_rule(9, 1)
    (4, 9)
    """
    if not depth > 0:
        raise InputError(f"--reg_depth must be positive, got {depth:g}")
    return min(int(count / depth) + 1, count)


def norms(coefficients: Tensor) -> Tensor:
    """N (K, K) over (i, j): Frobenius norms over all filters, with gradient 0 where N is 0."""
    square = coefficients.square().sum((0, 1))
    positive = square > 0
    return torch.where(positive, torch.where(positive, square, 1.0).sqrt(), 0.0)


def penalty(coefficients: Tensor, kind: str, *, lowest: bool = False) -> Tensor:
    """The penalty of one layer's coefficients (out, in / groups, K, K); kinds in PENALTIES."""
    n = norms(coefficients)
    size = n.shape[-1]
    i = torch.arange(size, device=n.device)
    largest = torch.maximum(i[:, None], i[None, :])
    if kind == "highest":
        total = (n * largest * high_frequencies(size, n.device)).sum()
    elif kind == "all":
        spared = largest < (1 if size == 3 else 2)
        total = (n * (i[:, None] ** 2 + i[None, :] ** 2) * ~spared).sum()
    else:
        diagonal = i[:, None] + i[None, :]
        total = sum(
            (n[diagonal == s][None, :] - n[diagonal == s - 1][:, None]).clamp_min(0).sum()
            for s in range(1, 2 * size - 1)
        )
    if lowest:
        total = total + sum((n[place] - n[0, 0]).clamp_min(0) for place in ((0, 1), (1, 0), (1, 1)))
    return total
