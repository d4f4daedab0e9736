"""Draw result files of one kind, or training metrics, as PNG, PDF or SVG."""

from __future__ import annotations

from typing import Annotated

from ridgeline.analysis.look import Look
from ridgeline.run.shared.drawing import Drawing
from ridgeline.run.shared.launch import launch
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
    view: Annotated[
        str | None,
        "surfaces: contour (None) or space (3-D); sharpness: measures (None), boundary, spikes; "
        "pairs: the measure that orders them",
    ] = None,
    look: Look,
    overwrite: Annotated[bool, "replace an existing figure"] = False,
) -> None:
    """One figure from one or several results. Nothing is computed again."""
    drawing = Drawing(result, label, against, view, look, out_file)
    for path in drawing.targets:
        check_new(path, overwrite)
    figure, notes = drawing.figure()
    print("".join(f"{line}\n" for line in notes), end="")
    print(drawing.save(figure))


if __name__ == "__main__":
    launch(main)
