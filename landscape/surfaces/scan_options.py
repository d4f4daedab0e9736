"""The options of a scan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from ridgeline.landscape.batchnorm import POLICIES
from ridgeline.landscape.surfaces.cell import ADVERSARIES, EXTRAS
from ridgeline.landscape.surfaces.shards import Shard, of_process, parse_shard
from ridgeline.models.errors import InputError
from ridgeline.train.attacks import Attack
from ridgeline.train.options import Opt, Options


@dataclass(frozen=True)
class ScanOptions(Options):
    """The measures of every cell, and the images they are taken on."""

    adversary: Annotated[
        str | None,
        Opt("adversarial images; None: anchored if adv_calc_freq > 1, else moving",
            choices=ADVERSARIES),
    ] = None  # fmt: skip
    extras: Annotated[
        tuple[str, ...], Opt("further measures of every cell", choices=tuple(EXTRAS))
    ] = ()
    batchnorm: Annotated[str, Opt("BatchNorm's statistics", choices=POLICIES)] = "keep"
    shard: Annotated[
        str | None,
        Opt("i/n: compute this part only; ridgeline merge joins them", decides=False),
    ] = None
    compile: Annotated[
        bool, Opt("compile the forward passes (without --attack): for scans of many minutes")
    ] = False

    @property
    def part(self) -> Shard | None:
        """The part named by --shard. Each part has its own file."""
        return None if self.shard is None else parse_shard(self.shard)

    def check(self) -> None:
        """Raise InputError for measures that the loss does not have and for a wrong --shard."""
        if self.part is not None and of_process() is not None:
            raise InputError("--shard is for jobs; under torchrun every process takes its part")
        if self.extras and self.adversary == "max":
            raise InputError("--adversary max has no --extras: it takes the worse of two sets")

    def keywords(self, attack: Attack | None, every: int) -> dict[str, Any]:
        """The keywords of `scan`; `every` cells along an axis share an anchor.

        Raises InputError for a mode that needs an attack, and for anchors that are not used.
        """
        if self.adversary is not None and attack is None:
            raise InputError(f"--adversary {self.adversary} needs --attack")
        if self.compile and attack is not None:
            raise InputError("--compile is for scans without --attack: leave it out")
        if every > 1 and (attack is None or self.adversary not in (None, "anchored")):
            raise InputError(
                "adv_calc_freq has no effect without --attack and --adversary anchored: "
                "leave it out"
            )
        mode = self.adversary or ("anchored" if every > 1 else "moving")
        return {"adversary": mode, "anchor_every": every, "batchnorm": self.batchnorm,
                "extras": self.extras, "shard": self.part or of_process(),
                "compiled": self.compile}  # fmt: skip
