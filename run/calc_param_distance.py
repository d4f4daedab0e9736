"""Distance of two checkpoints in weight space, total and per layer."""

from __future__ import annotations

from typing import Annotated

from ridgeline.analysis.distances import parameter_distance
from ridgeline.analysis.reports import report
from ridgeline.landscape.result import result_path
from ridgeline.models import InputError
from ridgeline.run.shared import options as o
from ridgeline.run.shared.command import computed
from ridgeline.run.shared.launch import launch
from ridgeline.train.files.checkpoint import load_checkpoint


def main(
    *,
    ckpt_file1: Annotated[str, "first checkpoint"],
    ckpt_file2: Annotated[str, "second checkpoint"],
    out_file: Annotated[str | None, "result file (.nc); None: print only"] = None,
    overwrite: o.Overwrite = False,
) -> None:
    """Euclidean distance over all parameters, without BatchNorm's statistics."""
    a, b = load_checkpoint(ckpt_file1), load_checkpoint(ckpt_file2)
    if len({(c.recipe or {}).get("kind") for c in (a, b)}) > 1:
        raise InputError("one file is a network and the other a direction: they have no distance")
    ties = [group for group in a.ties if group in b.ties]
    recipe = {"command": "calc_param_distance", "checkpoints": [a.sha256, b.sha256], "ties": ties}
    path = None if out_file is None else result_path(out_file)

    def compute(_keep, _tick):
        return parameter_distance(a.tensors, b.tensors, ties)

    pair = f"{ckpt_file1} {ckpt_file2}"
    ds = computed("distance", path, recipe, compute, overwrite=overwrite, pair=pair)
    for first, *rest in ties:
        print(f"{first} is tied to {', '.join(rest)} and counts once")
    print(report(ds))


if __name__ == "__main__":
    launch(main)
