"""Robust overfitting over runs: best, last and gap with intervals over seeds."""

from __future__ import annotations

from typing import Annotated

from ridgeline.analysis.reports import report
from ridgeline.analysis.training.overfitting import load_runs, overfitting
from ridgeline.landscape.result import result_path
from ridgeline.run.shared import options as o
from ridgeline.run.shared.command import computed
from ridgeline.run.shared.launch import launch


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
    runs = load_runs(metrics, label)
    recipe = {"command": "analyze_overfitting", "labels": runs.labels, "metrics": runs.digests}
    path = result_path(out_file)

    def compute(_keep, _tick):
        return overfitting(runs.by_label())

    ds = computed("overfitting", path, recipe, compute, overwrite=overwrite,
                  metrics=",".join(metrics))  # fmt: skip
    print(f"{runs.recoveries()}{report(ds)}; result in {path}")


if __name__ == "__main__":
    launch(main)
