"""Write a result for other programs: a table (.csv), ParaView (.vts) or an interactive page."""

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
    out_file: Annotated[str, "FILE.csv, FILE.vts or FILE.html (scans)"],
    overwrite: o.Overwrite = False,
) -> None:
    """One file of the numbers of one result."""
    from ridgeline.analysis.exports import export

    ds, target = load_result(result), Path(out_file)
    check_new(target, overwrite)
    print(f"wrote {export(ds, target)}")


if __name__ == "__main__":
    launch(main)
