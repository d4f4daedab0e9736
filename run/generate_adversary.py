"""Write the adversarial perturbations of a network's train and test images."""

from __future__ import annotations

from typing import Annotated

import build
import options as o
from budgets import attack_of
from launch import launch

from analysis.perturbations import adversaries
from landscape.parts import resumable
from landscape.result import claim, save_result, stamp
from train.progress import progress


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
    build.positive(draws=draws)
    attacker = attack_of(attack)
    subject = build.open_network(model2load, network)
    problems = {
        subset: subject.problem(subject.images(subset, subset_size), attacker, machine)
        for subset in ("train", "test")
    }
    train, test = (problem.images for problem in problems.values())
    recipe = subject.recipe("generate_adversary", train, attacker, machine.seed)
    recipe |= {"test": build.data_recipe(test, subject.dataset), "draws": draws}
    path = build.output_path(out_file, model2load, "adversaries")
    if claim(path, recipe, machine.overwrite) is None:
        total = draws * sum(len(p.images) for p in problems.values())
        with progress(total, "attack", "image") as bar, resumable(path, recipe) as keep:
            problems = {subset: problem.resuming(keep) for subset, problem in problems.items()}
            ds = adversaries(problems, attacker, draws, bar.update)
            save_result(stamp(ds, "adversaries", recipe, checkpoint=model2load), path)
    print(f"result in {path}")


if __name__ == "__main__":
    launch(main)
