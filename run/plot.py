"""Draw result files of one kind, or training metrics, as PNG, PDF or SVG."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from ridgeline.analysis.reports import unfinished
from ridgeline.analysis.training.metrics import read_metrics
from ridgeline.landscape.result import load_result
from ridgeline.models import InputError
from ridgeline.run.shared.launch import launch
from ridgeline.run.shared.origin import origin
from ridgeline.train.files.recipe import check_new


def main(
    *,
    result: Annotated[tuple[str, ...], "result files (.nc) of one kind, or metrics (.jsonl)"],
    label: Annotated[tuple[str, ...], "one label per file; none: the file names"] = (),
    out_file: Annotated[
        str | None, "figure .png, .pdf or .svg, else the first two; None: beside the first file"
    ] = None,
    against: Annotated[
        str | None,
        "what to draw against: rank, eps, epoch, ...; metrics: gradients, magnitudes, certificate, "
        "generator, tradeoff, final, cost, penalty; CURE's: updated, ...",
    ] = None,
    view: Annotated[str | None, "a surface as contour (None), or as space: in 3-D"] = None,
    overwrite: Annotated[bool, "replace an existing figure"] = False,
) -> None:
    """One figure from one or several results."""
    from ridgeline.analysis.figures import draw, draw_metrics
    from ridgeline.analysis.figures.style import figure_files, save_figure, style

    paths = [Path(r) for r in result if r]
    if not paths or (label and len(label) != len(paths)):
        raise InputError("--result needs at least one file and --label one label per file")
    names = list(label) or [p.stem for p in paths]
    if len(set(names)) != len(names):
        raise InputError(f"--label: every file needs a label of its own, got {', '.join(names)}")
    target = Path(out_file) if out_file else paths[0].with_suffix("")
    for path in figure_files(target):
        check_new(path, overwrite)
    if all(p.suffix == ".jsonl" for p in paths):
        if view is not None:
            raise InputError("metrics cannot be drawn with --view: it is for surfaces (.nc)")
        metrics = {n: read_metrics(p) for n, p in zip(names, paths, strict=True)}
        figure = draw_metrics(metrics, against)
    else:
        options = {k: v for k, v in (("against", against), ("view", view)) if v is not None}
        results = {n: load_result(p) for n, p in zip(names, paths, strict=True)}
        figure = draw(results, **options)
        print("".join(f"{line}\n" for line in unfinished(results)), end="")
    with style():
        print("wrote " + " and ".join(map(str, save_figure(figure, target, origin(paths)))))


if __name__ == "__main__":
    launch(main)
