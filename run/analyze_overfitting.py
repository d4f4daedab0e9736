"""Robust overfitting over runs: best, last and gap with intervals over seeds."""

from __future__ import annotations

from typing import Annotated

from ridgeline.analysis.reports import report
from ridgeline.analysis.training.fastat import NOTE, read_benchmark
from ridgeline.analysis.training.overfitting import load_runs, overfitting
from ridgeline.landscape.result import result_path
from ridgeline.models import InputError
from ridgeline.run.shared import options as o
from ridgeline.run.shared.command import computed
from ridgeline.run.shared.launch import launch
from ridgeline.train.files.recipe import file_digest


def main(
    *,
    metrics: Annotated[tuple[str, ...], "metrics of runs, A_seed0.jsonl,A_seed1.jsonl,..."],
    label: Annotated[
        tuple[str, ...], "method of each run: runs with equal labels are seeds of one method"
    ] = (),
    benchmark: Annotated[
        str | None, "FastAT Benchmark's benchmark_data.json[@DATASET]: its methods beside the runs"
    ] = None,
    benchmark_methods: Annotated[tuple[str, ...], "some of its methods; none: all"] = (),
    out_file: Annotated[str, "result file (.nc)"] = "overfitting.nc",
    overwrite: o.Overwrite = False,
) -> None:
    """Best epoch by the validation set, last epoch, gap = best - last (positive: overfitting).

    Every further network of a run (stable, revision, average) has its own row.
    """
    runs = load_runs(metrics, label)
    recipe = {"command": "analyze_overfitting", "labels": runs.labels, "metrics": runs.digests}
    others = {}
    if benchmark is not None:
        file, others = read_benchmark(benchmark, benchmark_methods)
        recipe |= {"benchmark": file_digest(file), "benchmark_methods": list(others)}
    elif benchmark_methods:
        raise InputError("--benchmark_methods needs --benchmark")
    path = result_path(out_file)

    def compute(_keep, _tick):
        return overfitting(runs.by_label() | others)

    ds = computed("overfitting", path, recipe, compute, overwrite=overwrite,
                  metrics=",".join(metrics))  # fmt: skip
    note = f"; {NOTE}" if others else ""
    print(f"{runs.recoveries()}{report(ds)}{note}; result in {path}")


if __name__ == "__main__":
    launch(main)
