"""Clean and adversarial accuracy of one network or an ensemble on the test set."""

from __future__ import annotations

from typing import Annotated

from ridgeline.analysis.robustness import robustness
from ridgeline.landscape.result import claim, result_path, save_result, stamp
from ridgeline.landscape.resume import resumable
from ridgeline.run.shared import networks
from ridgeline.run.shared import options as o
from ridgeline.run.shared.budgets import attack_of, budgets_of, say_budgets
from ridgeline.run.shared.launch import launch
from ridgeline.run.shared.same_data import check_same_data
from ridgeline.train.progress import progress

Members = Annotated[
    tuple[str, ...], "checkpoints of any architectures for the same images, A.ckpt,B.ckpt,..."
]


def main(
    *,
    model2load: Members,
    network: o.Network,
    machine: o.Machine,
    subset_size: o.SubsetSize = None,
    out_file: Annotated[str | None, "result file (.nc); None: print only"] = None,
    attack: o.Attack = None,
    adv_budget_list: o.Budgets = None,
) -> None:
    """Accuracy with 95 % Wilson intervals and loss; the ensemble averages probabilities.

    --adv_budget_list sweeps the strength of the attack.
    """
    attacker = attack_of(attack)
    budgets = budgets_of(adv_budget_list, attacker)
    subjects = [networks.open_network(name, network, "lenet") for name in model2load]
    check_same_data(*subjects)
    images = subjects[0].images("test", subset_size)
    problems = [subject.problem(images, attacker, machine) for subject in subjects]
    recipe = subjects[0].recipe("test_ensemble", images, attacker, machine.seed)
    recipe["checkpoint"] = [subject.checkpoint.sha256 for subject in subjects]
    recipe["model"] = [subject.model for subject in subjects]
    if adv_budget_list is not None:
        recipe["budgets"] = budgets
    path = out_file and result_path(out_file)
    ds = claim(path, recipe, machine.overwrite) if path else None
    if ds is None:
        say_budgets(adv_budget_list, budgets, attacker)
        count = 1 + (len(budgets) if attacker else 0)
        total = count * len(images)
        with progress(total, "evaluate", "image") as bar, resumable(path, recipe) as keep:
            problems = [problem.resuming(keep) for problem in problems]
            ds = robustness(problems, budgets, bar.update)
            stamp(ds, "robustness", recipe, checkpoints=",".join(model2load))
            if path:
                save_result(ds, path)
    for place, condition in enumerate(ds["condition"].values):
        row = ds.isel(condition=place)
        print(
            f"{condition:11s} accuracy {float(row['accuracy']):.4f} "
            f"[{float(row['accuracy_low']):.4f}, {float(row['accuracy_high']):.4f}]  "
            f"loss {float(row['loss']):.4f} +- {float(row['loss_se']):.4f}"
            + (f"  NRR {float(row['nrr']):.4f}" if condition != "clean" else "")
        )
    if path:
        print(f"result in {path}")


if __name__ == "__main__":
    launch(main)
