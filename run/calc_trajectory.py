"""Curvature, distance and robust flatness along a training run, epoch by epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from ridgeline.analysis.training.metrics import read_metrics
from ridgeline.analysis.training.trajectory import barrier, metrics_along, trajectory
from ridgeline.landscape.result import claim, save_result, stamp
from ridgeline.landscape.resume import resumable
from ridgeline.landscape.weights.point import select
from ridgeline.models import InputError
from ridgeline.run.shared import networks
from ridgeline.run.shared import options as o
from ridgeline.run.shared.launch import launch
from ridgeline.run.shared.same_data import check_same_data
from ridgeline.train.attacks import parse_attack
from ridgeline.train.files.checkpoint import load_checkpoint
from ridgeline.train.files.recipe import file_digest
from ridgeline.train.progress import progress

Epochs = Annotated[tuple[str, ...], "a run's checkpoints by epoch, NAME_1.ckpt,NAME_5.ckpt,..."]
Best = Annotated[str | None, "checkpoint NAME_best.ckpt, for the barrier to the last epoch's"]


def main(
    *,
    model2load: Epochs,
    initial: Annotated[str, "checkpoint of the initial network, NAME_init.ckpt"],
    network: o.Network,
    machine: o.Machine,
    attack: Annotated[str, "the attack of the robust loss"] = (
        "name=pgd,threshold=8/255,step_size=2/255,iter_num=10,order=-1"
    ),
    metrics: Annotated[str | None, "the run's metrics (.jsonl), drawn along"] = None,
    copy: Annotated[
        str | None, "which network it is: stable, average, revision; None: the trained one"
    ] = None,
    best: Best = None,
    subset: o.Subset = "trained",
    subset_size: o.SubsetSize = 500,
    trace_products: Annotated[int, "products spent on each trace"] = 20,
    radius: Annotated[float, "length of random directions, relative to each filter"] = 0.1,
    ascent: Annotated[float, "length of the step up the gradient, relative to each tensor"] = 0.01,
    directions: Annotated[int, "random directions"] = 5,
    out_file: o.OutFile = None,
) -> None:
    """One row per checkpoint; --metrics puts robust accuracy beside it, --best the barrier."""
    networks.positive(directions=directions)
    if not (radius > 0 and ascent > 0) or trace_products < 2:
        raise InputError("--radius and --ascent must be positive, --trace_products at least 2")
    attacker = parse_attack(attack)
    lines = [] if metrics is None else read_metrics(Path(metrics))
    if copy is not None and metrics is None:
        raise InputError("--copy names a network in --metrics: pass both")
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
    recipe = subject.recipe("calc_trajectory", images, attacker, machine.seed)
    recipe |= {
        "checkpoint": [s.checkpoint.sha256 for s in subjects.values()], "initial": first.sha256,
        "best": ends and ends.checkpoint.sha256, "trace_products": trace_products, "copy": copy,
        "metrics": metrics and file_digest(Path(metrics)),
        "radii": [radius, ascent, directions],
    }  # fmt: skip
    path = networks.output_path(out_file, model2load[-1], "trajectory")
    ds = claim(path, recipe, machine.overwrite)
    if ds is None:
        total = len(problems) * (directions + 2) * len(images)
        with progress(total, "trajectory", "image") as bar, resumable(path, recipe) as keep:
            problems = {epoch: problem.resuming(keep) for epoch, problem in problems.items()}
            ds = trajectory(problems, start, trace_products=trace_products, radius=radius,
                            ascent=ascent, directions=directions, tick=bar.update)  # fmt: skip
            if ends:
                best_point = ends.problem(images, attacker, machine).origin
                ds = ds.assign(barrier(last.resuming(keep), best_point, last.origin))
            if along is not None:
                ds = ds.merge(along)
            save_result(stamp(ds, "trajectory", recipe, checkpoints=",".join(model2load)), path)
    for epoch in ds["epoch"].values:
        row = {k: float(v) for k, v in ds.sel(epoch=epoch).items() if v.ndim == 0}
        print(f"epoch {epoch:4d}  robust loss {row['loss']:.3f}  lambda_max "
              f"{row['lambda_max']:9.3f} (residual {row['residual']:.0e})  trace "
              f"{row['trace']:9.1f} +- {row['trace_se']:.1f}  distance {row['distance']:.2f}  "
              f"flatness {row['flatness']:.3f} +- {row['flatness_se']:.3f}  sharpness "
              f"{row['sharpness']:.3f}")  # fmt: skip
    if "barrier" in ds:
        lost = " (a loss on the way is not finite)" if ds["barrier"].isnull() else ""
        print(f"barrier from best to last: {float(ds['barrier']):.3f} nat at t = "
              f"{float(ds['barrier_at']):.1f}{lost}")  # fmt: skip
    print(f"result in {path}")


if __name__ == "__main__":
    launch(main)
