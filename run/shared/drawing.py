"""A figure that is asked for: of which files, how it is drawn, where it goes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ridgeline.analysis.look import Look
from ridgeline.analysis.reports import unfinished
from ridgeline.analysis.training.metrics import read_metrics
from ridgeline.landscape.result import load_result
from ridgeline.models.errors import InputError
from ridgeline.run.shared.origin import origin
from ridgeline.train.files.recipe import check_folder, check_new, file_digest, provenance

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

METRICS = "metrics"


@dataclass(frozen=True)
class Drawing:
    """One figure; its options are those of `plot`. Nothing is read before it is asked for."""

    result: tuple[str, ...]
    label: tuple[str, ...] = ()
    against: str | None = None
    view: str | None = None
    look: Look = field(default_factory=Look)
    out_file: str | None = None
    folder: Path = Path()

    def __post_init__(self) -> None:
        """Raise InputError for no file, for labels that do not fit, and for another format."""
        if not self.paths or (self.label and len(self.label) != len(self.paths)):
            raise InputError("--result needs at least one file and --label one label per file")
        if len(set(self.names)) != len(self.names):
            raise InputError("--label: every file needs a label of its own, got "
                             f"{', '.join(self.names)}")  # fmt: skip
        if self.out_file and self.out_file.endswith("/"):
            raise InputError(f"--out_file {self.out_file} is a folder: name a figure in it")
        _ = self.targets

    @property
    def paths(self) -> list[Path]:
        """The files that are drawn."""
        return [self.folder / r for r in self.result if r]

    @property
    def names(self) -> list[str]:
        """What the files are called in the figure."""
        return list(self.label) or [p.stem for p in self.paths]

    @property
    def target(self) -> Path:
        """Where the figure goes, perhaps without a suffix."""
        return self.folder / self.out_file if self.out_file else self.paths[0].with_suffix("")

    @property
    def targets(self) -> list[Path]:
        """The files of the figure."""
        from ridgeline.analysis.figures.style import figure_files  # matplotlib takes a second

        return figure_files(self.target)

    def check_sources(self) -> None:
        """Raise InputError for a file that is not there."""
        for path in self.paths:
            if path.is_dir():
                raise InputError(f"{path} is a folder, not a file to draw")
            if not path.is_file():
                raise InputError(f"no such file to draw: {path}")

    def read(self) -> dict[str, xr.Dataset] | dict[str, list[dict]]:
        """Results, or metrics, by label; InputError for a file that cannot be read."""
        kinds = {p.suffix == ".jsonl" for p in self.paths}
        if len(kinds) > 1:
            raise InputError("metrics (.jsonl) and results cannot be drawn together")
        if kinds == {True}:
            if self.view is not None:
                raise InputError("metrics cannot be drawn with --view: it is for surfaces (.nc)")
            return {n: read_metrics(p) for n, p in zip(self.names, self.paths, strict=True)}
        return {n: load_result(p) for n, p in zip(self.names, self.paths, strict=True)}

    def figure(self) -> tuple[Figure, list[str]]:
        """The figure, and what a reader must know of results that are not finished."""
        from ridgeline.analysis.figures import draw, draw_metrics

        held = self.read()
        if isinstance(held[self.names[0]], list):
            return draw_metrics(held, self.against, **vars(self.look)), []
        options = {k: v for k, v in (("against", self.against), ("view", self.view))
                   if v is not None}  # fmt: skip
        return draw(held, **vars(self.look), **options), unfinished(held)

    def save(self, figure: Figure) -> str:
        """Write the figure, with where it comes from; returns what to say."""
        from ridgeline.analysis.figures.style import save_figure, style

        with style(self.look):
            written = save_figure(figure, self.target, origin(self.paths), self.mark())
        return "wrote " + " and ".join(map(str, written))

    def mark(self) -> str:
        """Digest of all that the figure depends on: sources, options, look, version."""
        held = [[file_digest(p) for p in self.paths], self.names, self.against, self.view,
                vars(self.look), provenance()["ridgeline"]]  # fmt: skip
        return hashlib.sha256(json.dumps(held).encode()).hexdigest()


def outdated(drawing: Drawing) -> bool:
    """Whether a file of the figure is missing, or was drawn from or by something else."""
    mark = drawing.mark().encode()
    return any(not p.exists() or mark not in p.read_bytes() for p in drawing.targets)


def check_free(targets: Sequence[Path], overwrite: bool) -> None:
    """Raise InputError where a file stands that is no figure of ours."""
    from ridgeline.analysis.figures.style import MARK

    for path in targets:
        if path.exists() and MARK.encode() not in path.read_bytes():
            check_new(path, overwrite)
        check_folder(path)
