"""Measure loss and accuracy along a trained curve and along the straight line between its ends."""

from __future__ import annotations

from typing import Annotated

from ridgeline.landscape.batchnorm import POLICIES
from ridgeline.landscape.result import claim, complete, not_finite, save_result, stamp
from ridgeline.landscape.surfaces.axes import grid
from ridgeline.landscape.surfaces.curve import check_fixed, knots_in, scan_curve
from ridgeline.landscape.weights.paths import curve
from ridgeline.landscape.weights.point import point_of
from ridgeline.models import InputError, unknown
from ridgeline.run.shared import networks
from ridgeline.run.shared import options as o
from ridgeline.run.shared.budgets import attack_of
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
    batchnorm: o.BatchNorm = "recalibrate",
) -> None:
    """Train and test loss and accuracy over t with the barrier; a cut-off scan is completed."""
    attacker = attack_of(attack)
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
    recipe = subject.recipe("scan_curve", train, attacker, machine.seed)
    recipe |= {
        "test": networks.data_recipe(test, subject.dataset), "t": list(t),
        "curve_type": curve_type or recorded, "bn": batchnorm,
    }  # fmt: skip
    out = networks.output_stem(out_folder, model_name, model2load, "_scan")
    out = out.with_name(f"{out.name}.nc")
    cells = claim(out, recipe, machine.overwrite)

    def save(ds) -> None:
        save_result(stamp(ds, "curve", recipe, checkpoint=model2load), out)

    if cells is None or not complete(cells):
        subsets = {"train": train, "test": test}
        cells = scan_curve(problem, path, t, subsets, batchnorm=batchnorm, cells=cells, save=save)
    for way in cells["path"].values:
        for subset in cells["subset"].values:
            here = cells.sel(path=way, subset=subset)
            print(f"{way:5s} {subset:5s} barrier {float(here['barrier']):.4f} nat"
                  f"{not_finite(here['loss'])}")  # fmt: skip
    print(f"result in {out}")


if __name__ == "__main__":
    launch(main)
