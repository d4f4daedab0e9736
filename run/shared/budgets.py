"""The budgets of a command: --attack, which determines their unit, and --adv_budget_list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from ridgeline.analysis.names import distinct_numbers
from ridgeline.landscape.problem import Problem
from ridgeline.models import InputError
from ridgeline.run.shared import options as o
from ridgeline.train.attacks import Attack, check_budget, parse_attack
from ridgeline.train.attacks.norms import INF
from ridgeline.train.options import Options
from ridgeline.train.schedules import parse_schedule
from ridgeline.train.specs import convert, parse_spec, resolve_budgets


def attack_of(text: str | None) -> Attack | None:
    """The attack behind --attack, or None."""
    return None if text is None else parse_attack(text)


def budgets_of(text: str | None, attacker: Attack | None) -> list[float]:
    """The attack budgets in [0,1] units: from a schedule with pt_num, or from numbers 0,0.1,0.3.

    Bare numbers are in the unit of --attack. Raises InputError for a wrong text and for a budget
    that the attack does not allow.
    """
    if text is None:
        return [attacker.eps if attacker else 0.0]
    if attacker is None:
        raise InputError("--adv_budget_list needs --attack")
    what = "--adv_budget_list"
    if "=" in text:
        spec = parse_spec(text, what)
        if "pt_num" not in spec:
            raise InputError(f"{what} needs pt_num, the number of budgets")
        count = convert(spec.pop("pt_num"), int, f"{what}: pt_num")
        if count < 1:
            raise InputError(f"{what}: pt_num must be at least 1, got {count}")
        rest = ",".join(f"{k}={v}" for k, v in spec.items())
        schedule = parse_schedule(rest, what, budget=True, beside=attacker.unit)
        budgets = [schedule(n) for n in range(count)]
    else:
        spec = {f"budget {n}": v.strip() for n, v in enumerate(text.split(","), start=1)}
        budgets = list(resolve_budgets(spec, set(spec), what, beside=attacker.unit).values())
    for place, eps in enumerate(budgets, start=1):
        check_budget(attacker, eps, f"{what}: budget {place}")
    if len(set(budgets)) < len(budgets):
        raise InputError(f"{what} names a budget twice: {', '.join(f'{b:g}' for b in budgets)}")
    return budgets


def say_budgets(text: str | None, budgets: Sequence[float], attacker: Attack | None) -> None:
    """Print the budgets of --adv_budget_list; for l_inf also in grey levels."""
    if text is not None and attacker is not None:
        shown = ", ".join(distinct_numbers(budgets))
        grey = " = " + ", ".join(distinct_numbers([255 * eps for eps in budgets])) + " of 255"
        print(f"budgets: {shown} of [0,1]{grey if attacker.order == INF else ', l_2 norm'}")


@dataclass(frozen=True)
class UnderAttack(Options):
    """The attack and its budgets."""

    attack: o.Attack = None
    adv_budget_list: o.Budgets = None

    def check(self) -> None:
        """Raise InputError for a wrong attack and for budgets that it does not allow."""
        _ = self.budgets  # computed once and kept; computing checks them

    @cached_property
    def attacker(self) -> Attack | None:
        """The attack, None for clean images."""
        return attack_of(self.attack)

    @cached_property
    def budgets(self) -> list[float]:
        """The budgets in [0,1] units. Without --adv_budget_list the attack's own."""
        return budgets_of(self.adv_budget_list, self.attacker)

    def say(self, problem: Problem | None = None) -> None:
        """Print a problem's clean scores and the budgets of --adv_budget_list.

        Low clean scores show that a network gets wrongly scaled images.
        """
        if problem is not None:
            here, data = problem.under(None).evaluate(), problem.images
            print(f"at the checkpoint, clean: loss {here.loss:.4f}, accuracy {here.accuracy:.4f} "
                  f"on {len(data)} images of {data.name}", flush=True)  # fmt: skip
        say_budgets(self.adv_budget_list, self.budgets, self.attacker)
