"""Accuracy of a network under common corruptions (noise, blur, weather, digital)."""

from __future__ import annotations

from ridgeline.analysis.corruptions import (
    CorruptionOptions,
    check_corruptible,
    corruption_scores,
    names_of,
)
from ridgeline.analysis.reports import report
from ridgeline.run.shared import networks
from ridgeline.run.shared import options as o
from ridgeline.run.shared.command import computed
from ridgeline.run.shared.launch import launch


def main(
    *,
    model2load: o.Model2Load,
    network: o.Network,
    machine: o.Machine,
    options: CorruptionOptions,
    subset_size: o.SubsetSize = 1000,
    out_file: o.OutFile = None,
) -> None:
    """Accuracy per corruption and severity with errors, and their mean."""
    names = names_of(options.corruptions)
    subject = networks.open_network(model2load, network)
    images = subject.images("test", subset_size)
    check_corruptible(images)
    problem = subject.problem(images, None, machine)
    recipe = subject.recipe("test_corruptions", images, None, machine.seed, options)

    def compute(keep, tick):
        return corruption_scores(problem.resuming(keep), names, options.severities, tick)

    path = networks.output_path(out_file, model2load, "corruptions")
    total = len(images) * len(names) * len(options.severities)
    ds = computed("corruptions", path, recipe, compute, overwrite=machine.overwrite, total=total,
                  checkpoint=model2load)  # fmt: skip
    print(f"{report(ds)}; result in {path}")


if __name__ == "__main__":
    launch(main)
