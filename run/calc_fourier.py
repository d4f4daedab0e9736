"""Sensitivity of a network to every spatial frequency, and its accuracy on filtered images."""

from __future__ import annotations

from typing import Annotated

import xarray as xr

from ridgeline.analysis.frequency.fourier import (
    CUTOFFS,
    distinct_cells,
    fourier_sensitivity,
    pass_curves,
)
from ridgeline.landscape.result import claim, save_result, stamp
from ridgeline.landscape.resume import resumable
from ridgeline.models import InputError
from ridgeline.run.shared import networks
from ridgeline.run.shared import options as o
from ridgeline.run.shared.launch import launch
from ridgeline.train.progress import progress


def main(
    *,
    model2load: o.Model2Load,
    network: o.Network,
    machine: o.Machine,
    subset: o.Subset = "test",
    subset_size: o.SubsetSize = 1000,
    strength: Annotated[float, "l_2 norm of a plane wave per channel, [0,1] units"] = 4.0,
    cutoffs: Annotated[tuple[float, ...], "shares of Nyquist that filters keep"] = CUTOFFS,
    out_file: o.OutFile = None,
) -> None:
    """Fourier heat map (Yin et al. 2019) and low-/high-pass accuracy curves, with errors."""
    if not strength > 0:
        raise InputError(f"--strength must be positive, got {strength:g}")
    if not cutoffs or any(not 0 < c < 1 for c in cutoffs) or sorted(cutoffs) != list(cutoffs):
        raise InputError("--cutoffs needs increasing shares between 0 and 1")
    subject = networks.open_network(model2load, network)
    images = subject.images(subset, subset_size)
    problem = subject.problem(images, None, machine)
    recipe = subject.recipe("calc_fourier", images, None, machine.seed)
    recipe |= {"strength": strength, "cutoffs": list(cutoffs)}
    path = networks.output_path(out_file, model2load, "fourier")
    ds = claim(path, recipe, machine.overwrite)
    if ds is None:
        total = len(images) * (distinct_cells(images.image_shape) + 2 * len(cutoffs))
        with progress(total, "fourier", "image") as bar, resumable(path, recipe) as keep:
            problem = problem.resuming(keep)
            parts = [
                fourier_sensitivity(problem, strength, bar.update),
                pass_curves(problem, cutoffs, bar.update),
            ]
            ds = xr.merge(parts)
            save_result(stamp(ds, "fourier", recipe, checkpoint=model2load), path)
    print(
        f"error rate: clean {float(ds['clean_error']):.3f}, low over high frequencies "
        f"{float(ds['low_high_ratio']):.2f}; half of the accuracy at low-pass "
        f"{float(ds['half_low']):.2f}, high-pass {float(ds['half_high']):.2f}; result in {path}"
    )


if __name__ == "__main__":
    launch(main)
