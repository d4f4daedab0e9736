"""Reports on how reliable robust accuracies are."""

from __future__ import annotations

from collections.abc import Iterator

import xarray as xr

from ridgeline.analysis.masking import SIGNS


def trust(ds: xr.Dataset) -> Iterator[str]:
    """The results of `--also`: how reliable the robust accuracies are."""
    if "masking_warning" in ds:
        signs = [s for s in ds["sign"].values if bool(ds["masking_warning"].sel(sign=s))]
        for sign in signs:
            value = float(ds["masking_value"].sel(sign=sign))
            yield f"WARNING, gradients may be masked: {SIGNS[sign].format(value=value)}"
        if not signs:
            yield f"no sign of masked gradients among {ds.sizes['sign']}"
    if "convergence_gap" in ds:
        weakest = ds["search"].values[int(ds["search_accuracy"].values.argmin())]
        least = float(ds["search_accuracy"].min())
        yield (f"convergence gap {float(ds['convergence_gap']):.4f}; the strongest alone, "
               f"{weakest}, leaves {least:.4f}")  # fmt: skip
    if "transfer_accuracy" in ds:
        yield "accuracy of each target (across) on the images made for each source (down)"
        for source in ds["source"].values:
            row = ds["transfer_accuracy"].sel(source=source).values
            yield f"{source:3d}  " + "  ".join(f"{value:.4f}" for value in row)
    if "ece" in ds:
        for condition in ds["condition"].values:
            yield f"{condition:11s} ECE {float(ds['ece'].sel(condition=condition)):.4f}"
    if "class_accuracy" in ds:
        for condition in ds["condition"].values:
            row = ds["class_accuracy"].sel(condition=condition).values
            yield f"{condition:11s} by class " + " ".join(f"{value:.3f}" for value in row)
