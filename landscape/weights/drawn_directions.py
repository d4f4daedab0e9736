"""The options of random directions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ridgeline.landscape.weights.directions import ONE_DIMENSIONAL, random_direction
from ridgeline.landscape.weights.frequency_bands import BANDS, band_direction
from ridgeline.landscape.weights.point import Point
from ridgeline.models.errors import InputError
from ridgeline.train.options import Opt, Options

#: --vec_sample_mode -> normalisation of random directions (the first names are Liu et al.'s)
MODES = {"normalized": "filter", "random": "none", "filter": "filter", "layer": "layer",
         **{band: band for band in BANDS}}  # fmt: skip

_WHOLE = tuple(mode for mode in MODES if mode not in BANDS)


@dataclass(frozen=True)
class DirectionOptions(Options):
    """How random directions are drawn, and how all directions are scaled."""

    vec_sample_mode: Annotated[
        str,
        Opt("random directions: normalized is filter, random is unscaled; low or high frequencies",
            choices=tuple(MODES)),
    ] = "normalized"  # fmt: skip
    vec_bias: Annotated[
        str,
        Opt(
            "1-D tensors in random directions",
            choices=ONE_DIMENSIONAL,
            only={"vec_sample_mode": _WHOLE},
        ),
    ] = "zero"
    vec_scale: Annotated[float, Opt("factor on random directions")] = 1.0
    orthogonal: Annotated[
        bool, Opt("make every direction orthogonal to those before it (Gram-Schmidt)")
    ] = False

    def check(self) -> None:
        """Raise InputError for a factor of 0."""
        if self.vec_scale == 0:
            raise InputError("--vec_scale 0 makes every direction zero; name another factor")

    def draw(self, point: Point, seed: int, number: int) -> Point:
        """Random direction `number` of a seed."""
        mode = MODES[self.vec_sample_mode]
        if mode in BANDS:
            return band_direction(point, seed, mode, self.vec_scale, number=number)
        return random_direction(point, seed, mode, self.vec_bias, self.vec_scale, number=number)

    @property
    def unit(self) -> str:
        """The unit of the coordinate along a random direction, in words."""
        kinds = {"filter": "norm of each filter", "layer": "norm of each tensor"}
        return kinds.get(MODES[self.vec_sample_mode], "drawn direction")
