"""Compute eigenpairs, spectral density and trace of the curvature of clean or adversarial loss."""

from __future__ import annotations

from ridgeline.analysis.reports import report
from ridgeline.landscape.batchnorm import statistics_at
from ridgeline.landscape.curvature.cells import (
    Setting,
    cells_of,
    check_sizes,
    compute_all,
    finish,
)
from ridgeline.landscape.curvature.measures import (
    ADVERSARIES,
    OPERATORS,
    CurvatureOptions,
    SpectrumOptions,
    blocks_of,
)
from ridgeline.landscape.distributed import join, leader, shard
from ridgeline.landscape.result import claim, save_result, stamp
from ridgeline.run.shared import networks
from ridgeline.run.shared import options as o
from ridgeline.run.shared.budgets import attack_of, budgets_of, say_budgets
from ridgeline.run.shared.launch import launch
from ridgeline.train.progress import progress

#: torchrun may run it in several processes, each with its share of the examples
SHARED = True


def main(
    *,
    model2load: o.Model2Load,
    network: o.Network,
    machine: o.Machine,
    subset: o.Subset = "train",
    subset_size: o.SubsetSize = None,
    out_file: o.OutFile = None,
    attack: o.Attack = None,
    adv_budget_list: o.Budgets = None,
    spectrum: SpectrumOptions,
    curvature: CurvatureOptions,
) -> None:
    """Eigenpairs with residuals, density with its band, trace with its error; resumes when killed.

    Every budget of --adv_budget_list and every block gets a spectrum of its own. Eigenvectors are
    written as directions for scan_param and perturb_param. Runs under torchrun.
    """
    attacker = attack_of(attack)
    budgets = budgets_of(adv_budget_list, attacker)
    curvature.check_beside(attacker, spectrum)
    subject = networks.open_network(model2load, network, "lenet")
    images = subject.images(subset, subset_size)
    problem = subject.problem(images, attacker, machine)
    problem = problem.to(dtype=networks.use_precision(curvature.precision, problem.device))
    names = blocks_of(problem.origin, curvature.blocks)
    check_sizes(spectrum.topk, curvature.operator, images, problem.origin, names)
    recipe = subject.recipe("calc_hessian", images, attacker, machine.seed, spectrum, curvature,
                            budgets=budgets, epoch=subject.epoch)  # fmt: skip
    path = networks.output_path(out_file, model2load, "hessian")
    ds = claim(path, recipe, machine.overwrite)
    setting = Setting(curvature, spectrum)
    cells = cells_of(path, recipe, budgets, images, setting, names)
    if ds is None:
        for cell in cells:
            cell.claim(machine.overwrite)
        device = join(problem.device)
        if leader():
            networks.say_clean(problem)
            say_budgets(adv_budget_list, budgets, attacker)
        if curvature.operator != "input":
            problem = problem.to(device).on(shard(images, networks.unit_of(attacker)))
        buffers = statistics_at(problem, problem.origin, curvature.batchnorm)
        options = {"memory": curvature.bytes, "weight_decay": curvature.weight_decay,
                   "buffers": buffers}  # fmt: skip
        with progress(None, "curvature", "image", quiet=not leader()) as bar:
            ds = finish(compute_all(cells, problem, setting, options, bar), images, budgets, cells)
        what = ADVERSARIES[curvature.adversary] if any(budgets) else "clean loss"
        stamp(ds, "hessian", recipe, hessian=f"{OPERATORS[curvature.operator]}, {what}",
              checkpoint=model2load, estimator=spectrum.estimator)  # fmt: skip
        if leader():
            save_result(ds, path)
            for cell in cells:
                cell.clear()
    if leader():
        print(f"{report(ds)}\n{ds.attrs['hessian']}; result in {path}")


if __name__ == "__main__":
    launch(main)
