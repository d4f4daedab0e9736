"""Objectives of adversarial training: the inner attack and the outer loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated

from torch import Tensor, nn
from torch.nn import functional as F

from ridgeline.models.errors import InputError
from ridgeline.train.attacks import Attack, away_from_clean
from ridgeline.train.data.examples import Batch
from ridgeline.train.data.noise import Noise
from ridgeline.train.losses import divergence
from ridgeline.train.options import Opt
from ridgeline.train.parts.weight_perturbation import WeightPerturbation
from ridgeline.train.undisturbed import undisturbed


class Objective(ABC):
    """The inner attack and the outer loss of the min-max problem."""

    def inner(self, attack: Attack) -> Attack:
        """The attack that training uses for an attack the user named."""
        return attack

    def adversary(
        self,
        network: nn.Module,
        attack: Attack,
        batch: Batch,
        noise: Noise,
        *,
        train_mode: bool = False,
    ) -> Tensor:
        """Adversarial images of a batch, found on the network in eval mode.

        With `train_mode` BatchNorm normalises by the batch during the attack.
        """
        with undisturbed(network, eval_only=not train_mode):
            network.train(train_mode)
            return self.inner(attack)(network, batch.x, batch.y, noise)

    @abstractmethod
    def loss(self, network: nn.Module, batch: Batch, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean loss, and the logits (B, classes) of the adversarial images x."""


@dataclass(frozen=True)
class Madry(Objective):
    """Cross-entropy of the adversarial images alone (Madry et al. 2018)."""

    def loss(self, network: nn.Module, batch: Batch, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy at x."""
        logits = network(x)
        return F.cross_entropy(logits, batch.y), logits


@dataclass(frozen=True)
class Trades(Objective):
    """CE(x) + beta KL(p(x) || p(x')), gradient through both arguments (Zhang et al. 2019, eq. 5).

    BatchNorm gets the clean and the adversarial images as two batches, in this order.
    """

    beta: float = 6.0

    def __post_init__(self) -> None:
        if not self.beta >= 0:
            raise InputError(f"beta of TRADES must not be negative, got {self.beta:g}")

    def inner(self, attack: Attack) -> Attack:
        """PGD on the divergence, with the budget and steps of `attack`."""
        return away_from_clean(attack)

    def loss(self, network: nn.Module, batch: Batch, x: Tensor) -> tuple[Tensor, Tensor]:
        """The sum of both terms."""
        clean, logits = network(batch.x), network(x)
        robust = divergence(clean, logits).mean()
        return F.cross_entropy(clean, batch.y) + self.beta * robust, logits


#: name -> objective of training
OBJECTIVES = {"at": "the loss at --attack's images", "trades": "CE + beta KL"}

# the options of methods that minimise an objective
ObjectiveName = Annotated[str, Opt("objective of training", choices=OBJECTIVES)]
TradesBeta = Annotated[
    float, Opt("weight of the divergence of trades", low=0, only={"objective": ("trades",)})
]
AwpGamma = Annotated[float, Opt("radius of adversarial weight perturbation; 0: none", low=0)]


def objective_of(name: str, trades_beta: float) -> Objective:
    """The objective behind --objective and --trades_beta."""
    return Trades(trades_beta) if name == "trades" else Madry()


def perturbation_of(network: nn.Module, awp_gamma: float) -> WeightPerturbation | None:
    """The weight perturbation behind --awp_gamma; None for a radius of 0."""
    return WeightPerturbation(network, awp_gamma) if awp_gamma else None
