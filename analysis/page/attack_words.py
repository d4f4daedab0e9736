"""Attacks as recipes write them, in words: PGD-20 (ε = 0.1, l_inf, step size 0.025)."""

from __future__ import annotations

import re

from ridgeline.analysis.budget_matrix import budget_of, norm_of

_CALL = re.compile(r"(\w+)\((.*)\)", flags=re.DOTALL)
_PART = re.compile(r"(\w+)=((?:[^,()\[\]]|\([^()]*\)|\[[^\[\]]*\])*)")
#: what is said elsewhere in the words, or says nothing
_SAID = ("eps", "order", "iterations", "restarts", "keep_best", "random_start")


def number(value: float) -> str:
    """A budget or a step size in at most four digits.

    >>> number(8 / 255), number(0.6000000000000001)
    ('0.03137', '0.6')
    """
    return f"{value:.4g}"


def short(attack: str) -> str:
    """The name of an attack with its iterations.

    >>> short("PGD(eps=0.1, order=inf, iterations=20)"), short("AutoAttack(eps=0.1, order=inf)")
    ('PGD-20', 'AutoAttack')
    """
    call = _CALL.fullmatch(attack)
    if call is None:
        return attack
    steps = dict(_PART.findall(call[2])).get("iterations")
    return f"{call[1]}-{steps}" if steps else call[1]


def spoken(attack: str, budget: bool = True) -> str:
    """An attack in words; without its budget where that is said beside it.

    >>> spoken("PGD(eps=0.1, order=inf, iterations=20, step_size=None, restarts=2)")
    'PGD-20 (ε = 0.1, l_inf, 2 restarts)'
    """
    call = _CALL.fullmatch(attack)
    if call is None:
        return attack
    parts, told = dict(_PART.findall(call[2])), budget_of(attack)
    words = [f"ε = {_number(told['eps'])}"] if budget and "eps" in told else []
    words += filter(None, [norm_of(attack)])
    if parts.get("restarts", "1") != "1":
        words.append(f"{parts['restarts']} restarts")
    if parts.get("random_start") == "False":
        words.append("no random start")
    words += [f"{name.replace('_', ' ')} {_number(value)}" for name, value in parts.items()
              if name not in _SAID and value not in ("None", "False")]  # fmt: skip
    return f"{short(attack)} ({', '.join(words)})" if words else short(attack)


def spec(attack: str) -> str:
    """PGD as recipes write it, as an option of a command; empty for other attacks.

    >>> spec("PGD(eps=0.1, order=inf, iterations=5, step_size=None)")
    'name=pgd,eps=0.1,order=-1,iterations=5'
    """
    call = _CALL.fullmatch(attack)
    parts = dict(_PART.findall(call[2])) if call and call[1] == "PGD" else {}
    if "eps" not in parts:
        return ""
    order = "-1" if parts.get("order") in (None, "inf") else parts["order"]
    more = [f"{n}={parts[n]}" for n in ("iterations", "step_size")
            if parts.get(n, "None") != "None"]  # fmt: skip
    return ",".join(["name=pgd", f"eps={parts['eps']}", f"order={order}", *more])


def _number(text: str) -> str:
    try:
        return number(float(text))
    except ValueError:
        return text
