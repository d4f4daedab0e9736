"""Spatial-frequency spectrum of the convolution filters of a checkpoint."""

from __future__ import annotations

from typing import Annotated

from ridgeline.analysis.frequency.filters import filter_spectrum, map_sizes
from ridgeline.landscape.result import claim, result_path, save_result, stamp
from ridgeline.run.shared import options as o
from ridgeline.run.shared.launch import launch
from ridgeline.run.shared.networks import output_path
from ridgeline.train.files.checkpoint import load_checkpoint

Initial = Annotated[str | None, "the run's NAME_init.ckpt, whose spectrum is noted beside"]


def main(
    *,
    model2load: o.Model2Load,
    initial: Initial = None,
    out_file: o.OutFile = None,
    overwrite: o.Overwrite = False,
) -> None:
    """Orthonormal DCT-II spectrum per convolution layer with kernels of size 3 or more.

    Layers whose input map is smaller than the kernel are marked: taps there never see data. That
    needs the network, which is known for our own checkpoints only.
    """
    checkpoint = load_checkpoint(model2load)
    before = None if initial is None else load_checkpoint(initial)
    trained = checkpoint.recipe or {}
    recipe = {"command": "calc_filter_spectrum", "checkpoint": checkpoint.sha256,
              "initial": before and before.sha256,
              "epoch": trained.get("epoch", trained.get("epochs"))}  # fmt: skip
    path = result_path(output_path(out_file, model2load, "spectrum"))
    ds = claim(path, recipe, overwrite)
    if ds is None:
        ds = filter_spectrum(
            checkpoint.tensors,
            initial=before and before.tensors,
            sizes=map_sizes(trained.get("model")),
        )
        save_result(stamp(ds, "spectrum", recipe, checkpoint=model2load), path)
    for layer in ds["layer"].values:
        row = ds.sel(layer=layer)
        print(
            f"{layer:40s} K={int(row['kernel_size'])}  high-frequency share "
            f"{float(row['high_share']):.3f} +- {float(row['high_share_se']):.3f} "
            f"(white {float(row['white_high_share']):.3f}"
            + (f", initial {float(row['initial_high_share']):.3f}" if initial else "")
            + f")  centroid {float(row['centroid']):.3f}"
            + ("" if bool(row["seen"]) else "  MAP SMALLER THAN KERNEL")
        )
    print(f"result in {path}")


if __name__ == "__main__":
    launch(main)
