"""The options and variants of CURE."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from ridgeline.models.errors import InputError
from ridgeline.train.options import Opt, Options
from ridgeline.train.parts.gradient_mask import SCOPES


@dataclass(frozen=True)
class Variant:
    """A variant of the method: base loss, score of the mask, and masked tensors."""

    base: str  # trades: CE + beta KL; mixed: alpha CE + (1 - alpha) CE'; mixed_kl: ... KL
    score: str | None  # prominence, total, signed, signed_all; None: no mask
    first_only: bool = False  # only conv1 of the blocks
    resum: bool = False  # the gradient is alpha g_nat + (1 - alpha) g_KL + gamma g_CR


#: variants named code_* are here only to repeat released code (Gowda et al. 2024)
VARIANTS = {
    "paper": Variant("trades", "prominence"),
    "code_rgp": Variant("mixed", "total"),
    "code_rgp_old": Variant("mixed_kl", "total"),
    "code_rgp_soft": Variant("trades", "signed", first_only=True),
    "code_rgp_soft_all": Variant("trades", "signed_all", first_only=True, resum=True),
    "none": Variant("trades", None),
}


#: the variant that is adversarial training of chosen stages (`train.parts.freezing`)
FREEZE = "freeze"


def _of(rule: Callable[[Variant], object]) -> dict[str, tuple[str, ...]]:
    """The variants in which an option has an effect: those for which the rule is true."""
    return {"cure_variant": tuple(name for name, variant in VARIANTS.items() if rule(variant))}


_ALL, _MASKED = _of(lambda v: True), _of(lambda v: v.score)


@dataclass(frozen=True)
class CureOptions(Options):
    """Conserved weights of CURE, and updates of its revision model."""

    cure_variant: Annotated[
        str, Opt("variant of the method", choices=(*VARIANTS, FREEZE))
    ] = "paper"  # fmt: skip
    percentile: Annotated[
        float, Opt("percent of the weights conserved at every step", low=0, high=100, only=_MASKED)
    ] = 30.0
    alpha: Annotated[
        float, Opt("share of the clean gradient in the prominence", low=0, high=1, only=_MASKED)
    ] = 0.1
    trades_beta: Annotated[
        float,
        Opt("weight of the divergence of trades", low=0, only=_of(lambda v: v.base == "trades")),
    ] = 5.0
    gamma: Annotated[float, Opt("weight of the revision", low=0, only=_ALL)] = 1.0
    rgp_scope: Annotated[str, Opt("scope of the percentile", choices=SCOPES, only=_MASKED)] = (
        "layer"
    )
    mask_bn: Annotated[
        bool,
        Opt("conserve BatchNorm's weights too", only=_of(lambda v: v.score and not v.first_only)),
    ] = True
    conserve: Annotated[
        str, Opt("conserving", choices={"gradient": "zero it", "strict": "restore weight and "
                                        "momentum"}, only=_MASKED)
    ] = "gradient"  # fmt: skip
    ema_update_freq: Annotated[
        float, Opt("probability r of a revision step", low=0, high=1, only=_ALL)
    ] = 0.2
    ema_alpha: Annotated[
        float, Opt("decay d of the revision", low=0, high=1, only={**_ALL, "ema_update_freq": ()})
    ] = 0.999
    rev_bn: Annotated[
        str, Opt("the revision normalises by", choices={"batch": "its batch", "running": "running "
                                                        "statistics"}, only=_ALL)
    ] = "batch"  # fmt: skip
    aux_loss_type: Annotated[
        str,
        Opt("revision by", choices={"kl": "", "l2": "between logits"}, only={**_ALL, "gamma": ()}),
    ] = "kl"  # fmt: skip
    epochs_warmup: Annotated[
        int, Opt("CURE_Eff: natural epochs inside the run (80 of 200)", low=0, only=_ALL)
    ] = 0

    def check(self) -> None:
        """Raise InputError for a percentile below 1, which would be a share as in released code."""
        if 0 < self.percentile < 1:
            raise InputError(
                f"--percentile is in percent, as in the paper, and {self.percentile:g} would "
                f"conserve {self.percentile:g} % of the weights; for the share {self.percentile:g} "
                f"write --percentile {100 * self.percentile:g}"
            )
