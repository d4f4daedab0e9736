"""Accuracy of networks trained at different budgets, each at several budgets of an attack."""

from __future__ import annotations

from typing import Annotated

from ridgeline.analysis.budget_matrix import budget_matrix, names_of, trained_at
from ridgeline.analysis.reports import report
from ridgeline.landscape.result import result_path
from ridgeline.models import InputError
from ridgeline.run.shared import options as o
from ridgeline.run.shared.budgets import UnderAttack
from ridgeline.run.shared.command import computed
from ridgeline.run.shared.launch import launch
from ridgeline.run.shared.same_data import open_all


def main(
    *,
    model2load: Annotated[tuple[str, ...], "checkpoints for the same images, A.ckpt,B.ckpt,..."],
    network: o.Network,
    machine: o.Machine,
    under: UnderAttack,
    subset_size: o.SubsetSize = None,
    out_file: Annotated[str, "result file (.nc)"] = "budgets.nc",
) -> None:
    """A row per checkpoint with its training budget, a column per attack budget, clean first.

    A foreign checkpoint records no budget; its row has only its name.
    """
    attacker, budgets = under.attacker, under.budgets
    names = names_of(model2load)
    if attacker is None or attacker.reach > attacker.eps:
        raise InputError("--attack is needed, one that stays in the ball of its eps")
    subjects = dict(zip(names, open_all(model2load, network, "lenet"), strict=True))
    first = subjects[names[0]]
    images = first.images("test", subset_size)
    problems = {n: subject.problem(images, attacker, machine) for n, subject in subjects.items()}
    trained = [trained_at(subject.checkpoint.recipe) for subject in subjects.values()]
    recipe = first.recipe(
        "test_budgets", images, attacker, machine.seed, budgets=budgets, names=names,
        checkpoint=[subject.checkpoint.sha256 for subject in subjects.values()],
        model=[subject.model for subject in subjects.values()],
    )  # fmt: skip

    def compute(keep, tick):
        kept = {name: problem.resuming(keep) for name, problem in problems.items()}
        return budget_matrix(kept, budgets, trained, tick)

    total = len(images) * len(names) * (1 + len([eps for eps in budgets if eps]))
    path = result_path(out_file)
    ds = computed("budgets", path, recipe, compute, overwrite=machine.overwrite, total=total,
                  begin=under.say, checkpoints=",".join(model2load))  # fmt: skip
    print(f"{report(ds)}\nresult in {path}")


if __name__ == "__main__":
    launch(main)
