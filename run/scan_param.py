"""Scan the loss along one direction, over the plane of two, or in the space of three."""

from __future__ import annotations

from typing import Annotated

from ridgeline.analysis.reports import report
from ridgeline.landscape.result import claim, complete, save_result, stamp
from ridgeline.landscape.surfaces.scan import scan
from ridgeline.landscape.surfaces.scan_options import ScanOptions
from ridgeline.landscape.surfaces.shards import parse_shard
from ridgeline.landscape.weights.drawn_directions import DirectionOptions
from ridgeline.landscape.weights.point import norm
from ridgeline.models import InputError
from ridgeline.run.shared import networks, planes
from ridgeline.run.shared import options as o
from ridgeline.run.shared.budgets import attack_of, budgets_of, say_budgets
from ridgeline.run.shared.launch import launch
from ridgeline.train.files.checkpoint import claim_checkpoint, save_checkpoint

Axis = Annotated[
    str | None, "-1:1:21, min=-1,max=1,step=0.05 or rise=10,count=21; with adv_calc_freq=1"
]
Next = Annotated[str | None, "the next axis, as --vec1_scan; None: no such axis"]
Run = Annotated[tuple[str, ...], "checkpoints of a run: scan the plane in which they vary most"]


def main(
    *,
    model2load: o.Model2Load,
    network: o.Network,
    machine: o.Machine,
    subset: o.Subset = "train",
    subset_size: o.SubsetSize = None,
    out_folder: o.OutFolder = None,
    model_name: o.OutName = None,
    attack: o.Attack = None,
    adv_budget_list: o.Budgets = None,
    vec1_scan: Axis = None,
    vec2_scan: Next = None,
    vec3_scan: Next = None,
    load_vec1: o.Direction = None,
    load_vec2: o.Direction = None,
    load_vec3: o.Direction = None,
    trajectory: Run = (),
    directions: DirectionOptions,
    cells: ScanOptions,
    shard: Annotated[str | None, "i/n: compute this part only; ridgeline merge joins them"] = None,
) -> None:
    """Loss, its standard error, accuracy and margin on a grid; what was cut off is completed.

    Two directions between:B.ckpt and between:C.ckpt with --orthogonal True are the plane through
    three networks.
    """
    attacker, part = attack_of(attack), None if shard is None else parse_shard(shard)
    axes = planes.axes_given([vec1_scan, vec2_scan, vec3_scan])
    sources = [load_vec1, load_vec2, load_vec3]
    if trajectory and (any(sources) or vec1_scan or vec2_scan or vec3_scan):
        raise InputError("--trajectory chooses directions and axes: leave --vec and --load_vec out")
    for number in range(len(axes) + 1, 4):
        if sources[number - 1] is not None:
            raise InputError(f"--load_vec{number} is of one more axis: name --vec{number}_scan")
    mode = cells.mode(attacker, axes[0].every)
    budgets = budgets_of(adv_budget_list, attacker)
    subject = networks.open_network(model2load, network)
    images = subject.images(subset, subset_size)
    problem = subject.problem(images, attacker, machine)
    if trajectory:
        chosen = planes.along_run(problem, trajectory, network, 2)
        points = planes.around(chosen.placed, [21, 21])
    else:
        chosen = planes.chosen_plane(problem, sources[: len(axes)], directions, machine.seed)
        points = planes.points_of(problem, chosen, axes, cells.batchnorm)
    recipe = subject.recipe(
        "scan_param", images, attacker, machine.seed, directions, cells, directions=chosen.sources,
        axes={k: list(v) for k, v in points.items()}, budgets=budgets, adversary=mode,
        adv_calc_freq=axes[0].every,
    )  # fmt: skip
    stem = networks.output_stem(out_folder, model_name, model2load, "")
    path = stem.with_name(f"{stem.name}_results{f'_shard{part}' if part else ''}.nc")
    vectors = [
        (stem.with_name(f"{stem.name}_vec{n}.ckpt"), v,
         {**recipe, "kind": "direction", "axis": name})
        for n, (name, v) in enumerate(zip(points, chosen.plane.knots[1:], strict=True), start=1)
    ]  # fmt: skip
    held = claim(path, recipe, machine.overwrite)

    def save(ds) -> None:
        for name, unit, v in zip(points, chosen.units, chosen.plane.knots[1:], strict=True):
            ds[name].attrs = {"long_name": f"coordinate along v{name[1]}", "norm": norm(v),
                              "coordinate_1": unit}  # fmt: skip
        ds = ds if chosen.placed is None else ds.merge(chosen.placed, combine_attrs="override")
        save_result(stamp(ds, "scan", recipe, checkpoint=model2load), path)

    if part is not None and part.number > 1:
        vectors = []  # shards may run at once: the first writes the directions
    if held is None or part is not None or not complete(held):
        for target, _, wanted in vectors:
            claim_checkpoint(target, wanted, machine.overwrite)
        networks.say_clean(problem)
        say_budgets(adv_budget_list, budgets, attacker)
        for target, v, wanted in vectors:
            save_checkpoint(target, v, wanted)
        held = scan(
            problem, chosen.plane, points, budgets=budgets, adversary=mode,
            anchor_every=axes[0].every, batchnorm=cells.batchnorm, extras=cells.extras, shard=part,
            cells=held, save=save,
        )  # fmt: skip
    print("\n".join(filter(None, [report(held), f"result in {path}"])))


if __name__ == "__main__":
    launch(main)
