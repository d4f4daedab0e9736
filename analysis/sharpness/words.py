"""Sharpness in words: the lines that commands print."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import xarray as xr


def sharpness(ds: xr.Dataset) -> Iterator[str]:
    """Every measure of every loss with its error and cost; * marks invariant measures."""
    columns = [(str(loss), str(way)) for loss in ds["loss"].values for way in ds["logits"].values]
    width = max(len(str(m)) for m in ds["measure"].values) + 2
    yield f"{'':{width}s}" + "".join(f"{f'{loss}, {way}':>26s}" for loss, way in columns)
    for name in ds["measure"].values:
        row = ds.sel(measure=name)
        star = " *" if bool(row["invariant"]) else ""
        cells = [_number(row.sel(loss=loss, logits=way)) for loss, way in columns]
        yield _line(str(name) + star, cells, width) + f"   error over {row['over'].item() or '-'}"
    means = [float(ds["mean_loss"].sel(loss=loss, logits=way)) for loss, way in columns]
    yield _line("mean loss", [f"{mean:.4g}" for mean in means], width)
    total = {n: float(ds[n].sum()) for n in ("forward", "backward", "seconds")}
    yield (f"{total['forward']:.0f} forward and {total['backward']:.0f} backward passes over "
           f"{ds.sizes['example']} examples, {total['seconds']:.0f} s; * does not change when ReLU "
           "layers are rescaled")  # fmt: skip
    yield from _besides(ds)


def _besides(ds: xr.Dataset) -> Iterator[str]:
    """The gap, the boundary, and the classes along the eigenvectors, if they were computed."""
    if "gap" in ds:
        for loss in ds["loss"].values:
            row = ds.sel(loss=loss)
            yield (f"{loss} loss: gap to test images {float(row['gap']):.4g} +- "
                   f"{float(row['gap_se']):.2g}, accuracy {float(row['accuracy']):.4f}, test "
                   f"{float(row['test_accuracy']):.4f}")  # fmt: skip
    if "boundary_distance" in ds:
        for name in ds["direction"].values:
            found = ds["boundary_distance"].sel(direction=name).values
            yield (f"boundary along {name}: median {np.median(found):.3g} budgets, within the "
                   f"budget {(found <= 1).mean():.3f}, "
                   f"never {np.isinf(found).mean():.3f}")  # fmt: skip
    if "spike_change" in ds:
        changes = ds["spike_change"].mean("side")
        for spike in ds["spike"].values:
            value = float(ds["spike_eigenvalue"].sel(spike=spike))
            yield (f"spike {spike:3d}, lambda {value:9.4g}: accuracy by class "
                   + " ".join(f"{v:+.2f}" for v in changes.sel(spike=spike).values))  # fmt: skip


def _line(name: str, cells: list[str], width: int) -> str:
    return f"{name:{width}s}" + "".join(f"{cell:>26s}" for cell in cells)


def _number(cell: xr.Dataset) -> str:
    value, error = float(cell["value"]), float(cell["se"])
    if np.isnan(value):
        return "-"
    return f"{value:.4g} +- {error:.2g}" if np.isfinite(error) else f"{value:.4g}"


def ranking(ds: xr.Dataset) -> Iterator[str]:
    """Every measure's tau with its interval, the best in the first line."""
    rows = ds["tau"].stack(cell=("measure", "loss", "logits")).dropna("cell")
    rows = rows.sortby(-abs(rows))
    yield f"Kendall's tau with the {ds['gap'].attrs['long_name']}, {ds.sizes['network']} networks"
    for cell in rows["cell"].values:
        here = ds.sel(dict(zip(("measure", "loss", "logits"), cell, strict=True)))
        yield (f"{cell[0]:24s} {cell[1]:7s} {cell[2]:10s} {float(here['tau']):+.2f} "
               f"[{float(here['tau_low']):+.2f}, {float(here['tau_high']):+.2f}]")  # fmt: skip


def pairs(ds: xr.Dataset) -> Iterator[str]:
    """The measures of every pair."""
    names = [str(n) for n in ds["network_a"].values]
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            row = ds.sel(network_a=a, network_b=b)
            yield (f"{a} / {b}: distance {float(row['distance']):.4g}, cosine "
                   f"{float(row['cosine']):.3f} +- {float(row['cosine_se']):.2g}, barrier "
                   f"{float(row['barrier']):.4g}, CKA {float(row['cka']):.3f}")  # fmt: skip


#: kind of result -> its lines of text
REPORTS: dict[str, Callable[[xr.Dataset], Iterator[str]]] = {
    "sharpness": sharpness,
    "ranking": ranking,
    "pairs": pairs,
}
