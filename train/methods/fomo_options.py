"""The options of FOMO."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from ridgeline.models.errors import InputError
from ridgeline.train.objectives import AwpGamma, ObjectiveName, TradesBeta
from ridgeline.train.options import Opt, Options
from ridgeline.train.parts.forgetting import INITS, SCOPES

_RATES = ("hold", "cyclic_per_phase")

_FORGETS = {"fomo_rate": ()}
_CONSISTENT = {"fomo_lambda": ()}


@dataclass(frozen=True)
class FomoOptions(Options):
    """The phases of FOMO, the forgotten weights, and the losses of relearning."""

    objective: ObjectiveName = "at"
    trades_beta: TradesBeta = 6.0
    awp_gamma: AwpGamma = 0.0
    fomo_warmup: Annotated[int, Opt("epochs of plain adversarial training", low=0)] = 105
    fomo_relearn: Annotated[int, Opt("epochs of relearning per cycle", low=1)] = 5
    fomo_consolidate_epochs: Annotated[int, Opt("epochs of consolidation per cycle", low=0)] = 1
    fomo_rate: Annotated[
        float, Opt("fraction of every tensor that is forgotten", low=0, high=1)
    ] = 0.035
    fomo_scope: Annotated[str, Opt("stages that forget", choices=SCOPES, only=_FORGETS)] = "later"
    fomo_include_shortcut: Annotated[bool, Opt("convolutions of shortcuts too", only=_FORGETS)] = (
        False
    )
    fomo_include_fc: Annotated[bool, Opt("the classifier too", only=_FORGETS)] = True
    fomo_mask: Annotated[
        str,
        Opt(
            "number of forgotten entries",
            choices={
                "tensor": "an exact fraction of each",
                "global": "each entry with that probability",
            },
            only={**_FORGETS, "fomo_select": ("random",)},
        ),
    ] = "tensor"
    fomo_select: Annotated[
        str,
        Opt(
            "choice of the entries",
            choices={
                "random": "",
                "magnitude": "the lowest, an ablation",
                "snip": "lowest saliency, an ablation",
            },
            only=_FORGETS,
        ),
    ] = "random"
    fomo_init: Annotated[
        str, Opt("new values of forgotten entries", choices=INITS, only=_FORGETS)
    ] = "fresh"  # fmt: skip
    fomo_consolidate: Annotated[
        str, Opt("when the stable network is updated", choices={
            "iter_tail": "every step of consolidation", "phase_end": "once at the end of a cycle",
            "iter_all": "every step from the warm-up on"})
    ] = "iter_tail"  # fmt: skip
    fomo_ema_decay: Annotated[float, Opt("decay of the stable network", low=0, high=1)] = 0.999
    fomo_lambda: Annotated[float, Opt("weight of the consistency", low=0)] = 1.0
    fomo_cr_on: Annotated[
        str,
        Opt(
            "images of the consistency",
            choices={"adv": "adversarial images", "both": "clean ones too"},
            only=_CONSISTENT,
        ),
    ] = "adv"
    fomo_cr_loss: Annotated[
        str,
        Opt(
            "distance of the consistency",
            choices={"kl": "", "mse": "between logits"},
            only=_CONSISTENT,
        ),
    ] = "kl"
    fomo_cr_in_consolidation: Annotated[
        bool,
        Opt(
            "keep the consistency in consolidation",
            only={**_CONSISTENT, "fomo_consolidate_epochs": ()},
        ),
    ] = False
    fomo_reset_momentum: Annotated[
        str, Opt("momenta that are forgotten", choices=("masked", "none", "all"))
    ] = "masked"
    fomo_lr: Annotated[
        str,
        Opt("piecewise: --lr_schedule; hold:RATE or cyclic_per_phase:RATE from the first cycle on"),
    ] = "piecewise"
    attack_mode: Annotated[str, Opt("BatchNorm during the attack", choices=("eval", "train"))] = (
        "eval"
    )

    def check(self) -> None:
        """Raise InputError for a wrong --fomo_lr, and for iter_tail without consolidation."""
        if self.fomo_lr != "piecewise":
            kind, _, value = self.fomo_lr.partition(":")
            try:
                number = float(value)
            except ValueError:
                number = -1.0
            if kind not in _RATES or not 0 < number < math.inf:
                raise InputError(
                    "--fomo_lr must be piecewise, hold:RATE or cyclic_per_phase:RATE, got "
                    f"{self.fomo_lr!r}"
                )
        if self.fomo_consolidate == "iter_tail" and not self.fomo_consolidate_epochs:
            raise InputError(
                "--fomo_consolidate iter_tail needs --fomo_consolidate_epochs of 1 or more"
            )
