"""Options written once: checked where they are declared, recorded without defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import pytest

from ridgeline.models import InputError
from ridgeline.run.shared.launch import arguments, help_text
from ridgeline.train.options import Opt, Options


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
