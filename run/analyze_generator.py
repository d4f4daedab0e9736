"""Over the epochs of a run: do its perturbations still hurt a reference, and its own robustness?"""

from __future__ import annotations

from typing import Annotated

from ridgeline.analysis.training.generator import best_per_cycle, collapse, study
from ridgeline.landscape.result import claim, save_result, stamp
from ridgeline.landscape.resume import resumable
from ridgeline.models import InputError
from ridgeline.run.shared import networks
from ridgeline.run.shared import options as o
from ridgeline.run.shared.launch import launch
from ridgeline.run.shared.same_data import check_same_data
from ridgeline.train.attacks import FGSM, parse_attack
from ridgeline.train.progress import progress

Epochs = Annotated[tuple[str, ...], "a run's checkpoints by epoch, NAME_1.ckpt,NAME_2.ckpt,..."]
Generator = Annotated[str | None, "attack that stands for the run's own; None: fgsm at --attack's"]


def main(
    *,
    model2load: Epochs,
    reference: Annotated[str, "fixed checkpoint, e.g. the last of a PGD-trained run"],
    network: o.Network,
    machine: o.Machine,
    attack: Annotated[str, "the strong attack"] = o.PGD20,
    generator: Generator = None,
    subset_size: o.SubsetSize = None,
    train_size: Annotated[int, "training images for the gap of own and strong attack"] = 1000,
    tiles: Annotated[int, "images whose perturbations are kept for the picture"] = 4,
    ignore: Annotated[int, "first epochs that cannot count as a collapse"] = 0,
    cycle_epochs: Annotated[float | None, "epochs of a learning-rate cycle; None: no table"] = None,
    out_file: o.OutFile = None,
) -> None:
    """Transfer, robust accuracy, generator gap, gradient alignment, and how noise-like it is."""
    networks.positive(train_size=train_size, tiles=tiles)
    if ignore < 0:
        raise InputError(f"--ignore must not be negative, got {ignore}")
    if cycle_epochs is not None and not cycle_epochs > 0:
        raise InputError(f"--cycle_epochs must be positive, got {cycle_epochs:g}")
    strong = parse_attack(attack)
    own = (
        FGSM(eps=strong.eps)
        if generator is None
        else parse_attack(generator, "--generator", beside=strong.unit)
    )
    subjects = networks.by_epoch(model2load, network)
    first = next(iter(subjects.values()))
    judge = networks.open_network(reference, network)
    check_same_data(judge, *subjects.values())
    images = first.images("test", subset_size)
    train = first.images("train", train_size)
    problems = {epoch: s.problem(images, None, machine) for epoch, s in subjects.items()}
    recipe = first.recipe("analyze_generator", images, strong, machine.seed)
    recipe |= {
        "checkpoint": [s.checkpoint.sha256 for s in subjects.values()], "generator": repr(own),
        "reference": judge.checkpoint.sha256, "train": train.sha256, "tiles": tiles,
        "ignore": ignore,
    }  # fmt: skip
    path = networks.output_path(out_file, model2load[-1], "generator")
    ds = claim(path, recipe, machine.overwrite)
    if ds is None:
        total = len(problems) * (2 * len(images) + 2 * len(train))
        with progress(total, "generator", "image") as bar, resumable(path, recipe) as keep:
            problems = {epoch: problem.resuming(keep) for epoch, problem in problems.items()}
            fixed = judge.problem(images, None, machine).resuming(keep)
            ds = study(problems, fixed, own, strong, train, tiles=tiles, tick=bar.update)
            ds = ds.assign(collapse(ds["robust"].values, ignore=ignore))
            save_result(stamp(ds, "generator", recipe, checkpoints=",".join(model2load)), path)
    for epoch in ds["epoch"].values:
        row = {k: float(v) for k, v in ds.sel(epoch=epoch).items() if v.ndim == 0}
        print(f"epoch {epoch:4d}  clean {row['clean']:.3f}  robust {row['robust']:.3f}  "
              f"transfer {row['transfer']:.3f}  strength {row['strength']:.2f}  "
              f"gap {row['gap']:.3f}  alignment {row['alignment']:.2f}")  # fmt: skip
    if cycle_epochs is not None:
        best = best_per_cycle(ds["epoch"].values, ds["robust"].values, cycle_epochs)
        print("best robust accuracy per cycle: " + ", ".join(f"{v:.3f}" for v in best.values()))
    print(f"reference: random signs {float(ds['random']):.3f}, strong attack "
          f"{float(ds['reference_strong']):.3f}; robust accuracy best {float(ds['best']):.3f}, "
          f"last {float(ds['last']):.3f}, first collapse at epoch "
          f"{float(ds['collapse_epoch']):g}; result in {path}")  # fmt: skip


if __name__ == "__main__":
    launch(main)
