"""Options: every setting written once, with its type, help, limits and unit, and checked there.

A frozen dataclass of options stands beside what it configures. The command line spreads it
(`run/shared/launch.py`), what it configures takes it as one argument, and `recipe` is what a
result records of it.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from ridgeline.models.errors import InputError, unknown

#: no machine counts so far, and torch's integers end soon after
_MOST = 2**31


@dataclass(frozen=True)
class Opt:
    """What an option means: `Annotated[float, Opt("share that is forgotten", low=0, high=1)]`.

    `low` and `high` are allowed values, `above` is not. `choices` are the allowed words, or a
    mapping of them to their meaning in words (a registry: to anything else, which is not said).
    `decides` False marks a setting of memory or device: results do not depend on it, and no recipe
    holds it. `only` names options of the same group and their values at which this one has an
    effect; no values stand for any but None, 0 and False.
    """

    help: str
    low: float | None = None
    high: float | None = None
    above: float | None = None
    choices: Collection[str] | Mapping[str, str] = ()
    unit: str = ""
    decides: bool = True
    only: Mapping[str, Collection[Any]] = field(default_factory=dict)

    @property
    def note(self) -> str:
        """The help line, with choices, range and unit."""
        parts = [self.help]
        if isinstance(self.choices, Mapping):
            said = {k: v if isinstance(v, str) else "" for k, v in self.choices.items()}
            mark = "; " if any(said.values()) else ", "
            parts += [": ", mark.join(f"{k} ({v})" if v else k for k, v in said.items())]
        elif self.choices:
            parts += [": ", ", ".join(self.choices)]
        if self.high is not None:
            bottom = self.low if self.above is None else self.above
            parts.append(f", {bottom or 0:g}..{self.high:g}")
        if self.unit:
            parts.append(f" [{self.unit}]")
        return "".join(parts)

    def check(self, name: str, value: Any) -> None:
        """Raise InputError, naming the option, for a value that is not allowed; None always is."""
        if value is None:
            return
        if self.choices:
            for word in value if isinstance(value, tuple) else (value,):
                if word not in self.choices:
                    raise unknown(f"--{name}", word, self.choices)
        bounds = (self.low, self.high, self.above)
        if all(b is None for b in bounds):
            return
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, bool) or not isinstance(number, int | float):
                raise InputError(f"--{name} must be a number, got {number!r}")
            if not self._allows(number):
                raise InputError(f"--{name} must {self._range()}, got {number:g}")
            if isinstance(number, int) and number >= _MOST:
                raise InputError(f"--{name} must be below 2^31, got {number:g}")

    def _allows(self, number: float) -> bool:
        return (
            math.isfinite(number)
            and (self.low is None or number >= self.low)
            and (self.above is None or number > self.above)
            and (self.high is None or number <= self.high)
        )

    def _range(self) -> str:
        if self.high is not None and self.low is not None:
            return f"lie in {self.low:g}..{self.high:g}"
        if self.high is not None:
            bottom = "" if self.above is None else f"above {self.above:g} and "
            return f"be {bottom}at most {self.high:g}"
        if self.above is not None:
            return "be positive" if self.above == 0 else f"be above {self.above:g}"
        return "not be negative" if self.low == 0 else f"be at least {self.low:g}"


@dataclass(frozen=True)
class Options:
    """A group of options; subclasses are frozen dataclasses whose fields are `Annotated`.

    Raises InputError where a value is not allowed, where `check` finds a contradiction, and for an
    option that is not its default although it has no effect beside the others.
    """

    def __post_init__(self) -> None:
        for name, about in described(type(self)).items():
            about.check(name, getattr(self, name))
        self.check()
        for name, about in described(type(self)).items():
            for other, values in about.only.items():
                value = getattr(self, other)
                if value not in values if values else not value:
                    shown = "".join(f" {v}" for v in (" or ".join(map(str, values)),) if v)
                    self.refuse([name], f"without --{other}{shown}")

    def check(self) -> None:
        """Raise InputError where options contradict each other."""

    def refuse(self, names: Collection[str], why: str) -> None:
        """Raise InputError if one of the named options is not its default; it has no effect."""
        for field_ in dataclasses.fields(self):
            if field_.name in names and getattr(self, field_.name) != field_.default:
                raise InputError(f"--{field_.name} has no effect {why}: leave it out")

    def recipe(self) -> dict[str, Any]:
        """What decides a result and is not the default, by name.

        Defaults are left out, so that a new option never makes earlier results foreign.
        """
        about = described(type(self))
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
            and (field.name not in about or about[field.name].decides)
        }


@functools.cache
def described(group: type) -> dict[str, Opt]:
    """The fields of a group that say what they mean."""
    found = {}
    for name, hint in typing.get_type_hints(group, include_extras=True).items():
        about = described_by(hint)
        if about is not None:
            found[name] = about
    return found


def described_by(hint: Any) -> Opt | None:
    """The `Opt` of an annotation, if it has one."""
    if typing.get_origin(hint) is not Annotated:
        return None
    return next((part for part in typing.get_args(hint)[1:] if isinstance(part, Opt)), None)
