"""Scan the loss along one direction, over the plane of two, or in the space of three."""

from __future__ import annotations

from ridgeline.analysis.reports import report
from ridgeline.landscape.surfaces.scan import scan
from ridgeline.landscape.surfaces.scan_options import ScanOptions
from ridgeline.landscape.weights.drawn_directions import DirectionOptions
from ridgeline.run.shared import networks
from ridgeline.run.shared import options as o
from ridgeline.run.shared.budgets import UnderAttack
from ridgeline.run.shared.command import completed, written
from ridgeline.run.shared.launch import launch
from ridgeline.run.shared.planes import PlaneOptions

SHARED = True  #: torchrun's processes share the cells


def main(
    *,
    model2load: o.Model2Load,
    network: o.Network,
    machine: o.Machine,
    examples: o.Examples,
    under: UnderAttack,
    out_folder: o.OutFolder = None,
    model_name: o.OutName = None,
    space: PlaneOptions,
    directions: DirectionOptions,
    cells: ScanOptions,
) -> None:
    """Loss, its standard error, accuracy and margin on a grid. Completes an interrupted scan.

    With --orthogonal True, between:B.ckpt and between:C.ckpt span the plane through three networks.
    """
    how = cells.keywords(under.attacker, space.every)
    subject = networks.open_network(model2load, network)
    problem = subject.problem(examples.of(subject), under.attacker, machine)
    chosen = space.chosen(problem, network, directions, cells.batchnorm)
    recipe = subject.recipe(
        "scan_param", problem.images, under.attacker, machine.seed, directions, cells,
        directions=chosen.sources, axes=chosen.axes,
        budgets=under.budgets, adversary=how["adversary"], adv_calc_freq=space.every,
    )  # fmt: skip
    stem, part = networks.output_stem(out_folder, model_name, model2load, ""), cells.part
    path = stem.with_name(f"{stem.name}_results{f'_shard{part}' if part else ''}.nc")

    def compute(held, save):
        with written(chosen.files(stem, recipe, part), machine.overwrite):
            under.say(problem)
        return scan(problem, chosen.plane, chosen.points, budgets=under.budgets, cells=held,
                    save=lambda ds: save(chosen.described(ds)), **how)  # fmt: skip

    ds = completed("scan", path, recipe, compute, overwrite=machine.overwrite,
                   checkpoint=model2load)  # fmt: skip
    print(f"{report(ds)}\nresult in {path}".lstrip())


if __name__ == "__main__":
    launch(main)
