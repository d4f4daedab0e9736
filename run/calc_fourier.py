"""Sensitivity of a network to every spatial frequency, and its accuracy on filtered images."""

from __future__ import annotations

from ridgeline.analysis.frequency.fourier import (
    FourierOptions,
    distinct_cells,
    fourier_sensitivity,
    pass_curves,
)
from ridgeline.analysis.reports import report
from ridgeline.run.shared import networks
from ridgeline.run.shared import options as o
from ridgeline.run.shared.command import computed
from ridgeline.run.shared.launch import launch


def main(
    *,
    model2load: o.Model2Load,
    network: o.Network,
    machine: o.Machine,
    examples: o.Examples = o.TEST_1000,
    options: FourierOptions,
    out_file: o.OutFile = None,
) -> None:
    """Fourier heat map (Yin et al. 2019) and low-/high-pass accuracy curves, with errors."""
    subject = networks.open_network(model2load, network)
    images = examples.of(subject)
    problem = subject.problem(images, None, machine)
    recipe = subject.recipe("calc_fourier", images, None, machine.seed, options)

    def compute(keep, tick):
        kept = problem.resuming(keep)
        waves = fourier_sensitivity(kept, options.strength, tick)
        return waves.merge(pass_curves(kept, options.cutoffs, tick))

    path = networks.output_path(out_file, model2load, "fourier")
    total = len(images) * (distinct_cells(images.image_shape) + 2 * len(options.cutoffs))
    ds = computed("fourier", path, recipe, compute, overwrite=machine.overwrite, total=total,
                  checkpoint=model2load)  # fmt: skip
    print(f"{report(ds)}; result in {path}")


if __name__ == "__main__":
    launch(main)
