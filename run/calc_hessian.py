"""Compute eigenpairs, spectral density and trace of the curvature of clean or adversarial loss."""

from __future__ import annotations

from ridgeline.analysis.reports import report
from ridgeline.landscape.curvature.cells import cells_of, left_of, spectra
from ridgeline.landscape.curvature.measures import CurvatureOptions, SpectrumOptions
from ridgeline.run.shared import networks
from ridgeline.run.shared import options as o
from ridgeline.run.shared.budgets import UnderAttack
from ridgeline.run.shared.command import computed
from ridgeline.run.shared.launch import launch

SHARED = True  #: torchrun may run it in several processes, each with its share of the examples


def main(
    *,
    model2load: o.Model2Load,
    network: o.Network,
    machine: o.Machine,
    examples: o.Examples,
    under: UnderAttack,
    spectrum: SpectrumOptions,
    curvature: CurvatureOptions,
    out_file: o.OutFile = None,
) -> None:
    """Eigenpairs with residuals, density with its band, trace with its error; resumes after a kill.

    Every budget of --adv_budget_list and every block gets its own spectrum. Eigenvectors are
    written as directions for scan_param and perturb_param. Runs under torchrun.
    """
    curvature.check_beside(under.attacker, spectrum)
    subject = networks.open_network(model2load, network, "lenet")
    problem = subject.problem(examples.of(subject), under.attacker, machine, curvature.precision)
    recipe = subject.recipe("calc_hessian", problem.images, under.attacker, machine.seed, spectrum,
                            curvature, budgets=under.budgets, epoch=subject.epoch)  # fmt: skip
    path = networks.output_path(out_file, model2load, "hessian")
    cells = cells_of(path, recipe, under.budgets, problem, curvature, spectrum)

    def begin():
        for cell in cells:
            cell.claim(machine.overwrite)
        under.say(problem)

    ds = computed(
        "hessian", path, recipe, lambda _, tick: spectra(cells, problem, tick), total=None,
        begin=begin, beside=lambda: left_of(cells), overwrite=machine.overwrite,
        hessian=curvature.title(any(under.budgets)), checkpoint=model2load,
        estimator=spectrum.estimator,
    )  # fmt: skip
    print(f"{report(ds)}\n{ds.attrs['hessian']}; result in {path}")


if __name__ == "__main__":
    launch(main)
