"""One HTML page of checkpoints and results: verdict, warnings, figures, methods."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from ridgeline.models import InputError
from ridgeline.run.shared import options as o
from ridgeline.run.shared.launch import launch
from ridgeline.train.files.recipe import check_new, write_atomically


def main(
    *,
    model2load: Annotated[
        tuple[str, ...], "checkpoints, one row each in the verdict; none: no table"
    ] = (),
    result: Annotated[tuple[str, ...], "results (.nc) and metrics (.jsonl) of any kinds"],
    out_file: Annotated[str, "page (.html)"] = "report.html",
    title: Annotated[str, "heading of the page"] = "Ridgeline report",
    overwrite: o.Overwrite = False,
) -> None:
    """The page works offline, on a phone and in print. It computes nothing by itself."""
    from ridgeline.analysis.page.render import page
    from ridgeline.analysis.page.sources import read_sources

    target = Path(out_file)
    if target.suffix.lower() != ".html":
        raise InputError(f"--out_file must end in .html, got {out_file}")
    check_new(target, overwrite)
    checkpoints, results = ([f for f in files if f] for files in (model2load, result))
    if not results:
        raise InputError("--result needs at least one file: .nc or .jsonl")
    text = page(title, *read_sources(checkpoints, results))
    write_atomically(target, lambda path: path.write_text(text, encoding="utf-8"))
    print(f"wrote {target}")


if __name__ == "__main__":
    launch(main)
