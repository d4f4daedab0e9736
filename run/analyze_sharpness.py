"""Rank correlation of sharpness measures with the generalisation gap (Kendall's tau)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from ridgeline.analysis.reports import report
from ridgeline.analysis.sharpness.ranking import RankingOptions, check_alike, ranking
from ridgeline.landscape.result import load_result, result_path
from ridgeline.models import InputError
from ridgeline.run.shared import options as o
from ridgeline.run.shared.command import computed
from ridgeline.run.shared.launch import launch
from ridgeline.train.files.recipe import file_digest


def main(
    *,
    sharpness: Annotated[tuple[str, ...], "results of calc_sharpness --held_out, A.nc,B.nc,..."],
    label: Annotated[tuple[str, ...], "one label per file; none: the file names"] = (),
    options: RankingOptions,
    out_file: Annotated[str | None, "result file (.nc); None: ranking.nc beside the first"] = None,
    overwrite: o.Overwrite = False,
) -> None:
    """Tau of every measure with the gap over networks, with its bootstrap interval."""
    names = list(label) or [Path(p).stem for p in sharpness]
    if not len(sharpness) == len(names) == len(set(names)):
        raise InputError("--sharpness and --label must name as many files, each once")
    results = {n: load_result(p, "sharpness") for n, p in zip(names, sharpness, strict=True)}
    check_alike(results, options.gap)
    path = result_path(out_file) if out_file else Path(sharpness[0]).with_name("ranking.nc")
    recipe = {"command": "analyze_sharpness", "sharpness": [file_digest(p) for p in sharpness],
              "labels": names, **options.recipe()}  # fmt: skip
    ds = computed("ranking", path, recipe, lambda keep, tick: ranking(results, **vars(options)),
                  overwrite=overwrite)  # fmt: skip
    print(f"{report(ds)}\nresult in {path}")


if __name__ == "__main__":
    launch(main)
