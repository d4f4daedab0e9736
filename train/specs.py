"""The syntax of specs, `name=...,key=value`, and the units of budgets.

A spec has the name of an entry of a registry and its options. Lists inside a spec use colons
(`ckpt_list=0:100`). All budgets (radii and steps in pixel space) of a command have the unit of
--attack. The unit is not decided per value, because a ramp in 1/255 has values below 1.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from enum import Enum
from typing import Any

from ridgeline.models.errors import InputError, unknown


def parse_spec(text: str, what: str, form: str = "name=...,key=value,key=value") -> dict[str, str]:
    """Split `k=v,k=v` into a dict of strings. Errors name the option `what` and its `form`."""
    spec: dict[str, str] = {}
    for part in text.split(","):
        key, equals, value = (s.strip() for s in part.partition("="))
        if not (key and equals and value):
            raise InputError(f"{what}: cannot read {part!r}; write {form}")
        if key in spec:
            raise InputError(f"{what}: {key!r} is given twice")
        spec[key] = value
    return spec


def number(text: str, what: str) -> float:
    """Parse a finite number or a quotient of two, such as 8/255 or 0.25/255."""
    above, slash, below = text.partition("/")
    try:
        value = float(above) / float(below) if slash else float(text)
    except (ValueError, ZeroDivisionError):
        raise InputError(f"{what} must be a number or a fraction, got {text!r}") from None
    if not math.isfinite(value):
        raise InputError(f"{what} must be finite, got {text!r}")
    return value


def whole(text: str, what: str) -> int:
    """Parse a whole number of at most 2^63 - 1 in size. 1e3 is allowed."""
    try:
        value = int(text)  # not by float, which is not exact above 2^53
    except ValueError:
        try:
            value = number(text, what)
        except InputError:
            value = math.nan
        if not float(value).is_integer():
            raise InputError(f"{what} must be a whole number, got {text!r}") from None
        value = int(value)
    if abs(value) >= 2**63:
        raise InputError(f"{what} must be below 2^63 in size, got {text!r}")
    return value


class Unit(Enum):
    """The unit in which the budgets of a spec are written. Bare numbers beside them have it too."""

    UNSET = "no budget that would settle it"
    FRACTION = "fractions of [0,1]"
    GREY = "1/255"
    EXPLICIT = "explicit fractions such as 8/255"
    L2 = "fractions of [0,1] or explicit ones, of the l_2 norm, which may be above 1"


def unit_of(spec: Mapping[str, str], keys: set[str], what: str) -> Unit:
    """The unit of a spec's budgets (those in `keys`). A 0 has no unit."""
    values = {k: number(v, f"{what}: {k}") for k, v in spec.items() if k in keys}
    bare = [v for k, v in values.items() if v and "/" not in spec[k]]
    if bare:
        return Unit.GREY if any(abs(v) > 1 for v in bare) else Unit.FRACTION
    return Unit.EXPLICIT if any(values.values()) else Unit.UNSET


def resolve_budgets(
    spec: Mapping[str, str],
    keys: set[str],
    what: str,
    signed: frozenset[str] = frozenset(),
    beside: Unit = Unit.UNSET,
) -> dict[str, float]:
    """Return the budgets among `keys` as fractions of [0,1], with one unit for the whole command.

    Bare numbers have the unit of --attack (`beside`) if it has one. Otherwise, if any budget of the
    spec exceeds 1, all its bare numbers are in 1/255; else all are fractions of [0,1]. An explicit
    fraction (8/255) has its own value.

    Raises InputError for a negative budget (keys in `signed`, such as a slope, may be negative),
    and if the unit is not clear:

    - an explicit fraction and a bare number above 1;
    - a bare 1 and no number above 1;
    - bare numbers above 1 with an --attack in fractions or in the l_2 norm;
    - other bare numbers with an explicit --attack.
    """
    values = {k: number(v, f"{what}: {k}") for k, v in spec.items() if k in keys}
    for key, value in values.items():
        if value < 0 and key not in signed:
            raise InputError(f"{what}: {key} is a budget and must not be negative, got {spec[key]}")
    bare = {k: v for k, v in values.items() if v and "/" not in spec[k]}
    own = unit_of(spec, keys, what)
    unit = own if beside in (Unit.UNSET, Unit.EXPLICIT) else beside
    if bare:
        _check_clear(spec, values, bare, what, own, beside)
    scale = 255 if unit is Unit.GREY else 1
    return {k: v / scale if k in bare else v for k, v in values.items()}


def radius(value: str | float, what: str, beside: Unit) -> float:
    """A radius in [0,1] units. A number is in [0,1] units; bare text is in the unit `beside`.

    Raises InputError as `resolve_budgets` does.
    """
    if not isinstance(value, str):
        return float(value)
    name = what.lstrip("-")
    return resolve_budgets({name: value}, {name}, what, beside=beside)[name]


def unclear_l2(what: str, key: str, text: str) -> InputError:
    """The error for a bare l_2 budget above 1, which could be in grey levels or in [0,1] units."""
    return InputError(
        f"{what}: the unit of {key}={text} is not clear beside the l_2 norm, whose budgets in "
        f"[0,1] units may be above 1; write {key}={text}/1 for these or {key}={text}/255 for grey "
        "levels"
    )


