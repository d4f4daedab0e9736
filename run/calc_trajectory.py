"""Curvature, distance and robust flatness along a training run, epoch by epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from ridgeline.analysis.reports import report
from ridgeline.analysis.training.metrics import read_metrics
from ridgeline.analysis.training.trajectory import (
    TrajectoryOptions,
    barrier,
    metrics_along,
    trajectory,
)
from ridgeline.landscape.weights.point import select
from ridgeline.models import InputError
from ridgeline.run.shared import networks
from ridgeline.run.shared import options as o
from ridgeline.run.shared.command import computed
from ridgeline.run.shared.launch import launch
from ridgeline.run.shared.same_data import check_same_data
from ridgeline.train.attacks import parse_attack
from ridgeline.train.files.checkpoint import load_checkpoint
from ridgeline.train.files.recipe import file_digest

Epochs = Annotated[tuple[str, ...], "a run's checkpoints by epoch, NAME_1.ckpt,NAME_5.ckpt,..."]
Best = Annotated[str | None, "checkpoint NAME_best.ckpt, for the barrier to the last epoch's"]
Copy = Annotated[
    str | None, "which network it is: stable, average, revision; None: the trained one"
]


def main(
    *,
    model2load: Epochs,
    initial: Annotated[str, "checkpoint of the initial network, NAME_init.ckpt"],
    network: o.Network,
    machine: o.Machine,
    attack: Annotated[str, "the attack of the robust loss"] = o.PGD10,
    metrics: Annotated[str | None, "the run's metrics (.jsonl), drawn along"] = None,
    copy: Copy = None,
    best: Best = None,
    subset: o.Subset = "trained",
    subset_size: o.SubsetSize = 500,
    options: TrajectoryOptions,
    out_file: o.OutFile = None,
) -> None:
    """One row per checkpoint; --metrics puts robust accuracy beside it, --best the barrier."""
    attacker = parse_attack(attack)
    if copy is not None and metrics is None:
        raise InputError("--copy names a network in --metrics: pass both")
    lines = [] if metrics is None else read_metrics(Path(metrics))
    along = metrics_along(lines, copy or "") if lines else None
    subjects = networks.by_epoch(model2load, network)
    subject = next(iter(subjects.values()))
    images = subject.images(subset, subset_size)
    problems = {epoch: s.problem(images, attacker, machine) for epoch, s in subjects.items()}
    last = problems[max(problems)]
    first = load_checkpoint(initial)
    start = select(first.fit(last.network).state, last.origin, initial)
    ends = networks.open_network(best, network) if best else None
    check_same_data(*subjects.values(), *([ends] if ends else []))
    recipe = subject.recipe(
        "calc_trajectory", images, attacker, machine.seed, options, initial=first.sha256, copy=copy,
        checkpoint=[s.checkpoint.sha256 for s in subjects.values()],
        best=ends and ends.checkpoint.sha256, metrics=metrics and file_digest(Path(metrics)),
    )  # fmt: skip

    def compute(keep, tick):
        kept = {epoch: problem.resuming(keep) for epoch, problem in problems.items()}
        ds = trajectory(kept, start, tick=tick, **vars(options))
        if ends:
            point = ends.problem(images, attacker, machine).origin
            ds = ds.assign(barrier(last.resuming(keep), point, last.origin))
        return ds if along is None else ds.merge(along)

    path = networks.output_path(out_file, model2load[-1], "trajectory")
    total = len(problems) * (options.directions + 2) * len(images)
    ds = computed("trajectory", path, recipe, compute, overwrite=machine.overwrite, total=total,
                  checkpoints=",".join(model2load))  # fmt: skip
    print(f"{report(ds)}\nresult in {path}")


if __name__ == "__main__":
    launch(main)
