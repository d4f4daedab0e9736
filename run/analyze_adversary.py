"""Compare the perturbations that generate_adversary wrote: cosine and sign cosine of every pair."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import xarray as xr

from ridgeline.analysis.perturbations import check_same_examples, similarity_matrix
from ridgeline.analysis.reports import report
from ridgeline.landscape.checksum import check_seal
from ridgeline.landscape.result import (
    load_result,
    recipe_of,
    result_path,
)
from ridgeline.models import InputError
from ridgeline.run.shared import networks
from ridgeline.run.shared import options as o
from ridgeline.run.shared.command import computed
from ridgeline.run.shared.launch import launch


def main(
    *,
    folder: Annotated[str, "folder whose adversary files (.nc) are compared"],
    dataset: Annotated[str | None, "refuse files made from another data set; None: any"] = None,
    batch_size: Annotated[int, "examples in memory at a time"] = 1000,
    only_correct: Annotated[bool, "leave out images that a network gets wrong clean"] = False,
    out_file: Annotated[str | None, "result file; None: FOLDER/similarity.nc"] = None,
    overwrite: o.Overwrite = False,
) -> None:
    """Mean cosines with standard errors for train and test; the diagonal is the noise floor."""
    networks.positive(batch_size=batch_size)
    if not Path(folder).is_dir():
        raise InputError(f"--folder: no such folder: {folder}")
    sets: dict[str, xr.Dataset] = {}
    for path in sorted(Path(folder).glob("*.nc")):
        check_seal(path)
        with xr.open_dataset(path, engine="h5netcdf") as header:
            kind = header.attrs.get("kind")
        if kind == "adversaries":
            large = path.stat().st_size > 2**28
            sets[path.stem.removesuffix("_adversaries")] = load_result(path, lazy=large)
    if not sets:
        raise InputError(f"--folder: {folder} holds no result of generate_adversary (*.nc)")
    recipes = {name: recipe_of(ds) for name, ds in sets.items()}
    for name, recipe in recipes.items():
        made_from = recipe["data"]["dataset"]
        if dataset is not None and made_from != dataset:
            raise InputError(f"--dataset {dataset}: {name} was made from {made_from}")
    check_same_examples(sets)
    out = result_path(out_file or Path(folder) / "similarity.nc")
    recipe = {"command": "analyze_adversary", "sets": recipes, "only_correct": only_correct}

    def compute(_keep, _tick):
        options = {"only_correct": only_correct, "batch_size": batch_size}
        return similarity_matrix(sets, ("train", "test"), **options)

    ds = computed("similarity", out, recipe, compute, overwrite=overwrite,
                  sets=json.dumps(list(sets)))  # fmt: skip
    print(f"{report(ds)}\nresult in {out}")


if __name__ == "__main__":
    launch(main)
