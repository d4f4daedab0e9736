"""The plane and the line through the networks around a forgetting, and their figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import xarray as xr

from ridgeline.landscape.batchnorm import POLICIES
from ridgeline.landscape.problem import Problem
from ridgeline.landscape.surfaces.curve_scan import scan_curve
from ridgeline.landscape.surfaces.planes import plane_through
from ridgeline.landscape.surfaces.scan import scan
from ridgeline.landscape.weights.paths import Plane, curve
from ridgeline.landscape.weights.point import Point, select
from ridgeline.models import InputError
from ridgeline.run.shared.origin import origin
from ridgeline.run.shared.planes import around
from ridgeline.train.files.checkpoint import load_checkpoint
from ridgeline.train.files.recipe import check_new
from ridgeline.train.options import Opt, Options

#: the labels of the three networks in the plane
STAGES = ("before", "after", "relearnt")
_KINDS = {"surface": "scan", "line": "curve"}


@dataclass(frozen=True)
class ForgettingOptions(Options):
    """The three networks, and the scan of the loss around them."""

    model2load: Annotated[
        tuple[str, ...],
        Opt("checkpoints before forgetting, after it and after relearning, e.g. "
            "F_cycle1_before.ckpt,F_cycle1_after.ckpt,F_cycle1_relearnt.ckpt, or LURE's "
            "L_chunk1_best.ckpt,L_chunk2_init.ckpt,L_chunk2_best.ckpt", decides=False),
    ]  # fmt: skip
    view: Annotated[
        str, Opt("what is scanned", choices={"surface": "the plane through the three",
                                             "line": "from one to the next"})
    ] = "surface"  # fmt: skip
    points: Annotated[int, Opt("points along an axis or the line, odd", low=3, high=1001)] = 21
    batchnorm: Annotated[str, Opt("BatchNorm's statistics at every point", choices=POLICIES)] = (
        "recalibrate"
    )

    def check(self) -> None:
        """Raise InputError unless there are three networks and an odd number of points."""
        if len(self.model2load) != len(STAGES) or not all(self.model2load):
            raise InputError(
                "--model2load needs three checkpoints, before and after forgetting and relearnt, "
                f"got {len([m for m in self.model2load if m])}"
            )
        if self.points % 2 == 0:
            raise InputError(f"--points must be odd, so that one lies in the middle, got "
                             f"{self.points}")  # fmt: skip

    @property
    def kind(self) -> str:
        """The kind of the result: a scan, or a curve with its barriers."""
        return _KINDS[self.view]

    @property
    def stem(self) -> str:
        """The part of the result's name after the first checkpoint."""
        return "forgetting" if self.view == "surface" else "forgetting_line"


@dataclass(frozen=True)
class Around:
    """A problem at the network before forgetting; the networks after it and after relearning."""

    problem: Problem
    others: Sequence[Point]
    digests: list[str]
    plane: Plane
    placed: xr.Dataset

    @classmethod
    def of(cls, problem: Problem, names: Sequence[str]) -> Around:
        """Load the other two. Raises InputError for other networks and for three on one line."""
        loaded = [load_checkpoint(name) for name in names]
        points = [select(c.fit(problem.network).state, problem.origin, str(c.path))
                  for c in loaded]  # fmt: skip
        plane, placed = plane_through(problem, *points)
        placed = placed.assign_coords(checkpoint=list(STAGES))
        return cls(problem, points, [c.sha256 for c in loaded], plane, placed)

    def scan(
        self,
        options: ForgettingOptions,
        budgets: Sequence[float],
        cells: xr.Dataset | None,
        save: Callable[[xr.Dataset], None],
    ) -> xr.Dataset:
        """The scan of the plane, with the networks' positions, or of the line through them."""
        if options.view == "line":
            path = curve("poly_chain", [self.problem.origin, *self.others])
            return _with_stages(scan_curve(
                self.problem, path, np.linspace(0, 1, options.points),
                {self.problem.images.name: self.problem.images}, budgets=budgets,
                batchnorm=options.batchnorm, cells=cells, save=lambda ds: save(_with_stages(ds)),
            ))  # fmt: skip
        with_places = lambda ds: ds.merge(self.placed, combine_attrs="override")  # noqa: E731
        return with_places(scan(
            self.problem, self.plane, around(self.placed, [options.points] * 2), budgets=budgets,
            batchnorm=options.batchnorm, cells=cells, save=lambda ds: save(with_places(ds)),
        ))  # fmt: skip


def _with_stages(ds: xr.Dataset) -> xr.Dataset:
    """The scan of the chain, with the t of the three networks."""
    places = ("checkpoint", np.linspace(0, 1, len(STAGES)))
    return ds.assign_coords(checkpoint=list(STAGES), checkpoint_t=places)


@dataclass(frozen=True)
class Picture:
    """The figure beside a result."""

    files: list[Path]
    result: Path
    overwrite: bool

    @classmethod
    def beside(cls, path: Path, overwrite: bool) -> Picture:
        """The figure's path. Raises InputError if a figure exists but its result does not."""
        from ridgeline.analysis.figures.style import figure_files  # matplotlib takes a second

        stem = path.with_suffix("")
        files = figure_files(stem)
        if not path.exists():
            for file in files:
                check_new(file, overwrite)
        return cls(files, path, overwrite)

    def draw(self, ds: xr.Dataset) -> str:
        """Draw a result, unless its figure exists; returns the line to print."""
        from ridgeline.analysis.figures import draw
        from ridgeline.analysis.figures.style import save_figure, style

        if all(file.exists() for file in self.files) and not self.overwrite:
            return f"its figure is {self.files[0]}"
        stem = self.result.with_suffix("")
        with style():
            written = save_figure(draw(ds), stem, origin([self.result]))
        return "wrote " + " and ".join(map(str, written))
