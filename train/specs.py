"""The mini-language of options, `name=...,key=value`, and the units of budgets.

A spec names one thing from a registry and its options; lists inside a spec use colons
(`ckpt_list=0:100`). Budgets (radii and steps in pixel space) have their unit settled once for the
whole spec, never value by value, because a ramp in 1/255 passes through values below 1.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from models.errors import InputError, unknown


def parse_spec(text: str, what: str) -> dict[str, str]:
    """Split `k=v,k=v` into a dict of strings; `what` names the option in error messages."""
    spec: dict[str, str] = {}
    for part in text.split(","):
        key, equals, value = (s.strip() for s in part.partition("="))
        if not (key and equals and value):
            raise InputError(f"{what}: cannot read {part!r}; write name=...,key=value,key=value")
        if key in spec:
            raise InputError(f"{what}: {key!r} is given twice")
        spec[key] = value
    return spec


def number(text: str, what: str) -> float:
    """Parse a finite number or a fraction such as 8/255."""
    try:
        value = float(Fraction(text)) if "/" in text else float(text)
    except (ValueError, ZeroDivisionError):
        raise InputError(f"{what} must be a number or a fraction, got {text!r}") from None
    if not math.isfinite(value):
        raise InputError(f"{what} must be finite, got {text!r}")
    return value


def resolve_budgets(
    spec: Mapping[str, str], keys: set[str], what: str, signed: frozenset[str] = frozenset()
) -> dict[str, float]:
    """Return the budgets among `keys` as fractions of [0,1], with one unit for the whole spec.

    If any budget exceeds 1, all bare numbers are in 1/255; otherwise all are fractions of [0,1].
    Explicit fractions (8/255) are what they say. Raises InputError for an explicit fraction beside
    a bare number above 1, for a bare 1 with nothing above 1 beside it, and for a negative budget
    (keys in `signed`, such as a slope, may be negative).
    """
    values = {k: number(v, f"{what}: {k}") for k, v in spec.items() if k in keys}
    for key, value in values.items():
        if value < 0 and key not in signed:
            raise InputError(f"{what}: {key} is a budget and must not be negative, got {spec[key]}")
    bare = {k: v for k, v in values.items() if "/" not in spec[k]}
    explicit = sorted(set(values) - set(bare))
    in_255 = any(abs(v) > 1 for v in bare.values())
    if in_255 and explicit:
        large = next(k for k, v in bare.items() if abs(v) > 1)
        raise InputError(
            f"{what}: mixed units, {explicit[0]}={spec[explicit[0]]} beside {large}={spec[large]}; "
            f"write {large}={spec[large]}/255, or all of them as bare numbers in 1/255"
        )
    for key, value in bare.items():
        if abs(value) == 1 and not in_255:
            raise InputError(
                f"{what}: {key}={spec[key]} is ambiguous; "
                f"write {key}=1/255 for one grey level or {key}=255/255 for the whole range"
            )
    return {k: v / 255 if in_255 and k in bare else v for k, v in values.items()}


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
        try:
            value = number(text, what)
        except InputError:
            value = math.nan
        if not value.is_integer():
            raise InputError(f"{what} must be a whole number, got {text!r}")
        return int(value)
    if annotation is float:
        return number(text, what)
    if typing.get_origin(annotation) is tuple:
        return tuple(number(part, what) for part in text.split(":"))
    if dataclasses.is_dataclass(annotation):  # one that wraps a list of numbers
        return annotation(tuple(number(part, what) for part in text.split(":")))
    raise TypeError(f"no conversion for {annotation}")


def build_named(
    registry: Mapping[str, type], text: str, kind: str, what: str, **options: Any
) -> Any:
    """Build what the spec's `name` stands for in a registry; `options` are those of `build`."""
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
) -> Any:
    """Build the frozen dataclass `cls` from a spec, checking every key and type.

    `aliases` maps the spec's vocabulary to field names, `ignored` are keys of the reference's
    vocabulary that never had an effect. Missing and unknown keys raise InputError.
    """
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    hints = typing.get_type_hints(cls)
    keys = {aliases_of(name, aliases): name for name in fields}
    radii = resolve_budgets(spec, budgets, what, signed)
    options: dict[str, Any] = {}
    for key, text in spec.items():
        if key == "name" or key in ignored:
            continue
        if key not in keys:
            raise unknown(f"key in {what}", key, keys)
        if key in radii:
            options[keys[key]] = radii[key]
        else:
            options[keys[key]] = convert(text, hints[keys[key]], f"{what}: {key}")
    missing = [
        key
        for key, name in keys.items()
        if name not in options
        and fields[name].default is dataclasses.MISSING
        and fields[name].default_factory is dataclasses.MISSING
    ]
    if missing:
        raise InputError(
            f"{what}: {spec.get('name', cls.__name__)} also needs {', '.join(missing)}"
        )
    return cls(**options)


def aliases_of(field: str, aliases: Mapping[str, str]) -> str:
    """The spec key that stands for a field (the field's own name unless an alias exists)."""
    return next((key for key, name in aliases.items() if name == field), field)
