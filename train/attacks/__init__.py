"""Attacks by name, and the spec that builds them."""

from __future__ import annotations

from dataclasses import replace

from ridgeline.models.errors import InputError
from ridgeline.train.attacks.autoattack import AutoAttack
from ridgeline.train.attacks.base import Attack, Predict
from ridgeline.train.attacks.ensemble import mixture
from ridgeline.train.attacks.fab import FAB
from ridgeline.train.attacks.fmn import FMN
from ridgeline.train.attacks.library import APGD, APGDTargeted, Square
from ridgeline.train.attacks.minimum_norm import MinimumNorm, Smallest
from ridgeline.train.attacks.norms import L2
from ridgeline.train.attacks.pgd import PGD, away_from_clean
from ridgeline.train.attacks.single_step import FGSM, NFGSM, RFGSM
from ridgeline.train.specs import Unit, build_named, parse_spec, unclear_l2, unit_of

#: spec name -> attack
ATTACKS: dict[str, type[Attack]] = {
    "pgd": PGD,
    "fgsm": FGSM,
    "rfgsm": RFGSM,
    "nfgsm": NFGSM,
    "apgd": APGD,
    "apgd_t": APGDTargeted,
    "fab": FAB,
    "fmn": FMN,
    "square": Square,
    "autoattack": AutoAttack,
}

# the words of Liu et al. 2020, synonyms of ours
_ALIASES = {"threshold": "eps", "iter_num": "iterations", "loss_type": "loss"}
# keys without effect, there too: only to repeat released code (Liu et al. 2020)
_IGNORED = {"alpha", "window_size_factor"}
#: spec name -> the full spec that it stands for
_SHORT = {"kl": "name=pgd,loss_type=kl,keep_best=False"}
_RADII = {"eps", "threshold"}
_BUDGETS = {*_RADII, "step_size"}

__all__ = [
    "ATTACKS", "FGSM", "PGD", "Attack", "MinimumNorm", "Predict", "Smallest", "away_from_clean",
    "check_budget", "mixture", "parse_attack",
]  # fmt: skip


def check_budget(attack: Attack, eps: float, what: str) -> None:
    """Raise InputError, naming the option `what`, for a budget that the attack does not allow."""
    try:
        attack.at(eps)
    except InputError as error:
        raise InputError(f"{what}: {error}") from None


def parse_attack(text: str, what: str = "--attack", beside: Unit = Unit.UNSET) -> Attack:
    """Build an attack from its spec, e.g. name=pgd,eps=8,step_size=2,iterations=10,order=-1.

    `threshold` and `iter_num`, the words of Liu et al. 2020, are synonyms of eps and iterations;
    `name=kl` is short for PGD with `loss_type=kl,keep_best=False`.

    Args:
        text: The spec.
        what: Name of the option, for error messages.
        beside: Unit of another attack; it is the unit of bare numbers in this one.

    Returns:
        The attack; its budget is in [0,1] units.

    Raises:
        InputError: for unknown names and keys, wrong types, unclear units (bare l_2 budgets above
            1 among them), negative budgets and l_inf radii above 1.

    >>> parse_attack("name=pgd,threshold=8,iter_num=10,order=-1").eps == 8 / 255
    True
    """
    spec = parse_spec(text, what)
    if spec.get("name") in _SHORT:
        rest = [f"{key}={value}" for key, value in spec.items() if key != "name"]
        text = ",".join([_SHORT[spec["name"]], *rest])
    attack = build_named(
        ATTACKS,
        text,
        "attack",
        what,
        budgets=_BUDGETS,
        aliases=_ALIASES,
        ignored=_IGNORED,
        beside=beside,
    )
    unit, key = unit_of(spec, _BUDGETS, what), "eps" if "eps" in spec else "threshold"
    if unit is Unit.GREY and unit_of(spec, _RADII, what) is Unit.FRACTION:
        raise InputError(
            f"{what}: step_size={spec['step_size']} is above 1 and {key}={spec[key]} is not: "
            f"write {key}={spec[key]}/255, or step_size as a fraction of [0,1] too"
        )
    if attack.order == L2:
        if unit is Unit.GREY or (unit is Unit.FRACTION and beside is Unit.GREY):
            raise unclear_l2(what, key, spec[key])
        unit = Unit.L2
    return replace(attack, unit=unit)
