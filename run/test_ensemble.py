"""Clean and adversarial accuracy of one network or an ensemble on the test set."""

from __future__ import annotations

from typing import Annotated

from ridgeline.analysis.reports import report
from ridgeline.analysis.robustness import CloserLook, robustness
from ridgeline.landscape.distributed import share_pieces
from ridgeline.landscape.result import result_path
from ridgeline.run.shared import options as o
from ridgeline.run.shared.budgets import UnderAttack
from ridgeline.run.shared.command import computed
from ridgeline.run.shared.launch import launch
from ridgeline.run.shared.same_data import open_all

Members = Annotated[
    tuple[str, ...], "checkpoints for the same images, A.ckpt,B.ckpt,...; of a curve, C.ckpt@0.5"
]
SHARED = True  #: torchrun's processes share the examples


def main(
    *,
    model2load: Members,
    network: o.Network,
    machine: o.Machine,
    subset_size: o.SubsetSize = None,
    out_file: Annotated[str | None, "result file (.nc); None: print only"] = None,
    under: UnderAttack,
    closer: CloserLook,
) -> None:
    """Accuracy with 95 % Wilson intervals, and loss. An ensemble averages probabilities.

    --adv_budget_list sweeps the strength of the attack.
    """
    attacker, budgets = under.attacker, under.budgets
    closer.check_judge(attacker, len(model2load))
    subjects = open_all(model2load, network, "lenet", closer.randomised)
    images = subjects[0].images("test", subset_size)
    problems = closer.checked([s.problem(images, attacker, machine) for s in subjects])
    recipe = subjects[0].recipe(
        "test_ensemble", images, attacker, machine.seed, closer, budgets=budgets,
        checkpoint=[subject.checkpoint.sha256 for subject in subjects],
        model=[subject.model for subject in subjects],
    )  # fmt: skip

    def compute(keep, tick):
        share_pieces(problems[0].device)
        return robustness([problem.resuming(keep) for problem in problems], budgets, tick, closer)

    path = out_file and result_path(out_file)
    total = len(images) * (1 + (len(budgets) if attacker else 0))
    ds = computed("robustness", path, recipe, compute, overwrite=machine.overwrite,
                  total=total, begin=under.say, checkpoints=",".join(model2load))  # fmt: skip
    print(report(ds) + (f"\nresult in {path}" if path else ""))


if __name__ == "__main__":
    launch(main)
