"""Scan the loss along one direction or over the plane of two directions in weight space."""

from __future__ import annotations

from typing import Annotated

from ridgeline.landscape.batchnorm import POLICIES
from ridgeline.landscape.result import claim, complete, not_finite, save_result, stamp
from ridgeline.landscape.surfaces.axes import grid
from ridgeline.landscape.surfaces.cell import ADVERSARIES
from ridgeline.landscape.surfaces.scan import scan
from ridgeline.landscape.weights.directions import random_direction
from ridgeline.landscape.weights.frequency_bands import BANDS, band_direction
from ridgeline.landscape.weights.paths import Plane
from ridgeline.landscape.weights.point import cosine, norm
from ridgeline.models import InputError, unknown
from ridgeline.run.shared import networks
from ridgeline.run.shared import options as o
from ridgeline.run.shared.budgets import attack_of, budgets_of, say_budgets
from ridgeline.run.shared.directions import load_direction
from ridgeline.run.shared.launch import launch
from ridgeline.train.files.checkpoint import claim_checkpoint, save_checkpoint
from ridgeline.train.specs import convert, number, parse_spec

Axis = Annotated[str | None, "min=-1,max=1,step=0.05,adv_calc_freq=1; any key may be left out"]
Mode = Annotated[
    str, "random directions: normalized (= filter), layer, random (= none); low or high frequencies"
]
Adversary = Annotated[
    str | None, "moving, frozen, anchored or max; None: anchored if adv_calc_freq > 1, else moving"
]


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
    adversary: Adversary = None,
    vec1_scan: Axis = None,
    vec2_scan: Annotated[str | None, "second axis, as --vec1_scan; None: a 1-D scan"] = None,
    load_vec1: o.Direction = None,
    load_vec2: o.Direction = None,
    vec_sample_mode: Mode = "normalized",
    vec_bias: Annotated[str, "1-D tensors in random directions: zero, layer, elementwise"] = "zero",
    vec_scale: Annotated[float, "factor on random directions"] = 1.0,
    batchnorm: o.BatchNorm = "keep",
) -> None:
    """Loss, its standard error and accuracy on a grid; a scan that was cut off is completed."""
    attacker = attack_of(attack)
    modes = {"normalized": "filter", "filter": "filter", "layer": "layer", "random": "none",
             **{band: band for band in BANDS}}  # fmt: skip
    if vec_sample_mode not in modes:
        raise unknown("--vec_sample_mode", vec_sample_mode, modes)
    if vec_scale == 0:
        raise InputError("--vec_scale 0 makes every direction zero; name another factor")
    if batchnorm not in POLICIES:
        raise unknown("--batchnorm", batchnorm, POLICIES)
    axis1, every = axis_of(vec1_scan or "step=0.05", "--vec1_scan")
    axes = {"x1": axis1}
    if load_vec2 is not None and vec2_scan is None:
        raise InputError("--load_vec2 is the direction of a second axis: name --vec2_scan too")
    if vec2_scan is not None:
        axes["x2"], other = axis_of(vec2_scan, "--vec2_scan")
        if other != every:
            raise InputError("--vec2_scan: adv_calc_freq must equal that of --vec1_scan")
    mode = adversary or ("anchored" if every > 1 else "moving")
    if mode not in ADVERSARIES:
        raise unknown("--adversary", mode, ADVERSARIES)
    if adversary is not None and attacker is None:
        raise InputError(f"--adversary {adversary} needs --attack")
    budgets = budgets_of(adv_budget_list, attacker)
    subject = networks.open_network(model2load, network)
    images = subject.images(subset, subset_size)
    problem = subject.problem(images, attacker, machine)
    stem = networks.output_stem(out_folder, model_name, model2load, "")
    path = stem.with_name(f"{stem.name}_results.nc")
    directions, digests = [], []
    for place, source in enumerate([load_vec1, load_vec2][: len(axes)]):
        if source is None:
            mode_of, seed = modes[vec_sample_mode], machine.seed
            if mode_of in BANDS:
                v = band_direction(problem.origin, seed, mode_of, vec_scale, number=place)
            else:
                v = random_direction(
                    problem.origin, seed, mode_of, vec_bias, vec_scale, number=place
                )
            digests.append(f"{mode_of}, 1-D {vec_bias}, scale {vec_scale:g}, seed {seed}, {place}")
        else:
            v, digest = load_direction(source, problem.network, place)
            digests.append(digest)
        directions.append(v)
    if len(directions) == 2 and abs(cosine(*directions)) > 1 - 1e-6:
        raise InputError("the two directions are parallel: they span no plane")
    recipe = subject.recipe("scan_param", images, attacker, machine.seed)
    recipe |= {
        "axes": {k: list(v) for k, v in axes.items()}, "directions": digests, "budgets": budgets,
        "adversary": mode, "adv_calc_freq": every, "bn": batchnorm,
    }  # fmt: skip
    targets = [stem.with_name(f"{stem.name}_vec{n}.ckpt") for n in range(1, len(axes) + 1)]
    recipes = [{**recipe, "kind": "direction", "axis": name} for name in axes]
    cells = claim(path, recipe, machine.overwrite)
    unfinished = cells is None or not complete(cells)
    for target, wanted in zip(targets, recipes, strict=True) if unfinished else ():
        claim_checkpoint(target, wanted, machine.overwrite)

    def save(ds) -> None:
        for name, v in zip(axes, directions, strict=True):
            ds[name].attrs = {"long_name": f"coordinate along v{name[1]}", "norm": norm(v)}
        save_result(stamp(ds, "scan", recipe, checkpoint=model2load), path)

    if unfinished:
        networks.say_clean(problem)
        say_budgets(adv_budget_list, budgets, attacker)
        for target, v, wanted in zip(targets, directions, recipes, strict=True):
            save_checkpoint(target, v, wanted)
        cells = scan(
            problem, Plane([problem.origin, *directions]), axes, budgets=budgets, adversary=mode,
            anchor_every=every, batchnorm=batchnorm, cells=cells, save=save,
        )  # fmt: skip
    print(f"result in {path}{not_finite(cells['loss'])}")


def axis_of(text: str, what: str):
    """The coordinates and adv_calc_freq of an axis spec, every key with its own default."""
    spec = parse_spec(text, what)
    known = {"min": "-1", "max": "1", "step": "0.05", "adv_calc_freq": "1"}
    for key in spec:
        if key not in known:
            raise unknown(f"key in {what}", key, known)
    spec = {**known, **spec}
    low, high, step = (number(spec[k], f"{what}: {k}") for k in ("min", "max", "step"))
    every = convert(spec["adv_calc_freq"], int, f"{what}: adv_calc_freq")
    if every < 1:
        raise InputError(f"{what}: adv_calc_freq must be at least 1, got {every}")
    return grid(low, high, step, what), every


if __name__ == "__main__":
    launch(main)
