"""Curvature, distance and robust flatness along a training run, epoch by epoch."""

from __future__ import annotations

from typing import Annotated

from ridgeline.analysis.reports import report
from ridgeline.analysis.training.trajectory import AlongOptions, TrajectoryOptions, trajectory
from ridgeline.landscape.weights.point import select
from ridgeline.run.shared import networks
from ridgeline.run.shared import options as o
from ridgeline.run.shared.command import computed, resumed
from ridgeline.run.shared.launch import launch
from ridgeline.run.shared.same_data import check_same_data
from ridgeline.train.attacks import parse_attack
from ridgeline.train.files.checkpoint import load_checkpoint


def main(
    *,
    model2load: o.Epochs,
    initial: Annotated[str, "checkpoint of the initial network, NAME_init.ckpt"],
    network: o.Network,
    machine: o.Machine,
    attack: Annotated[str, "the attack of the robust loss"] = o.PGD10,
    beside: AlongOptions,
    best: Annotated[str | None, "NAME_best.ckpt, for the barrier to the last epoch"] = None,
    examples: o.Examples = o.TRAINED_500,
    options: TrajectoryOptions,
    out_file: o.OutFile = None,
) -> None:
    """One row per checkpoint. --metrics adds robust accuracy, --best the barrier."""
    attacker, along = parse_attack(attack), beside.read()
    subjects = networks.by_epoch(model2load, network)
    images = examples.of(next(iter(subjects.values())))
    problems = {epoch: s.problem(images, attacker, machine) for epoch, s in subjects.items()}
    last, first = problems[max(problems)], load_checkpoint(initial)
    start = select(first.fit(last.network).state, last.origin, initial)
    ends = networks.open_network(best, network) if best else None
    check_same_data(*subjects.values(), *([ends] if ends else []))
    recipe = next(iter(subjects.values())).recipe(
        "calc_trajectory", images, attacker, machine.seed, options, beside,
        checkpoint=[s.checkpoint.sha256 for s in subjects.values()], initial=first.sha256,
        best=ends and ends.checkpoint.sha256,
    )  # fmt: skip

    def compute(keep, tick):
        end = ends and ends.problem(images, attacker, machine).origin
        return trajectory(resumed(problems, keep), start, best=end, along=along, tick=tick,
                          **vars(options))  # fmt: skip

    path = networks.output_path(out_file, model2load[-1], "trajectory")
    ds = computed("trajectory", path, recipe, compute, overwrite=machine.overwrite,
                  total=len(problems) * (options.directions + 2) * len(images),
                  checkpoints=",".join(model2load))  # fmt: skip
    print(f"{report(ds)}\nresult in {path}")


if __name__ == "__main__":
    launch(main)
