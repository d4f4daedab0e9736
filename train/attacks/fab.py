"""FAB, the fast adaptive boundary attack (Croce and Hein 2020), by pyautoattack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from pyautoattack.fab_pt import FABAttack_PT
from torch import Tensor

from ridgeline.models.errors import InputError
from ridgeline.train.attacks.base import Attack, Predict, check_range
from ridgeline.train.attacks.library import classes_of, norm_name
from ridgeline.train.attacks.minimum_norm import Smallest, closer, judged, within_budget
from ridgeline.train.attacks.norms import row_norm, where
from ridgeline.train.data.noise import CHUNK, Noise, noise_for, seeded
from ridgeline.train.precision import exact

_REFINEMENTS = 10


@dataclass(frozen=True, kw_only=True)
class FAB(Attack):
    """FAB: the smallest perturbation by projections on the linearised boundary.

    `targets` 0: every iteration uses the boundaries to all classes; the cost grows with their
    number. `targets` above 0: only the boundaries to so many of the likeliest wrong classes, one
    after another (FAB-T). Every restart after the first begins at a random point within half of
    eps. The library stops 0.5 % beyond the boundary, so bisections follow.
    """

    iterations: int = 100
    restarts: int = 5
    targets: int = 0
    chunk: ClassVar[int] = CHUNK

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.iterations < 1 or self.restarts < 1 or self.targets < 0:
            raise InputError(
                "attack fab: iter_num and restarts must be at least 1 and targets 0, got "
                f"{self.iterations}, {self.restarts} and {self.targets}"
            )

    def perturb(self, predict: Predict, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """The smallest perturbation if it is within eps, else a step of length eps towards it."""
        found = self.smallest(predict, x, y, noise)
        return within_budget(predict, x, y, found, self.eps, self.order)

    def smallest(self, predict: Predict, x: Tensor, y: Tensor, noise: Noise | int = 0) -> Smallest:
        """The smallest perturbation of all restarts and targets for every example, and its norm.

        The library computes in float32. Raises InputError for pixels outside [0,1].
        """
        check_range(x)
        x, noise = x.detach(), noise_for(x, noise)
        attack = FABAttack_PT(
            lambda z: predict(z.to(x.dtype)).float(),
            norm=norm_name(self.order),
            n_iter=self.iterations,
            eps=self.eps,
            device=x.device,
        )
        with exact():
            wrong, _ = judged(predict, x, y)
            budget = torch.where(wrong, 0.0, torch.inf).to(x)
            images = x
            count = min(self.targets, classes_of(predict, x) - 1)
            with seeded(noise.batch_seed(), x.device):
                for rank in range(2, count + 2) if count else (None,):
                    attack.target_class = rank
                    for restart in range(self.restarts):
                        found = attack.attack_single_run(
                            x, y, use_rand_start=restart > 0, is_targeted=rank is not None
                        ).to(x.dtype)
                        norm = row_norm(found - x, self.order)
                        better = judged(predict, found, y)[0] & (norm < budget)
                        images = where(better, found, images)
                        budget = torch.where(better, norm, budget)
            return closer(predict, x, y, Smallest(images, budget), self.order, _REFINEMENTS)
