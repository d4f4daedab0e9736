"""Scan and draw the loss around one forgetting: before, after, and after relearning."""

from __future__ import annotations

from ridgeline.analysis.reports import report
from ridgeline.run.shared import networks
from ridgeline.run.shared import options as o
from ridgeline.run.shared.budgets import UnderAttack
from ridgeline.run.shared.command import completed
from ridgeline.run.shared.forgetting import Around, ForgettingOptions, Picture
from ridgeline.run.shared.launch import launch


def main(
    *,
    options: ForgettingOptions,
    network: o.Network,
    machine: o.Machine,
    examples: o.Examples,
    under: UnderAttack,
    out_file: o.OutFile = None,
) -> None:
    """The plane through three networks, or the line through them and the straight line.

    BatchNorm is recalibrated at every point. The line shows whether relearning leads back into the
    basin: `barrier` is the largest rise above the chord. Writes the result and its figure.
    """
    before, *others = options.model2load
    subject = networks.open_network(before, network)
    problem = subject.problem(examples.of(subject), under.attacker, machine)
    around = Around.of(problem, others)
    recipe = subject.recipe(
        "scan_forgetting", problem.images, under.attacker, machine.seed, options,
        around=around.digests, budgets=under.budgets,
    )  # fmt: skip
    path = networks.output_path(out_file, before, options.stem)
    picture = Picture.beside(path, machine.overwrite)

    def compute(held, save):
        under.say(problem)
        return around.scan(options, under.budgets, held, save)

    ds = completed(options.kind, path, recipe, compute, overwrite=machine.overwrite,
                   checkpoint=",".join(options.model2load))  # fmt: skip
    print(f"{report(ds)}\nresult in {path}")
    print(picture.draw(ds))


if __name__ == "__main__":
    launch(main)
