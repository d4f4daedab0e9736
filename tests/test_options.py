"""Options written once: checked where they are declared, recorded without defaults."""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import typing
from dataclasses import dataclass
from typing import Annotated

import pytest

from ridgeline.__main__ import commands
from ridgeline.models import InputError
from ridgeline.run.shared.launch import arguments, help_text
from ridgeline.train.options import Opt, Options, described


@dataclass(frozen=True)
class Some(Options):
    """Options of every kind."""

    share: Annotated[float, Opt("share forgotten", low=0, high=1)] = 0.5
    steps: Annotated[int, Opt("steps", low=1, unit="epochs")] = 3
    scale: Annotated[float | None, Opt("factor", above=0)] = None
    way: Annotated[str, Opt("way", choices={"up": "uphill", "down": ""})] = "up"
    sizes: Annotated[tuple[int, ...], Opt("sizes", low=1)] = ()
    chunk: Annotated[int, Opt("examples at a time", low=1, decides=False)] = 100

    def check(self) -> None:
        """No scale on the way down."""
        if self.way == "down" and self.scale is not None:
            raise InputError("--scale belongs to --way up")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"share": 1.5}, "--share must lie in 0..1, got 1.5"),
        ({"share": float("nan")}, "--share must lie in 0..1"),
        ({"steps": 0}, "--steps must be at least 1, got 0"),
        ({"scale": 0.0}, "--scale must be positive, got 0"),
        ({"scale": float("inf")}, "--scale must be positive, got inf"),
        ({"way": "upp"}, "did you mean 'up'"),
        ({"steps": 2**31}, "--steps must be below 2\\^31, got 2.14748e"),
        ({"sizes": (2, 0)}, "--sizes must be at least 1, got 0"),
        ({"way": "down", "scale": 2.0}, "--scale belongs to --way up"),
    ],
)
def test_a_wrong_value_is_refused_where_it_is_declared(wrong, said):
    with pytest.raises(InputError, match=said.replace("(", r"\(")):
        Some(**wrong)


def test_a_recipe_holds_what_decides_and_differs():
    assert Some().recipe() == {}
    assert Some(share=0.1, chunk=7, sizes=(1,)).recipe() == {"share": 0.1, "sizes": (1,)}


def test_the_command_line_spreads_a_group_and_checks_it():
    def main(*, some: Some, count: Annotated[int, Opt("number", low=1)] = 1) -> None:
        """Nothing."""

    found = arguments(main, ["--share", "0.25", "--sizes", "1,2", "--count", "4"])
    assert found == {"some": Some(share=0.25, sizes=(1, 2)), "count": 4}
    with pytest.raises(InputError, match="--count must be at least 1"):
        arguments(main, ["--count", "0"])
    text = help_text(main, "x.py")
    assert "share forgotten, 0..1 [default: 0.5]" in text
    assert "way: up (uphill); down [default: up]" in text
    assert "steps [epochs] [default: 3]" in text


def groups() -> list[type[Options]]:
    """Every class of options of the package."""
    for name in (*commands(), "shared.demo_lab"):
        importlib.import_module(f"ridgeline.run.{name}")
    found, todo = [], [Options]
    while todo:
        below = todo.pop().__subclasses__()
        found += [c for c in below if c.__module__.startswith("ridgeline.")]
        todo += below
    return sorted(found, key=lambda c: c.__name__)


def other_values(group: type[Options], name: str) -> list:
    """Values of a field that are allowed and not its default."""
    about = described(group)[name]
    field = next(f for f in dataclasses.fields(group) if f.name == name)
    kind = typing.get_type_hints(group)[name]
    if about.choices:
        tried = [tuple(about.choices)[:1]] if isinstance(field.default, tuple) else about.choices
    elif isinstance(field.default, bool):
        tried = [not field.default]
    elif isinstance(field.default, int | float):
        half = max(1, about.high or 0) / 2  # of a percentage 50: below 1 it is taken for a share
        tried = [48, 3, 0] if isinstance(field.default, int) else [half, half / 2, 0.0]
    else:
        tried = [0.5, 3] if "float" in str(kind) else [3] if "int" in str(kind) else [("1",)]
    found = [v for v in tried if v != field.default and allowed(about, name, v)]
    found = found if about.choices else found[:1] + [v for v in found[1:] if not v]
    nothing = field.default is not None and type(None) in typing.get_args(kind)
    return [*found, None] if nothing else found


def allowed(about: Opt, name: str, value) -> bool:
    try:
        about.check(name, value)
    except InputError:
        return False
    return True


def settings(group: type[Options], names: list[str]):
    """Every way to set the named options, defaults included."""
    defaults = {f.name: f.default for f in dataclasses.fields(group)}
    ways = ([defaults[n], *other_values(group, n)] for n in names)
    return (dict(zip(names, way, strict=True)) for way in itertools.product(*ways))


DEPENDENT = [(g, name) for g in groups() for name, about in described(g).items() if about.only]


#: what else must be asked for, so that the options of a group do not contradict each other
BESIDE = {"SpectrumOptions": {"diagonal_products": 2}}


@pytest.mark.parametrize(("group", "name"), DEPENDENT, ids=lambda x: getattr(x, "__name__", x))
def test_an_option_without_effect_is_refused(group, name):
    """In every combination of the options that it hangs on it is taken, or refused by name."""
    about, seen = described(group)[name], set()
    value = other_values(group, name)[0]
    for others in settings(group, list(about.only)):
        others |= BESIDE.get(group.__name__, {})
        try:
            group(**others)
        except InputError:  # these contradict each other
            continue
        works = all(others[k] in v if v else bool(others[k]) for k, v in about.only.items())
        seen.add(works)
        if works:
            assert (name in group(**others, **{name: value}).recipe()) == about.decides
        else:
            with pytest.raises(InputError, match=f"--{name} has no effect without --"):
                group(**others, **{name: value})
    assert seen == {True, False}


def test_options_hang_on_fields_of_their_group_and_allowed_values():
    assert len(DEPENDENT) > 30
    for group, name in DEPENDENT:
        for other, values in described(group)[name].only.items():
            assert other in {f.name for f in dataclasses.fields(group)} - {name}
            for value in values:
                described(group)[other].check(other, value)
