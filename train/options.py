"""Options: each setting is defined once, with its type, help, limits and unit, and checked.

A frozen dataclass of options is defined beside the code that it configures. That code takes it as
one argument. The command line shows its fields as options (`run/shared/launch.py`). `recipe` is
the part that a result records.
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

#: larger counts are not possible on any machine, and torch's integers end soon after
_MOST = 2**31


@dataclass(frozen=True)
class Opt:
    """The meaning of an option: `Annotated[float, Opt("share that is forgotten", low=0, high=1)]`.

    - `low` and `high` are allowed values, `above` is not.
    - `choices`: the allowed words, or a mapping of words to their meanings. (Values that are not
      text, as in a registry, are not shown.)
    - `decides` False: a setting of memory or device. Results do not depend on it, and recipes do
      not record it.
    - `only`: names of options of the same group, with the values at which this option has an
      effect. An empty tuple of values means all values except None, 0 and False.
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
        """Raise InputError, naming the option, for a value that is not allowed. None is allowed."""
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
    """A group of options. Subclasses are frozen dataclasses with `Annotated` fields.

    Raises InputError for a value that is not allowed and for a contradiction that `check` finds.
    Raises it too for an option that is not its default but has no effect with the others.
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
        """Raise InputError for options that contradict each other."""

    def refuse(self, names: Collection[str], why: str) -> None:
        """Raise InputError if a named option, which has no effect, is not its default."""
        for field_ in dataclasses.fields(self):
            if field_.name in names and getattr(self, field_.name) != field_.default:
                raise InputError(f"--{field_.name} has no effect {why}: leave it out")

    def recipe(self) -> dict[str, Any]:
        """The options, by name, that determine a result and are not the default.

        Defaults are left out, so a new option does not change the recipes of earlier results.
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
    """The fields of a group that have an `Opt`."""
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
