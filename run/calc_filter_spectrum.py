"""Spatial-frequency spectrum of the convolution filters of a checkpoint."""

from __future__ import annotations

import options as o
from build import output_path
from launch import launch

from analysis.filters import filter_spectrum
from landscape.result import claim, result_path, save_result, stamp
from train.checkpoint import load_checkpoint


def main(
    *, model2load: o.Model2Load, out_file: o.OutFile = None, overwrite: o.Overwrite = False
) -> None:
    """Orthonormal DCT-II spectrum per convolution layer with kernels of size 3 or more."""
    checkpoint = load_checkpoint(model2load)
    recipe = {"command": "calc_filter_spectrum", "checkpoint": checkpoint.sha256}
    path = result_path(output_path(out_file, model2load, "spectrum"))
    ds = claim(path, recipe, overwrite)
    if ds is None:
        ds = stamp(filter_spectrum(checkpoint.tensors), "spectrum", recipe, checkpoint=model2load)
        save_result(ds, path)
    for layer in ds["layer"].values:
        row = ds.sel(layer=layer)
        print(
            f"{layer:40s} K={int(row['kernel_size'])}  high-frequency share "
            f"{float(row['high_share']):.3f} +- {float(row['high_share_se']):.3f} "
            f"(white {float(row['white_high_share']):.3f})  centroid {float(row['centroid']):.3f}"
        )
    print(f"result in {path}")


if __name__ == "__main__":
    launch(main)
