"""Compare the perturbations that generate_adversary wrote: cosine and sign cosine of every pair."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import xarray as xr

from ridgeline.analysis.perturbations import check_same_examples, similarity_matrix
from ridgeline.landscape.checksum import check_seal
from ridgeline.landscape.result import (
    claim,
    load_result,
    recipe_of,
    result_path,
    save_result,
    stamp,
)
from ridgeline.models import InputError
from ridgeline.run.shared import networks
from ridgeline.run.shared import options as o
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
    ds = claim(out, recipe, overwrite)
    if ds is None:
        ds = similarity_matrix(
            sets, ("train", "test"), only_correct=only_correct, batch_size=batch_size
        )
        save_result(stamp(ds, "similarity", recipe, sets=json.dumps(list(sets))), out)
    for subset in ds["subset"].values:
        for i, a in enumerate(ds["set_a"].values):
            for j, b in list(enumerate(ds["set_b"].values))[i:]:
                row = ds.sel(subset=subset).isel(set_a=i, set_b=j)
                print(
                    f"{subset:5s} {a} / {b}{' (noise floor)' * (i == j)}: "
                    f"cosine {float(row['cosine']):.4f} +- {float(row['cosine_se']):.4f}, "
                    f"sign cosine {float(row['sign_cosine']):.4f} "
                    f"+- {float(row['sign_cosine_se']):.4f}, zero perturbations {row['zeros']:.0f}"
                )
    print(f"result in {out}")


if __name__ == "__main__":
    launch(main)
