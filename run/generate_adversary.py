"""Write the adversarial perturbations of a network's train and test images."""

from __future__ import annotations

from typing import Annotated

from ridgeline.analysis.perturbations import adversaries
from ridgeline.landscape.result import claim, save_result, stamp
from ridgeline.landscape.resume import resumable
from ridgeline.run.shared import networks
from ridgeline.run.shared import options as o
from ridgeline.run.shared.budgets import attack_of
from ridgeline.run.shared.launch import launch
from ridgeline.train.progress import progress


def main(
    *,
    model2load: o.Model2Load,
    network: o.Network,
    machine: o.Machine,
    subset_size: Annotated[
        int | None, "fixed random subset of train and of test; None: all"
    ] = None,
    out_file: o.OutFile = None,
    attack: Annotated[str | None, "attack; None: the clean images, all perturbations zero"] = None,
    draws: Annotated[int, "attack seeds; two give the noise floor of similarities"] = 2,
) -> None:
    """Perturbations of train and test images under independent attack seeds, with predictions."""
    networks.positive(draws=draws)
    attacker = attack_of(attack)
    subject = networks.open_network(model2load, network)
    problems = {
        subset: subject.problem(subject.images(subset, subset_size), attacker, machine)
        for subset in ("train", "test")
    }
    train, test = (problem.images for problem in problems.values())
    recipe = subject.recipe("generate_adversary", train, attacker, machine.seed)
    recipe |= {"test": networks.data_recipe(test, subject.dataset), "draws": draws}
    path = networks.output_path(out_file, model2load, "adversaries")
    if claim(path, recipe, machine.overwrite) is None:
        total = draws * sum(len(p.images) for p in problems.values())
        with progress(total, "attack", "image") as bar, resumable(path, recipe) as keep:
            problems = {subset: problem.resuming(keep) for subset, problem in problems.items()}
            ds = adversaries(problems, attacker, draws, bar.update)
            save_result(stamp(ds, "adversaries", recipe, checkpoint=model2load), path)
    print(f"result in {path}")


if __name__ == "__main__":
    launch(main)
