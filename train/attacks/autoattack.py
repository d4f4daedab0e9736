"""AutoAttack, the standard set, by pyautoattack."""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from typing import ClassVar

from pyautoattack import AutoAttack as LibraryAutoAttack
from torch import Tensor

from ridgeline.train.attacks.base import Attack, Predict
from ridgeline.train.attacks.library import APGD, classes_of, norm_name
from ridgeline.train.attacks.minimum_norm import judged
from ridgeline.train.attacks.norms import within
from ridgeline.train.data.noise import CHUNK, Noise, seeded


@dataclass(frozen=True, kw_only=True)
class AutoAttack(Attack):
    """Standard AutoAttack: APGD-CE, targeted APGD and FAB, Square (Croce and Hein 2020).

    With 2 or 3 classes there is no targeted DLR loss: targeted APGD is left out, with a warning.
    """

    chunk: ClassVar[int] = CHUNK

    def perturb(self, predict: Predict, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """The library's adversarial example; APGD-CE's iterate of largest loss if there is none."""
        classes = classes_of(predict, x)
        attack = LibraryAutoAttack(
            predict,
            norm=norm_name(self.order),
            eps=self.eps,
            seed=noise.batch_seed(),
            device=x.device,
        )
        if classes < 4:
            attack.attacks_to_run.remove("apgd-t")
            _say_left_out(classes)
        attack.apgd_targeted.n_target_classes = min(9, classes - 1)
        attack.fab.n_target_classes = min(9, classes - 1)
        with seeded(noise.batch_seed(), x.device):
            found, _ = attack.run_standard_evaluation(x, y, batch_size=len(x))
        found = within(found, x, self.eps, self.order)
        robust = ~judged(predict, found, y)[0]
        # the library returns examples wrong on the clean image as they are: attack these too
        unsearched = robust | (found == x).flatten(1).all(1)
        if unsearched.any():
            apgd = APGD(eps=self.eps, order=self.order, restarts=1)
            found[unsearched] = apgd.perturb(predict, x[unsearched], y[unsearched], noise)
        return found


@functools.cache  # warn once, not for every chunk of examples
def _say_left_out(classes: int) -> None:
    logging.warning("autoattack: with %d classes the targeted DLR loss is not defined; its "
                    "targeted APGD is left out", classes)  # fmt: skip
