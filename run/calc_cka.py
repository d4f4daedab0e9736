"""Linear CKA between clean and adversarial features, or between the features of two networks."""

from __future__ import annotations

from typing import Annotated

from ridgeline.analysis.cka import cka, layers_of
from ridgeline.landscape.result import claim, save_result, stamp
from ridgeline.landscape.resume import resumable
from ridgeline.models import InputError
from ridgeline.run.shared import networks
from ridgeline.run.shared import options as o
from ridgeline.run.shared.budgets import attack_of
from ridgeline.run.shared.launch import launch
from ridgeline.run.shared.same_data import check_same_data
from ridgeline.train.progress import progress

Second = Annotated[str | None, "another checkpoint: compare networks; None: clean with adversarial"]


def main(
    *,
    model2load: o.Model2Load,
    network: o.Network,
    machine: o.Machine,
    second: Second = None,
    attack: o.Attack = None,
    subset: o.Subset = "test",
    subset_size: o.SubsetSize = 1000,
    minibatch: Annotated[int, "examples of one unbiased estimate, all in memory at a time"] = 200,
    out_file: o.OutFile = None,
) -> None:
    """Every layer with every other; the diagonal has a standard error over minibatches."""
    attacker = attack_of(attack)
    if second is None and attacker is None:
        raise InputError("name --attack (clean with adversarial features) or --second")
    if minibatch < 4:
        raise InputError(f"--minibatch must be at least 4, got {minibatch}")
    subjects = [networks.open_network(f, network) for f in (model2load, second) if f is not None]
    check_same_data(*subjects)
    images = subjects[0].images(subset, subset_size)
    if len(images) < 4:
        raise InputError(f"--subset_size must be at least 4, got {len(images)}")
    problems = [s.problem(images, attacker, machine) for s in subjects]
    for problem in problems:
        layers_of(problem.network)
    recipe = subjects[0].recipe("calc_cka", images, attacker, machine.seed)
    recipe |= {"second": subjects[-1].checkpoint.sha256 if second else None,
               "minibatch": minibatch}  # fmt: skip
    path = networks.output_path(out_file, model2load, "cka")
    ds = claim(path, recipe, machine.overwrite)
    if ds is None:
        with progress(len(images), "cka", "image") as bar, resumable(path, recipe) as keep:
            problems = [problem.resuming(keep) for problem in problems]
            ds = cka(*problems, minibatch=minibatch, tick=bar.update)
            views = ("clean", "adversarial") if second is None else (model2load, second)
            stamp(ds, "cka", recipe, first=f"layer, {views[0]}", second=f"layer, {views[1]}")
            save_result(ds, path)
    if "diagonal" in ds:
        for layer in ds["layer"].values:
            row = ds.sel(layer=layer)
            print(f"{layer:30s} {float(row['diagonal']):.4f} +- {float(row['diagonal_se']):.4f}")
        none = int(ds["diagonal"].isnull().sum())
        why = f" ({none} layers have no CKA: features all equal, or not finite)" if none else ""
        print(f"mean over layers {float(ds['mean_diagonal']):.4f}{why}")
    print(f"{ds.attrs['minibatches']} minibatches of {minibatch}; result in {path}")


if __name__ == "__main__":
    launch(main)
