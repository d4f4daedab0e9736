"""Over several networks: does robustness go with the filters' share of high frequencies?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from ridgeline.analysis.frequency.spectral_bias import (
    MEASURES,
    accuracy_of,
    check_pairs,
    spectral_bias,
)
from ridgeline.analysis.reports import report
from ridgeline.landscape.result import (
    load_result,
    recipe_of,
    result_path,
)
from ridgeline.models import InputError, unknown
from ridgeline.run.shared import options as o
from ridgeline.run.shared.command import computed
from ridgeline.run.shared.launch import launch
from ridgeline.train.data.noise import check_seed

Robust = Annotated[
    tuple[str, ...], "as many results of test_ensemble or test_corruptions, in the same order"
]


def main(
    *,
    spectra: Annotated[tuple[str, ...], "results of calc_filter_spectrum, one per network"],
    robustness: Robust,
    label: Annotated[tuple[str, ...], "one label per network; none: the file names"] = (),
    measure: Annotated[str, "high_share, centroid or entropy"] = "high_share",
    out_file: Annotated[str, "result file (.nc)"] = "spectral_bias.nc",
    overwrite: o.Overwrite = False,
    seed: o.Seed = 0,
) -> None:
    """Spearman's rank correlation with a bootstrap interval over networks."""
    check_seed(seed)
    if measure not in MEASURES:
        raise unknown("--measure", measure, MEASURES)
    names = list(label) or [Path(p).stem for p in spectra]
    if not len(spectra) == len(robustness) == len(names) == len(set(names)):
        raise InputError("--spectra, --robustness and --label must name as many files, each once")
    left = {n: load_result(p, "spectrum") for n, p in zip(names, spectra, strict=True)}
    right = {n: load_result(p) for n, p in zip(names, robustness, strict=True)}
    check_pairs(left, right)
    recipe = {
        "command": "analyze_spectral_bias", "measure": measure, "seed": seed, "names": names,
        "spectra": [recipe_of(ds) for ds in left.values()],
        "robustness": [recipe_of(ds) for ds in right.values()],
    }  # fmt: skip
    path = result_path(out_file)

    def compute(_keep, _tick):
        scores = {n: accuracy_of(r) for n, r in right.items()}
        return spectral_bias(left, scores, measure=measure, seed=seed)

    ds = computed("spectral_bias", path, recipe, compute, overwrite=overwrite)
    print(f"{report(ds)}; result in {path}")


if __name__ == "__main__":
    launch(main)
