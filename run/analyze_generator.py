"""Strength of a run's perturbations against a reference, and its robustness, over its epochs."""

from __future__ import annotations

from typing import Annotated

from ridgeline.analysis.reports import report
from ridgeline.analysis.training.generator import StudyOptions, cycles, study
from ridgeline.run.shared import networks
from ridgeline.run.shared import options as o
from ridgeline.run.shared.command import computed, resumed
from ridgeline.run.shared.launch import launch
from ridgeline.run.shared.own_generator import Given, own_or
from ridgeline.run.shared.same_data import check_same_data
from ridgeline.train.attacks import parse_attack


def main(
    *,
    model2load: o.Epochs,
    reference: Annotated[str, "fixed checkpoint, e.g. the last of a PGD-trained run"],
    network: o.Network,
    machine: o.Machine,
    attack: Annotated[str, "the strong attack"] = o.PGD20,
    generator: Given = None,
    subset_size: o.SubsetSize = None,
    options: StudyOptions,
    out_file: o.OutFile = None,
) -> None:
    """Transfer, robust accuracy, generator gap, gradient alignment, and similarity to noise."""
    strong = parse_attack(attack)
    subjects = networks.by_epoch(model2load, network)
    first, fixed = next(iter(subjects.values())), networks.open_network(reference, network)
    check_same_data(fixed, *subjects.values())
    images = first.images("test", subset_size)
    own, train, known_by = own_or(generator, strong, subjects, options)
    problems = {epoch: s.problem(images, None, machine) for epoch, s in subjects.items()}
    recipe = first.recipe(
        "analyze_generator", images, strong, machine.seed, options, generator=known_by,
        checkpoint=[s.checkpoint.sha256 for s in subjects.values()], train=train.sha256,
        reference=fixed.checkpoint.sha256,
    )  # fmt: skip

    def compute(keep, tick):
        judge = fixed.problem(images, None, machine).resuming(keep)
        return study(resumed(problems, keep), judge, own, strong, train, tiles=options.tiles,
                     block_noise=options.block_noise, ignore=options.ignore, tick=tick)  # fmt: skip

    path = networks.output_path(out_file, model2load[-1], "generator")
    total = 2 * len(problems) * (len(images) + len(train))
    ds = computed("generator", path, recipe, compute, overwrite=machine.overwrite, total=total,
                  checkpoints=",".join(model2load))  # fmt: skip
    print(f"{cycles(ds, options.cycle_epochs)}{report(ds)}; result in {path}")


if __name__ == "__main__":
    launch(main)
