"""Merge the parts of a scan that --shard divided among jobs."""

from __future__ import annotations

from typing import Annotated

from ridgeline.analysis.reports import report
from ridgeline.landscape.result import complete, load_result, recipe_of, result_path
from ridgeline.landscape.surfaces.shards import merged
from ridgeline.models import InputError
from ridgeline.run.shared import options as o
from ridgeline.run.shared.command import computed
from ridgeline.run.shared.launch import launch
from ridgeline.run.shared.networks import apart
from ridgeline.run.shared.redoing import as_one_call


def main(
    *,
    result: Annotated[tuple[str, ...], "the parts, NAME_results_shard1of4.nc,..."],
    out_file: Annotated[str, "result file (.nc)"],
    overwrite: o.Overwrite = False,
) -> None:
    """One result with the cells of all parts. Together they must be the complete grid."""
    parts = [load_result(name) for name in result]
    ds = merged(parts)
    if not complete(ds):
        raise InputError(f"the parts leave {int((~ds['done']).sum())} cells out: run their shards")
    path, recipe = result_path(out_file), recipe_of(parts[0])
    apart(path, *result)
    notes = {"checkpoint": parts[0].attrs.get("checkpoint", "")}
    with as_one_call(parts[0]):
        computed(ds.attrs["kind"], path, recipe, lambda *_: ds, overwrite=overwrite, **notes)
    print("\n".join(filter(None, [report(ds), f"{len(parts)} parts; result in {path}"])))


if __name__ == "__main__":
    launch(main)
