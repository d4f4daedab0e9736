"""The options of `calc_scattering`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ridgeline.analysis.probes import DIRECTIONS
from ridgeline.landscape.batchnorm import POLICIES
from ridgeline.models.errors import unknown
from ridgeline.train.options import Opt, Options


@dataclass(frozen=True)
class ScatteringOptions(Options):
    """Distances and directions of the weights, and the number of attack draws."""

    directions: Annotated[
        tuple[str, ...], Opt("random, gradient, eigenvector; random:2 is the second random one")
    ] = ("random", "gradient", "eigenvector")
    distances: Annotated[tuple[float, ...], Opt("distances of the weights, increasing", low=0)] = (
        0.0, 0.001, 0.003, 0.01, 0.03, 0.1,
    )  # fmt: skip
    relative: Annotated[bool, Opt("distances are shares of the norm of the weights")] = True
    draws: Annotated[int, Opt("attack seeds; two or more give the noise floor", low=1)] = 2
    fit_to: Annotated[
        float | None, Opt("distance up to which a line is fitted; None: all", above=0)
    ] = None
    batchnorm: Annotated[str, Opt("BatchNorm's statistics", choices=POLICIES)] = "keep"

    def check(self) -> None:
        """Raise InputError for unknown directions."""
        for name in self.directions:
            if name.partition(":")[0] not in DIRECTIONS:
                raise unknown("--directions", name, DIRECTIONS)