def _check_clear(
    spec: Mapping[str, str],
    values: Mapping[str, float],
    bare: Mapping[str, float],
    what: str,
    own: Unit,
    beside: Unit,
) -> None:
    """Raise InputError if bare numbers of a spec could have two units."""
    key = max(bare, key=lambda k: abs(bare[k]))
    text = spec[key]
    explicit = next((k for k in sorted(values) if k not in bare and values[k]), None)
    if beside is Unit.L2 and own is Unit.GREY:
        raise unclear_l2(what, key, text)
    if beside is Unit.FRACTION and own is Unit.GREY:
        raise InputError(
            f"{what}: {key}={text} is above 1, but --attack is in fractions of [0,1]; "
            f"write {key}={text}/255, or both in 1/255"
        )
    if beside is Unit.EXPLICIT and own is Unit.FRACTION:
        raise InputError(
            f"{what}: the unit of {key}={text} is not clear beside an --attack in explicit "
            f"fractions; write {key}={text}/255 for grey levels or {key}={text}/1 for the range"
        )
    if own is Unit.GREY and explicit and beside is not Unit.GREY:
        raise InputError(
            f"{what}: mixed units, {explicit}={spec[explicit]} beside {key}={text}; "
            f"write {key}={text}/255, or all of them as bare numbers in 1/255"
        )
    if beside is Unit.UNSET and own is Unit.FRACTION and abs(bare[key]) == 1:
        raise InputError(
            f"{what}: {key}={text} is ambiguous; "
            f"write {key}=1/255 for one grey level or {key}=255/255 for the whole range"
        )


def convert(text: str, annotation: Any, what: str) -> Any:
    """Convert one spec value to the type of a dataclass field (number, bool, str, numbers)."""
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        annotation = next(a for a in typing.get_args(annotation) if a is not type(None))
    if annotation is str:
        return text
    if annotation is bool:
        table = {"1": True, "true": True, "0": False, "false": False}
        if text.lower() not in table:
            raise InputError(f"{what} must be one of 0, 1, true, false, got {text!r}")
        return table[text.lower()]
    if annotation is int:
        return whole(text, what)
    if annotation is float:
        return number(text, what)
    if typing.get_origin(annotation) is tuple:
        return tuple(number(part, what) for part in text.split(":"))
    if dataclasses.is_dataclass(annotation):  # a dataclass around a list of numbers
        return annotation(tuple(number(part, what) for part in text.split(":")))
    raise TypeError(f"no conversion for {annotation}")


def build_named(
    registry: Mapping[str, type], text: str, kind: str, what: str, **options: Any
) -> Any:
    """Build the entry of a registry with the spec's `name`. `options` are those of `build`."""
    spec = parse_spec(text, what)
    if spec.get("name") not in registry:
        raise unknown(f"{kind} name in {what}", spec.get("name", ""), registry)
    return build(registry[spec["name"]], spec, what, **options)


def build(
    cls: type,
    spec: Mapping[str, str],
    what: str,
    *,
    budgets: set[str] = frozenset(),
    signed: frozenset[str] = frozenset(),
    aliases: Mapping[str, str] = types.MappingProxyType({}),
    ignored: set[str] = frozenset(),
    beside: Unit = Unit.UNSET,
) -> Any:
    """Build the frozen dataclass `cls` from a spec, checking every key and type.

    - `aliases` maps synonyms to field names.
    - `ignored`: keys of the reference's syntax that never had an effect.
    - `beside`: the unit of the command's --attack.
    - Fields with metadata spec=False cannot be set by a spec.

    Raises InputError for missing and unknown keys, and for a field that is given by two names.
    """
    fields = {f.name: f for f in dataclasses.fields(cls) if f.metadata.get("spec", f.init)}
    hints = typing.get_type_hints(cls)
    keys = {name: name for name in fields}
    keys |= {synonym: name for synonym, name in aliases.items() if name in fields}
    radii = resolve_budgets(spec, budgets, what, signed, beside)
    options: dict[str, Any] = {}
    for key, text in spec.items():
        if key == "name" or key in ignored:
            continue
        if key not in keys:
            raise unknown(f"key in {what}", key, keys)
        if keys[key] in options:
            raise InputError(f"{what}: {_names(keys[key], aliases)} are one option, given twice")
        if key in radii:
            options[keys[key]] = radii[key]
        else:
            options[keys[key]] = convert(text, hints[keys[key]], f"{what}: {key}")
    missing = [
        _names(name, aliases)
        for name, field in fields.items()
        if name not in options
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise InputError(
            f"{what}: {spec.get('name', cls.__name__)} also needs {', '.join(missing)}"
        )
    return cls(**options)


def _names(field: str, aliases: Mapping[str, str]) -> str:
    """A field and its synonyms for messages: eps (threshold)."""
    synonyms = [key for key, name in aliases.items() if name == field]
    return f"{field} ({', '.join(synonyms)})" if synonyms else field
