"""Robust overfitting over runs: best, last and gap with intervals over seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from ridgeline.analysis.reports import report
from ridgeline.analysis.training.metrics import read_metrics
from ridgeline.analysis.training.overfitting import overfitting, recovery
from ridgeline.landscape.result import result_path
from ridgeline.models import InputError
from ridgeline.run.shared import options as o
from ridgeline.run.shared.command import computed
from ridgeline.run.shared.launch import launch
from ridgeline.train.files.recipe import file_digest


def main(
    *,
    metrics: Annotated[tuple[str, ...], "metrics of runs, A_seed0.jsonl,A_seed1.jsonl,..."],
    label: Annotated[tuple[str, ...], "method of each run: equal labels are seeds of one"] = (),
    out_file: Annotated[str, "result file (.nc)"] = "overfitting.nc",
    overwrite: o.Overwrite = False,
) -> None:
    """Best epoch by the validation set, last epoch, gap = best - last (positive: overfitting).

    Every network a run carries (stable, revision, average) is listed beside the trained one.
    """
    paths = [Path(p) for p in metrics]
    names = list(label) or [p.stem for p in paths]
    if not paths or len(names) != len(paths):
        raise InputError("--metrics needs at least one file and --label one label per file")
    for path in paths:
        if path.with_suffix(".state").exists():
            raise InputError(f"{path} is of a run that is not finished; run its command again")
    lines = [read_metrics(p) for p in paths]
    digests = [file_digest(p) for p in paths]
    if len(set(zip(names, digests, strict=True))) < len(digests):
        raise InputError("--metrics names one run twice under one label: that is one seed")
    recipe = {"command": "analyze_overfitting", "labels": names, "metrics": digests}
    path = result_path(out_file)

    def compute(_keep, _tick):
        runs: dict[str, list] = {}
        for name, found in zip(names, lines, strict=True):
            runs.setdefault(name, []).append(found)
        return overfitting(runs)

    ds = computed("overfitting", path, recipe, compute, overwrite=overwrite,
                  metrics=",".join(map(str, paths)))  # fmt: skip
    for name, found in zip(names, lines, strict=True):
        epochs = recovery(found)
        if len(epochs):
            print(f"{name}: epochs to regain 99 % after forgetting: "
                  + ", ".join(f"{e:g}" for e in epochs))  # fmt: skip
    print(f"{report(ds)}; result in {path}")


if __name__ == "__main__":
    launch(main)
