"""The options of a scan along a stored curve, and the curve itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from torch import nn

from ridgeline.landscape.batchnorm import POLICIES
from ridgeline.landscape.surfaces.axes import grid
from ridgeline.landscape.surfaces.curve import check_fixed, knots_in
from ridgeline.landscape.weights.paths import CURVES, Path, curve, straight
from ridgeline.landscape.weights.point import Point, point_of, select
from ridgeline.models.errors import InputError
from ridgeline.train.files.checkpoint import Checkpoint, load_checkpoint
from ridgeline.train.options import Opt, Options


@dataclass(frozen=True)
class ControlOptions(Options):
    """The control points of a curve to train: which are fixed, and where they start."""

    fix_points: Annotated[
        tuple[int, ...], Opt("one number per control point, 1 = fixed, e.g. 1,0,0,0,1")
    ]
    model2load: Annotated[
        tuple[str, ...], Opt("checkpoints aligned with --fix_points, e.g. A.ckpt,,,,B.ckpt")
    ]

    def check(self) -> None:
        """Raise InputError for values other than 0 and 1, and for ends without a checkpoint."""
        check_fixed(self.fix_points)
        count = len(self.fix_points)
        if count != len(self.model2load) or count < 3:
            raise InputError(
                f"--fix_points ({count}) and --model2load ({len(self.model2load)}) need one entry "
                "per control point and at least 3, e.g. 1,0,1 and A.ckpt,,B.ckpt"
            )
        if not (self.model2load[0] and self.model2load[-1]):
            raise InputError("--model2load: the first and the last control point need a checkpoint")

    def knots(self, network: nn.Module) -> tuple[list[Point], dict[int, str]]:
        """The control points at the start of training, and the digests of their checkpoints.

        Control points without a checkpoint lie on the straight line between the ends.
        """
        origin = point_of(network)
        loaded = {k: load_checkpoint(p) for k, p in enumerate(self.model2load) if p}
        points = {k: select(c.fit(network).state, origin, str(c.path))
                  for k, c in loaded.items()}  # fmt: skip
        count = len(self.fix_points)
        line = straight(points[0], points[count - 1], count)
        knots = [points.get(k, knot) for k, knot in enumerate(line)]
        return knots, {k: c.sha256 for k, c in loaded.items()}


@dataclass(frozen=True)
class CurveScanOptions(Options):
    """Which curve is scanned, at which t, and with which BatchNorm statistics."""

    curve_type: Annotated[
        str | None, Opt("curve through the knots; None: the recorded one", choices=CURVES)
    ] = None
    fix_points: Annotated[
        tuple[int, ...],
        Opt("only checked: one number per control point of the curve", decides=False),
    ] = ()
    step_size: Annotated[float, Opt("distance of the points t; the ends 0 and 1 are exact")] = 0.02
    batchnorm: Annotated[str, Opt("BatchNorm's statistics at every t", choices=POLICIES)] = (
        "recalibrate"
    )

    def check(self) -> None:
        """Raise InputError for steps that miss the end, and for values other than 0 and 1."""
        check_fixed(self.fix_points)
        if self.t[-1] != 1:
            raise InputError(
                f"--step_size must divide 1, got {self.step_size:g}; e.g. 0.02 or 0.05"
            )

    @property
    def t(self) -> np.ndarray:
        """The values of t, from 0 to 1."""
        return grid(0, 1, self.step_size, "--step_size")

    def type_in(self, checkpoint: Checkpoint) -> str:
        """The type of the curve: the chosen one, or the one that the checkpoint records."""
        return self.curve_type or (checkpoint.recipe or {}).get("curve_type", "bezier")

    def curve_in(self, checkpoint: Checkpoint, network: nn.Module) -> Path:
        """The curve in a checkpoint. The network gets the buffers of the checkpoint.

        Raises InputError if the checkpoint does not hold a curve of this network.
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
