"""Measure loss and accuracy along a trained curve and along the straight line between its ends."""

from __future__ import annotations

from typing import Annotated

from ridgeline.analysis.reports import report
from ridgeline.landscape.batchnorm import POLICIES
from ridgeline.landscape.result import claim, complete, save_result, stamp
from ridgeline.landscape.surfaces.axes import grid
from ridgeline.landscape.surfaces.curve import check_fixed, knots_in, scan_curve
from ridgeline.landscape.weights.paths import curve
from ridgeline.landscape.weights.point import point_of
from ridgeline.models import InputError, unknown
from ridgeline.run.shared import networks
from ridgeline.run.shared import options as o
from ridgeline.run.shared.budgets import attack_of, budgets_of, say_budgets
from ridgeline.run.shared.launch import launch

FixPoints = Annotated[tuple[int, ...], "only checked: as many as the curve has control points"]


def main(
    *,
    model2load: Annotated[str, "curve checkpoint of train_curve"],
    network: o.Network,
    machine: o.Machine,
    curve_type: Annotated[str | None, "bezier or poly_chain; None: the recorded one"] = None,
    fix_points: FixPoints = (),
    subset_size: o.SubsetSize = None,
    out_folder: o.OutFolder = None,
    model_name: o.OutName = None,
    step_size: Annotated[float, "distance of the points t; the ends 0 and 1 are exact"] = 0.02,
    attack: o.Attack = None,
    adv_budget_list: o.Budgets = None,
    batchnorm: o.BatchNorm = "recalibrate",
) -> None:
    """Train and test loss and accuracy over t with the barrier; a cut-off scan is completed."""
    attacker = attack_of(attack)
    budgets = budgets_of(adv_budget_list, attacker)
    if batchnorm not in POLICIES:
        raise unknown("--batchnorm", batchnorm, POLICIES)
    check_fixed(fix_points)
    t = grid(0, 1, step_size, "--step_size")
    if t[-1] != 1:
        raise InputError(f"--step_size must divide 1, got {step_size:g}; e.g. 0.02 or 0.05")
    subject = networks.open_network(model2load, network, load=False)
    tensors = subject.checkpoint.tensors
    knots = knots_in(tensors, point_of(subject.network), model2load)
    if fix_points and len(fix_points) != len(knots):
        raise InputError(f"--fix_points names {len(fix_points)} points, the curve has {len(knots)}")
    buffers = {n: tensors[n] for n, _ in subject.network.named_buffers() if n in tensors}
    subject.network.load_state_dict(buffers, strict=False)
    recorded = (subject.checkpoint.recipe or {}).get("curve_type", "bezier")
    path = curve(curve_type or recorded, knots)
    train = subject.images("train", subset_size)
    test = subject.images("test", subset_size)
    problem = subject.problem(train, attacker, machine)
    recipe = subject.recipe(
        "scan_curve", train, attacker, machine.seed, t=list(t), curve_type=curve_type or recorded,
        test=networks.data_recipe(test, subject.dataset), bn=batchnorm, budgets=budgets,
    )  # fmt: skip
    out = networks.output_stem(out_folder, model_name, model2load, "_scan")
    out = out.with_name(f"{out.name}.nc")
    cells = claim(out, recipe, machine.overwrite)

    def save(ds) -> None:
        save_result(stamp(ds, "curve", recipe, checkpoint=model2load), out)

    if cells is None or not complete(cells):
        say_budgets(adv_budget_list, budgets, attacker)
        cells = scan_curve(
            problem, path, t, {"train": train, "test": test}, batchnorm=batchnorm, cells=cells,
            save=save, budgets=None if adv_budget_list is None else budgets,
        )  # fmt: skip
    print(f"{report(cells)}\nresult in {out}")


if __name__ == "__main__":
    launch(main)
