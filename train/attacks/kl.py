"""The inner attack of TRADES: away from the network's own clean prediction."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ridgeline.models.errors import InputError
from ridgeline.train.attacks.base import Attack, Predict
from ridgeline.train.attacks.norms import project
from ridgeline.train.attacks.pgd import PGD, ascend
from ridgeline.train.data.noise import Noise
from ridgeline.train.losses import divergence


@dataclass(frozen=True, kw_only=True)
class KLPGD(Attack):
    """Ascend KL(p(x) || p(x')) from x + 0.001 N(0, I) (Zhang et al. 2019, algorithm 1).

    Labels play no part; the last iterate is returned, as in the published code. `step_size`
    defaults to 2.5 eps / iterations; `at(eps)` keeps the ratio of step and budget.
    """

    iterations: int
    step_size: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._steps()  # refuses what PGD refuses

    def _steps(self) -> PGD:
        """PGD with the same budget, step and number of steps."""
        return PGD(eps=self.eps, order=self.order, iterations=self.iterations,
                   step_size=self.step_size)  # fmt: skip

    @classmethod
    def like(cls, attack: Attack) -> KLPGD:
        """The attack with budget, steps and step size of a PGD; InputError for other attacks."""
        if not isinstance(attack, PGD | KLPGD):
            raise InputError("TRADES needs name=pgd (its budget, step_size and iter_num) to train")
        return cls(eps=attack.eps, order=attack.order, iterations=attack.iterations,
                   step_size=attack.step_size)  # fmt: skip

    def at(self, eps: float) -> KLPGD:
        """The same attack with another budget and the step scaled along."""
        scaled = self._steps().at(eps)
        return replace(self, eps=scaled.eps, step_size=scaled.step_size)

    def perturb(self, predict: Predict, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """The last iterate."""
        with torch.no_grad():
            clean = predict(x)
        start = x + project(1e-3 * noise.normal(x), self.eps, self.order)
        found, _ = ascend(
            predict, x, y, start.clamp(0, 1), eps=self.eps, step_size=self._steps().step,
            iterations=self.iterations, order=self.order, keep_best=False,
            loss=lambda logits, y: divergence(clean, logits),
        )  # fmt: skip
        return found
