"""Compare the perturbations that generate_adversary wrote: cosine and sign cosine of every pair."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from ridgeline.analysis.perturbations import SimilarityOptions, adversarial_sets, similarity_matrix
from ridgeline.analysis.reports import report
from ridgeline.landscape.result import recipe_of, result_path
from ridgeline.run.shared import options as o
from ridgeline.run.shared.command import computed
from ridgeline.run.shared.launch import launch


def main(
    *,
    folder: Annotated[str, "folder whose adversary files (.nc) are compared"],
    dataset: Annotated[str | None, "refuse files made from another data set; None: any"] = None,
    options: SimilarityOptions,
    out_file: Annotated[str | None, "result file; None: FOLDER/similarity.nc"] = None,
    overwrite: o.Overwrite = False,
) -> None:
    """Mean cosines with standard errors for train and test. The diagonal is the noise floor."""
    sets = adversarial_sets(folder, dataset)
    out = result_path(out_file or Path(folder) / "similarity.nc")
    recipe = {"command": "analyze_adversary", **options.recipe(),
              "sets": {name: recipe_of(ds) for name, ds in sets.items()}}  # fmt: skip

    def compute(_keep, _tick):
        return similarity_matrix(sets, ("train", "test"), **vars(options))

    ds = computed("similarity", out, recipe, compute, overwrite=overwrite,
                  sets=json.dumps(list(sets)))  # fmt: skip
    print(f"{report(ds)}\nresult in {out}")


if __name__ == "__main__":
    launch(main)
