"""Pairwise matrices of checkpoints: distance, cosine of perturbations, barrier, CKA."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from ridgeline.analysis.reports import report
from ridgeline.analysis.sharpness.pairs import PairOptions, pairs
from ridgeline.models import InputError
from ridgeline.run.shared import networks
from ridgeline.run.shared import options as o
from ridgeline.run.shared.budgets import attack_of
from ridgeline.run.shared.command import computed, resumed
from ridgeline.run.shared.launch import launch
from ridgeline.run.shared.same_data import check_same_data


def main(
    *,
    model2load: Annotated[tuple[str, ...], "checkpoints for the same images, A.ckpt,B.ckpt,..."],
    network: o.Network,
    machine: o.Machine,
    attack: o.Attack = None,
    examples: o.Examples = o.TEST_200,
    options: PairOptions,
    out_file: o.OutFile = None,
) -> None:
    """Four matrices over all pairs; `plot` draws them with dendrograms. Resumes after a kill."""
    names = [Path(name).stem for name in model2load]
    if len(names) < 2 or len(set(names)) < len(names):
        raise InputError("--model2load needs 2 or more checkpoints, each with a name of its own")
    attacker = attack_of(attack)
    subjects = [networks.open_network(name, network) for name in model2load]
    check_same_data(*subjects)
    images = examples.of(subjects[0])
    problems = {n: s.problem(images, attacker, machine)
                for n, s in zip(names, subjects, strict=True)}  # fmt: skip
    recipe = subjects[0].recipe(
        "compare_checkpoints", images, attacker, machine.seed, options, labels=names,
        checkpoint=[s.checkpoint.sha256 for s in subjects], model=[s.model for s in subjects],
    )  # fmt: skip
    path = networks.output_path(out_file, model2load[0], "pairs")
    ds = computed(
        "pairs", path, recipe,
        lambda keep, tick: pairs(resumed(problems, keep), keep=keep, tick=tick, **vars(options)),
        overwrite=machine.overwrite, total=len(images) * len(names) * (len(names) - 1) // 2,
    )  # fmt: skip
    print(f"{report(ds)}\nresult in {path}")


if __name__ == "__main__":
    launch(main)
