"""Spatial-frequency spectrum of the convolution filters of a checkpoint."""

from __future__ import annotations

from typing import Annotated

from ridgeline.analysis.frequency.filters import filter_spectrum, map_sizes
from ridgeline.analysis.reports import report
from ridgeline.landscape.result import result_path
from ridgeline.run.shared import options as o
from ridgeline.run.shared.command import computed
from ridgeline.run.shared.launch import launch
from ridgeline.run.shared.networks import output_path
from ridgeline.train.files.checkpoint import load_checkpoint

Initial = Annotated[str | None, "the run's NAME_init.ckpt, to record its spectrum too"]


def main(
    *,
    model2load: o.Model2Load,
    initial: Initial = None,
    out_file: o.OutFile = None,
    overwrite: o.Overwrite = False,
) -> None:
    """Orthonormal DCT-II spectrum per convolution layer with kernels of size 3 or more.

    Layers whose input map is smaller than the kernel are marked: some of their weights never see
    data. This needs the network, which is known only for our own checkpoints.
    """
    checkpoint = load_checkpoint(model2load)
    before = None if initial is None else load_checkpoint(initial)
    trained = checkpoint.recipe or {}
    recipe = {"command": "calc_filter_spectrum", "checkpoint": checkpoint.sha256,
              "initial": before and before.sha256,
              "epoch": trained.get("epoch", trained.get("epochs"))}  # fmt: skip
    path = result_path(output_path(out_file, model2load, "spectrum"))

    def compute(_keep, _tick):
        initial_tensors = before and before.tensors
        sizes = map_sizes(trained.get("model"))
        return filter_spectrum(checkpoint.tensors, initial=initial_tensors, sizes=sizes)

    ds = computed("spectrum", path, recipe, compute, overwrite=overwrite, checkpoint=model2load)
    print(f"{report(ds)}\nresult in {path}")


if __name__ == "__main__":
    launch(main)
