"""Measure loss and accuracy along a trained curve and along the straight line between its ends."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from ridgeline.analysis.reports import report
from ridgeline.landscape.surfaces.curve_options import CurveScanOptions
from ridgeline.landscape.surfaces.curve_scan import scan_curve, with_barriers
from ridgeline.landscape.surfaces.shards import of_process
from ridgeline.run.shared import networks
from ridgeline.run.shared import options as o
from ridgeline.run.shared.budgets import UnderAttack
from ridgeline.run.shared.command import completed
from ridgeline.run.shared.launch import launch

SHARED = True  #: torchrun's processes share the cells


def main(
    *,
    model2load: Annotated[str, "curve checkpoint of train_curve"],
    network: o.Network,
    machine: o.Machine,
    options: CurveScanOptions,
    subset_size: o.SubsetSize = None,
    out_folder: o.OutFolder = None,
    model_name: o.OutName = None,
    under: UnderAttack,
) -> None:
    """Train and test loss and accuracy over t, with the barrier. Completes an interrupted scan."""
    subject = networks.open_network(model2load, network, load=False)
    path = options.curve_in(subject.checkpoint, subject.network)
    subsets = {name: subject.images(name, subset_size) for name in ("train", "test")}
    problem = subject.problem(subsets["train"], under.attacker, machine)
    recipe = subject.recipe(
        "scan_curve", problem.images, under.attacker, machine.seed, options,
        curve_type=options.type_in(subject.checkpoint),
        budgets=under.budgets if under.adv_budget_list else None,
        test=networks.data_recipe(subsets["test"], subject.dataset),
    )  # fmt: skip
    out = networks.output_stem(out_folder, model_name, model2load, "_scan")
    out = out.with_name(f"{out.name}.nc")

    def compute(held, save):
        under.say()
        return scan_curve(
            problem, path, options.t, subsets, batchnorm=options.batchnorm, cells=held, save=save,
            budgets=None if under.adv_budget_list is None else under.budgets, shard=of_process(),
        )  # fmt: skip

    finish = partial(with_barriers, problem, path, subsets, options.batchnorm)
    ds = completed("curve", out, recipe, compute, overwrite=machine.overwrite, finish=finish,
                   checkpoint=model2load)  # fmt: skip
    print(f"{report(ds)}\nresult in {out}")


if __name__ == "__main__":
    launch(main)
