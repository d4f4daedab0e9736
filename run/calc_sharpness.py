"""Sharpness of a minimum by many measures, for clean and robust loss, with standard errors."""

from __future__ import annotations

from ridgeline.analysis.reports import report
from ridgeline.analysis.sharpness.study import check_also, study
from ridgeline.landscape.sharpness.battery import BatteryOptions
from ridgeline.landscape.sharpness.options import SharpnessOptions
from ridgeline.run.shared import networks
from ridgeline.run.shared import options as o
from ridgeline.run.shared.budgets import attack_of
from ridgeline.run.shared.command import computed
from ridgeline.run.shared.launch import launch
from ridgeline.run.shared.networks import data_recipe


def main(
    *,
    model2load: o.Model2Load,
    network: o.Network,
    machine: o.Machine,
    attack: o.Attack = None,
    examples: o.Examples = o.TRAIN_500,
    battery: BatteryOptions,
    radii: SharpnessOptions,
    out_file: o.OutFile = None,
) -> None:
    """Sharpness by many measures, each with its error and cost. Resumes after a kill.

    With --attack also of the robust loss. docs/sharpness.md explains the measures, and says which
    ones do not change when layers are rescaled.
    """
    attacker = attack_of(attack)
    check_also(battery, attacker)
    subject = networks.open_network(model2load, network)
    images = examples.of(subject)
    held_out = None if battery.held_out is None else subject.images("test", battery.held_out)
    problem = subject.problem(images, attacker, machine)
    recipe = subject.recipe(
        "calc_sharpness", images, attacker, machine.seed, battery, radii,
        test=held_out and data_recipe(held_out, subject.dataset),
    )  # fmt: skip
    path = networks.output_path(out_file, model2load, "sharpness")
    ds = computed(
        "sharpness", path, recipe,
        lambda keep, tick: study(problem, battery, radii, held_out, keep=keep, tick=tick),
        overwrite=machine.overwrite, total=None, checkpoint=model2load,
    )  # fmt: skip
    print(f"{report(ds)}\nresult in {path}")


if __name__ == "__main__":
    launch(main)
