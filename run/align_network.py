"""Reorder the units of a checkpoint to match another network's; the function stays the same."""

from __future__ import annotations

from typing import Annotated

from ridgeline.landscape.permutation.matching import align
from ridgeline.landscape.weights.point import select, state_at
from ridgeline.run.shared import networks
from ridgeline.run.shared import options as o
from ridgeline.run.shared.launch import launch
from ridgeline.train.files.checkpoint import claim_checkpoint, save_checkpoint


def main(
    *,
    model2load: o.Model2Load,
    to: Annotated[str, "checkpoint of the same architecture that gives the order"],
    network: o.Network,
    machine: o.Machine,
    out_folder: o.OutFolder = None,
    model_name: o.OutName = None,
) -> None:
    """Weight matching (Ainsworth et al. 2023): units are reordered until no exchange brings the
    weights closer. BatchNorm's statistics move with their units.
    """
    fixed = networks.open_network(to, network)
    subject = networks.open_network(model2load, network)
    problem = fixed.problem(fixed.first.take(slice(0, 2)), None, machine)
    moved = align(problem, subject.network)
    weights = state_at(subject.network, select(moved.point, moved.point, model2load))
    weights |= {n: b for n, b in moved.buffers.items() if n in weights}
    recipe = subject.derived("align_network", to=fixed.checkpoint.sha256, seed=machine.seed)
    path = networks.output_stem(out_folder, model_name, model2load, "_aligned")
    path = path.with_name(f"{path.name}.ckpt")
    networks.apart(path, model2load, to)
    claim_checkpoint(path, recipe, machine.overwrite)
    save_checkpoint(path, weights, recipe)
    before, after = moved.report["distance"].values
    units = float((moved.report["moved"] * moved.report["units"]).sum())
    print(f"{units:.0f} of {int(moved.report['units'].sum())} units moved; distance "
          f"{before:.4g}, then {after:.4g}\nwrote {path}")  # fmt: skip


if __name__ == "__main__":
    launch(main)
