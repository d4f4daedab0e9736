"""Over the epochs of a run: do its perturbations still hurt a reference, and its own robustness?"""

from __future__ import annotations

from typing import Annotated

from ridgeline.analysis.reports import report
from ridgeline.analysis.training.generator import StudyOptions, best_per_cycle, collapse, study
from ridgeline.run.shared import networks
from ridgeline.run.shared import options as o
from ridgeline.run.shared.command import computed
from ridgeline.run.shared.launch import launch
from ridgeline.run.shared.same_data import check_same_data
from ridgeline.train.attacks import FGSM, parse_attack
from ridgeline.train.options import Opt

Epochs = Annotated[tuple[str, ...], "a run's checkpoints by epoch, NAME_1.ckpt,NAME_2.ckpt,..."]
Generator = Annotated[str | None, "attack that stands for the run's own; None: fgsm at --attack's"]
Cycle = Annotated[float | None, Opt("epochs of a learning-rate cycle; None: no table", above=0)]
TrainSize = Annotated[int, Opt("training images for the gap of own and strong attack", low=1)]


def main(
    *,
    model2load: Epochs,
    reference: Annotated[str, "fixed checkpoint, e.g. the last of a PGD-trained run"],
    network: o.Network,
    machine: o.Machine,
    attack: Annotated[str, "the strong attack"] = o.PGD20,
    generator: Generator = None,
    subset_size: o.SubsetSize = None,
    train_size: TrainSize = 1000,
    options: StudyOptions,
    cycle_epochs: Cycle = None,
    out_file: o.OutFile = None,
) -> None:
    """Transfer, robust accuracy, generator gap, gradient alignment, and how noise-like it is."""
    strong = parse_attack(attack)
    own = FGSM(eps=strong.eps)
    if generator is not None:
        own = parse_attack(generator, "--generator", beside=strong.unit)
    subjects = networks.by_epoch(model2load, network)
    first = next(iter(subjects.values()))
    fixed = networks.open_network(reference, network)
    check_same_data(fixed, *subjects.values())
    images, train = first.images("test", subset_size), first.images("train", train_size)
    problems = {epoch: s.problem(images, None, machine) for epoch, s in subjects.items()}
    recipe = first.recipe(
        "analyze_generator", images, strong, machine.seed, options, generator=repr(own),
        checkpoint=[s.checkpoint.sha256 for s in subjects.values()], train=train.sha256,
        reference=fixed.checkpoint.sha256,
    )  # fmt: skip

    def compute(keep, tick):
        kept = {epoch: problem.resuming(keep) for epoch, problem in problems.items()}
        beside = fixed.problem(images, None, machine).resuming(keep)
        ds = study(kept, beside, own, strong, train, tiles=options.tiles, tick=tick)
        return ds.assign(collapse(ds["robust"].values, ignore=options.ignore))

    path = networks.output_path(out_file, model2load[-1], "generator")
    total = len(problems) * (2 * len(images) + 2 * len(train))
    ds = computed("generator", path, recipe, compute, overwrite=machine.overwrite, total=total,
                  checkpoints=",".join(model2load))  # fmt: skip
    if cycle_epochs is not None:
        best = best_per_cycle(ds["epoch"].values, ds["robust"].values, cycle_epochs)
        print("best robust accuracy per cycle: " + ", ".join(f"{v:.3f}" for v in best.values()))
    print(f"{report(ds)}; result in {path}")


if __name__ == "__main__":
    launch(main)
