"""What an attack is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from models.errors import InputError
from train.attacks.norms import INF, check_order
from train.noise import Noise, noise_for

Predict = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """A search for the perturbation within the ball of radius eps that hurts most.

    eps is in [0,1] pixel units, `order` is inf or 2. An attack acts on `predict(x) -> logits`,
    never on a module; the caller decides the mode (`train.guard.undisturbed`).
    """

    eps: float
    order: float = INF

    #: examples attacked together where random numbers are shared by a batch; None: any number
    chunk: ClassVar[int | None] = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "order", check_order(self.order))
        if not self.eps >= 0:
            raise InputError(f"attack threshold must not be negative, got {self.eps:g}")

    def at(self, eps: float) -> Attack:
        """The same attack with another budget."""
        return replace(self, eps=eps)

    def __call__(self, predict: Predict, x: Tensor, y: Tensor, noise: Noise | int = 0) -> Tensor:
        """Adversarial images (N, C, H, W) for clean x in [0,1] and labels y (N,).

        `noise` is a seed or the examples' noise. eps = 0 returns x itself.
        """
        if self.eps == 0:
            return x
        return self.perturb(predict, x.detach(), y, noise_for(x, noise)).detach()

    @abstractmethod
    def perturb(self, predict: Predict, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """The search itself, for eps > 0."""
