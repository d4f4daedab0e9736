"""The options of a scan along a stored curve, and the curve itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from torch import nn

from ridgeline.landscape.batchnorm import POLICIES
from ridgeline.landscape.surfaces.axes import grid
from ridgeline.landscape.surfaces.curve import check_fixed, knots_in
from ridgeline.landscape.weights.paths import CURVES, Path, curve
from ridgeline.landscape.weights.point import point_of
from ridgeline.models.errors import InputError
from ridgeline.train.files.checkpoint import Checkpoint
from ridgeline.train.options import Opt, Options


@dataclass(frozen=True)
class CurveScanOptions(Options):
    """Where along which curve, and with which BatchNorm statistics."""

    curve_type: Annotated[
        str | None, Opt("curve through the knots; None: the recorded one", choices=CURVES)
    ] = None
    fix_points: Annotated[
        tuple[int, ...],
        Opt("only checked: as many as the curve has control points", decides=False),
    ] = ()
    step_size: Annotated[float, Opt("distance of the points t; the ends 0 and 1 are exact")] = 0.02
    batchnorm: Annotated[str, Opt("BatchNorm's statistics at every place", choices=POLICIES)] = (
        "recalibrate"
    )

    def check(self) -> None:
        """Raise InputError for steps that miss the end, and points neither fixed nor free."""
        check_fixed(self.fix_points)
        if self.t[-1] != 1:
            raise InputError(
                f"--step_size must divide 1, got {self.step_size:g}; e.g. 0.02 or 0.05"
            )

    @property
    def t(self) -> np.ndarray:
        """The places on the curve, from 0 to 1."""
        return grid(0, 1, self.step_size, "--step_size")

    def type_in(self, checkpoint: Checkpoint) -> str:
        """The type of the curve: the chosen one, or the one that the checkpoint records."""
        return self.curve_type or (checkpoint.recipe or {}).get("curve_type", "bezier")

    def curve_in(self, checkpoint: Checkpoint, network: nn.Module) -> Path:
        """The curve that a checkpoint holds, whose buffers become those of its network.

        Raises InputError for a checkpoint that is no curve of this network.
        """
        tensors, what = checkpoint.tensors, str(checkpoint.path)
        knots = knots_in(tensors, point_of(network), what)
        if self.fix_points and len(self.fix_points) != len(knots):
            raise InputError(
                f"--fix_points names {len(self.fix_points)} points, the curve has {len(knots)}"
            )
        buffers = {n: tensors[n] for n, _ in network.named_buffers() if n in tensors}
        network.load_state_dict(buffers, strict=False)
        return curve(self.type_in(checkpoint), knots)
