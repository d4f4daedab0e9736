"""Accuracy of a network under common corruptions (noise, blur, weather, digital)."""

from __future__ import annotations

from typing import Annotated

from ridgeline.analysis.corruptions import corruption_scores, names_of
from ridgeline.landscape.result import claim, save_result, stamp
from ridgeline.landscape.resume import resumable
from ridgeline.models import InputError
from ridgeline.run.shared import networks
from ridgeline.run.shared import options as o
from ridgeline.run.shared.launch import launch
from ridgeline.train.progress import progress

Names = Annotated[tuple[str, ...], "common (15), all (19), noise, blur, weather, digital, or names"]


def main(
    *,
    model2load: o.Model2Load,
    network: o.Network,
    machine: o.Machine,
    corruptions: Names = ("common",),
    severities: Annotated[tuple[int, ...], "severities, 1 to 5"] = (1, 2, 3, 4, 5),
    subset_size: o.SubsetSize = 1000,
    out_file: o.OutFile = None,
) -> None:
    """Accuracy per corruption and severity with errors, and their mean."""
    if not severities or any(not 1 <= s <= 5 for s in severities):
        raise InputError("--severities needs whole numbers from 1 to 5")
    names = names_of(corruptions)
    subject = networks.open_network(model2load, network)
    images = subject.images("test", subset_size)
    problem = subject.problem(images, None, machine)
    recipe = subject.recipe("test_corruptions", images, None, machine.seed)
    recipe |= {"corruptions": names, "severities": list(severities)}
    path = networks.output_path(out_file, model2load, "corruptions")
    ds = claim(path, recipe, machine.overwrite)
    if ds is None:
        total = len(images) * len(names) * len(severities)
        with progress(total, "corruptions", "image") as bar, resumable(path, recipe) as keep:
            ds = corruption_scores(problem.resuming(keep), names, severities, bar.update)
            save_result(stamp(ds, "corruptions", recipe, checkpoint=model2load), path)
    for name in ds["corruption"].values:
        row = ds["accuracy"].sel(corruption=name).values
        print(f"{name:18s} " + " ".join(f"{value:.3f}" for value in row))
    print(
        f"clean {float(ds['clean_accuracy']):.3f}, mean under corruptions "
        f"{float(ds['mean_accuracy']):.3f} +- {float(ds['mean_accuracy_se']):.3f}; result in {path}"
    )


if __name__ == "__main__":
    launch(main)
