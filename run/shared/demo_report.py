"""The output of the demo: its figures and its summary table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import xarray as xr

from ridgeline.analysis.distances import parameter_distance
from ridgeline.analysis.figures import draw
from ridgeline.analysis.figures.frequency import draw_filters
from ridgeline.analysis.figures.learning import draw_training
from ridgeline.analysis.figures.overview import overview, table
from ridgeline.analysis.figures.style import save_figure, style
from ridgeline.run.shared.origin import origin
from ridgeline.train.files.checkpoint import load_checkpoint

Results = Mapping[str, "xr.Dataset"]
LABELS = {"plain_init": "initial", "constant": "PGD constant"}


def labelled(entries: Mapping[str, object]) -> dict:
    """The demo's networks with their names in figures."""
    return {LABELS.get(name, name): entry for name, entry in entries.items()}


#: figure -> the files of the demo that it uses; the overview uses all
SOURCES = {
    "eigenvalues": ("hessian_*.nc",), "surface": ("surface_*.nc",), "curve": ("curve_scan.nc",),
    "similarity": ("similarity.nc",), "spectrum": ("spectrum_*.nc",),
    "filters": ("spectrum_*.nc",),
}  # fmt: skip


def draw_figures(
    folder: Path,
    kept: Path,
    metrics: Mapping[str, list[dict]],
    eigen: Mapping[tuple[str, float], xr.Dataset],
    surfaces: Results,
    eps: float,
    curve: xr.Dataset,
    similarity: xr.Dataset,
    spectra: Results,
    accuracy: Results,
) -> None:
    """Draw every figure and the overview from files in the folder `kept`."""
    runs = tuple(f"{name}.jsonl" for name in metrics)
    sources = {**SOURCES, "training": runs, "overview": ("*.nc", *runs)}
    lines = {f"{n}, {f'ε = {e:g}' if e else 'clean'}": ds for (n, e), ds in eigen.items()}
    metrics, spectra, accuracy = labelled(metrics), labelled(spectra), labelled(accuracy)
    figures = {
        "eigenvalues": draw(lines),
        "surface": draw(surfaces),
        "curve": draw({"": curve}),
        "similarity": draw({"": similarity}),
        "spectrum": draw(spectra),
    }
    with style():
        figures["filters"] = draw_filters(spectra)
        figures["training"] = draw_training(metrics)
        figures["overview"] = overview(
            metrics, accuracy, lines, surfaces, eps, curve, similarity, spectra
        )
        for name, figure in figures.items():
            files = sorted({p for pattern in sources[name] for p in kept.glob(pattern)})
            save_figure(figure, folder / name, origin(files))


def summary(
    folder: Path,
    budgets: tuple[float, float],
    eigen: Mapping[tuple[str, float], xr.Dataset],
    spectra: Results,
    accuracy: Results,
    curve: xr.Dataset,
) -> str:
    """The summary table, and how reliable its numbers are."""
    probe, eps = budgets
    rows = []
    for name, ds in accuracy.items():
        start, end = (load_checkpoint(folder / f"{n}.ckpt") for n in (f"{name}_init", name))
        distance = float(parameter_distance(start.tensors, end.tensors)["total_distance"])
        pairs = [eigen.get((name, e)) for e in (0.0, probe, eps)]
        share = f"{float(spectra[name]['high_share'][0]):.3f}" if name in spectra else "-"
        rows.append(
            [
                LABELS.get(name, name),
                *(f"{100 * float(v):.1f}" for v in ds["accuracy"]),
                *(f"{float(v):.3f}" for v in ds["loss"]),
                *("-" if p is None else f"{float(p['eigenvalue'][0]):.3g}" for p in pairs),
                share,
                f"{distance:.2f}",
            ]
        )
    header = ["network", "clean %", "PGD-40 %", "loss", f"loss {eps:g}", "λ1 clean"]
    header += [f"λ1 {probe:g}", f"λ1 {eps:g}", "conv1 HF", "from init"]
    count = next(iter(accuracy.values())).sizes["example"]
    relative = [ds["residual"] / abs(ds["eigenvalue"]) for ds in eigen.values()]
    worst = np.max(np.concatenate([r.values.ravel() for r in relative]))  # NaN if any is NaN
    rise = curve["barrier"].sel(subset="test")
    return "\n".join(
        [
            table(header, rows),
            f"accuracy and loss: {count} test images, clean and under PGD-40 at eps {eps:g}; "
            f"λ1: training images, frozen at eps 0, {probe:g}, {eps:g}; "
            f"largest relative residual {worst:.0e}",
            f"barrier between the PAS minima at eps {eps:g} (test): "
            f"straight line {float(rise.sel(path='line')):.3f}, "
            f"Bezier curve {float(rise.sel(path='curve')):.3f} nat",
        ]
    )
