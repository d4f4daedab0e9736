"""The options of a scan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ridgeline.landscape.batchnorm import POLICIES
from ridgeline.landscape.surfaces.cell import ADVERSARIES, EXTRAS
from ridgeline.models.errors import InputError
from ridgeline.train.attacks import Attack
from ridgeline.train.options import Opt, Options


@dataclass(frozen=True)
class ScanOptions(Options):
    """What is measured at every cell, on which images."""

    adversary: Annotated[
        str | None,
        Opt("adversarial images; None: anchored if adv_calc_freq > 1, else moving",
            choices=ADVERSARIES),
    ] = None  # fmt: skip
    extras: Annotated[
        tuple[str, ...], Opt("further measures of every cell", choices=tuple(EXTRAS))
    ] = ()
    batchnorm: Annotated[str, Opt("BatchNorm's statistics", choices=POLICIES)] = "keep"

    def check(self) -> None:
        """Raise InputError for measures that a loss has not."""
        if self.extras and self.adversary == "max":
            raise InputError("--adversary max has no --extras: it takes the worse of two sets")

    def mode(self, attack: Attack | None, every: int) -> str:
        """Where images come from, with `every` cells an anchor; InputError without an attack."""
        if self.adversary is not None and attack is None:
            raise InputError(f"--adversary {self.adversary} needs --attack")
        return self.adversary or ("anchored" if every > 1 else "moving")
