"""Attacks by name, and the spec that builds them."""

from __future__ import annotations

from train.attacks.autoattack import APGD, AutoAttack, Square
from train.attacks.base import Attack, Predict
from train.attacks.ensemble import mixture
from train.attacks.kl import KLPGD
from train.attacks.pgd import FGSM, PGD
from train.specs import build_named

#: spec name -> attack
ATTACKS: dict[str, type[Attack]] = {
    "pgd": PGD,
    "fgsm": FGSM,
    "kl": KLPGD,
    "apgd": APGD,
    "square": Square,
    "autoattack": AutoAttack,
}

# the vocabulary of Liu et al. 2020 -> ours; the ignored keys had no effect there either
_ALIASES = {"threshold": "eps", "iter_num": "iterations", "loss_type": "loss"}
_IGNORED = {"alpha", "window_size_factor"}

__all__ = ["ATTACKS", "FGSM", "KLPGD", "PGD", "Attack", "Predict", "mixture", "parse_attack"]


def parse_attack(text: str, what: str = "--attack") -> Attack:
    """Build an attack from its spec, e.g. name=pgd,step_size=2,threshold=8,iter_num=10,order=-1.

    Raises InputError for unknown names and keys, wrong types, mixed units, negative budgets.
    """
    return build_named(
        ATTACKS,
        text,
        "attack",
        what,
        budgets={"threshold", "step_size"},
        aliases=_ALIASES,
        ignored=_IGNORED,
    )
