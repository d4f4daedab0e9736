"""Write the adversarial perturbations of a network's train and test images."""

from __future__ import annotations

from typing import Annotated

from ridgeline.analysis.adversaries import AdversaryFile, AdversaryOptions
from ridgeline.run.shared import networks
from ridgeline.run.shared import options as o
from ridgeline.run.shared.budgets import attack_of
from ridgeline.run.shared.command import computed
from ridgeline.run.shared.launch import launch


def main(
    *,
    model2load: o.Model2Load,
    network: o.Network,
    machine: o.Machine,
    subset_size: o.SubsetSize = None,
    out_file: o.OutFile = None,
    attack: Annotated[str | None, "attack; None: the clean images, all perturbations zero"] = None,
    options: AdversaryOptions,
) -> None:
    """Perturbations of train and test images under independent attack seeds, with predictions."""
    attacker = attack_of(attack)
    subject = networks.open_network(model2load, network)
    problems = {
        subset: subject.problem(subject.images(subset, subset_size), attacker, machine)
        for subset in ("train", "test")
    }
    train, test = (problem.images for problem in problems.values())
    recipe = subject.recipe("generate_adversary", train, attacker, machine.seed, options,
                            test=networks.data_recipe(test, subject.dataset))  # fmt: skip

    file = AdversaryFile(problems, attacker, options.draws)
    path = networks.output_path(out_file, model2load, "adversaries")
    total = options.draws * sum(len(p.images) for p in problems.values())
    computed("adversaries", path, recipe, file.rest, overwrite=machine.overwrite, total=total,
             large=file.write, checkpoint=model2load)  # fmt: skip
    print(f"result in {path}")


if __name__ == "__main__":
    launch(main)
