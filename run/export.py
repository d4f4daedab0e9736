"""Write a result for other programs: tables (.csv, .tex), ParaView (.vts), a page (.html)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from ridgeline.landscape.result import load_result
from ridgeline.run.shared import options as o
from ridgeline.run.shared.launch import launch
from ridgeline.train.files.recipe import check_new


def main(
    *,
    result: Annotated[str, "result file (.nc)"],
    out_file: Annotated[str, "FILE.csv, FILE.tex, FILE.vts or FILE.html (both for scans)"],
    over: Annotated[
        tuple[str, ...],
        "dimensions of the table, e.g. condition; none: .csv the largest, .tex all short ones",
    ] = (),
    overwrite: o.Overwrite = False,
) -> None:
    """Write the numbers of one result to one file."""
    from ridgeline.analysis.exports import export

    ds, target = load_result(result), Path(out_file)
    check_new(target, overwrite)
    print(f"wrote {export(ds, target, over)}")


if __name__ == "__main__":
    launch(main)
