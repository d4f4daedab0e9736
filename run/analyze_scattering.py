"""Changes of perturbations and gradients when the weights move along chosen directions."""

from __future__ import annotations

from ridgeline.analysis.reports import report
from ridgeline.analysis.scattering import scattering
from ridgeline.analysis.scattering_options import ScatteringOptions
from ridgeline.models import InputError
from ridgeline.run.shared import networks
from ridgeline.run.shared import options as o
from ridgeline.run.shared.budgets import UnderAttack
from ridgeline.run.shared.command import computed
from ridgeline.run.shared.launch import launch


def main(
    *,
    model2load: o.Model2Load,
    network: o.Network,
    machine: o.Machine,
    examples: o.Examples = o.TEST_200,
    under: UnderAttack,
    options: ScatteringOptions,
    out_file: o.OutFile = None,
) -> None:
    """Similarity of perturbations, flipped signs and scatter of gradients against the distance.

    Also the noise floor of two attack seeds and the null of random signs. The scatter is divided
    into a part of frozen and a part of moving images (Liu et al. 2020, section 3).
    """
    attacker, budgets = under.attacker, under.budgets
    if attacker is None:
        raise InputError("--attack names the perturbations in question and must not be None")
    subject = networks.open_network(model2load, network)
    images = examples.of(subject)
    problem = subject.problem(images, attacker, machine)
    recipe = subject.recipe("analyze_scattering", images, attacker, machine.seed, options,
                            budgets=budgets)  # fmt: skip

    def compute(keep, tick):
        chosen = dict(vars(options))
        return scattering(problem.resuming(keep), chosen.pop("directions"), budgets=budgets,
                          tick=tick, **chosen)  # fmt: skip

    path = networks.output_path(out_file, model2load, "scattering")
    places = 1 + len(options.directions) * len(options.distances)
    total = len(images) * options.draws * len(budgets) * places
    ds = computed("scattering", path, recipe, compute, overwrite=machine.overwrite, total=total,
                  checkpoint=model2load)  # fmt: skip
    print(f"{report(ds)}\nresult in {path}")


if __name__ == "__main__":
    launch(main)
