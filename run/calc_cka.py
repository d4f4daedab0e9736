"""Linear CKA between clean and adversarial features, or between the features of two networks."""

from __future__ import annotations

from typing import Annotated

from ridgeline.analysis.cka import CkaOptions, cka, layers_of
from ridgeline.analysis.reports import report
from ridgeline.models import InputError
from ridgeline.run.shared import networks
from ridgeline.run.shared import options as o
from ridgeline.run.shared.budgets import attack_of
from ridgeline.run.shared.command import computed
from ridgeline.run.shared.launch import launch
from ridgeline.run.shared.same_data import check_same_data

Second = Annotated[
    str | None, "another checkpoint, to compare networks; None: compare clean with adversarial"
]


def main(
    *,
    model2load: o.Model2Load,
    network: o.Network,
    machine: o.Machine,
    second: Second = None,
    attack: o.Attack = None,
    examples: o.Examples = o.TEST_1000,
    options: CkaOptions,
    out_file: o.OutFile = None,
) -> None:
    """CKA of every layer with every other. The diagonal has a standard error over minibatches."""
    attacker = attack_of(attack)
    if second is None and attacker is None:
        raise InputError("name --attack (clean with adversarial features) or --second")
    subjects = [networks.open_network(f, network) for f in (model2load, second) if f is not None]
    check_same_data(*subjects)
    images = examples.of(subjects[0])
    if len(images) < 4:
        raise InputError(f"--subset_size must be at least 4, got {len(images)}")
    problems = [s.problem(images, attacker, machine) for s in subjects]
    for problem in problems:
        layers_of(problem.network)
    recipe = subjects[0].recipe(
        "calc_cka", images, attacker, machine.seed, options,
        second=subjects[-1].checkpoint.sha256 if second else None,
    )  # fmt: skip

    def compute(keep, tick):
        kept = [problem.resuming(keep) for problem in problems]
        return cka(*kept, minibatch=options.minibatch, tick=tick)

    path = networks.output_path(out_file, model2load, "cka")
    views = ("clean", "adversarial") if second is None else (model2load, second)
    ds = computed("cka", path, recipe, compute, overwrite=machine.overwrite, total=len(images),
                  first=f"layer, {views[0]}", second=f"layer, {views[1]}")  # fmt: skip
    print(f"{report(ds)} of {options.minibatch}; result in {path}")


if __name__ == "__main__":
    launch(main)
