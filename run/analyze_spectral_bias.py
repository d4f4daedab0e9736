"""Rank correlation of robustness with the filters' share of high frequencies."""

from __future__ import annotations

from typing import Annotated

from ridgeline.analysis.frequency.spectral_bias import (
    BiasOptions,
    accuracy_of,
    load_pairs,
    spectral_bias,
)
from ridgeline.analysis.reports import report
from ridgeline.landscape.result import recipe_of, result_path
from ridgeline.run.shared import options as o
from ridgeline.run.shared.command import computed
from ridgeline.run.shared.launch import launch

Robust = Annotated[
    tuple[str, ...], "as many results of test_ensemble or test_corruptions, in the same order"
]


def main(
    *,
    spectra: Annotated[tuple[str, ...], "results of calc_filter_spectrum, one per network"],
    robustness: Robust,
    label: Annotated[tuple[str, ...], "one label per network; none: the file names"] = (),
    options: BiasOptions,
    out_file: Annotated[str, "result file (.nc)"] = "spectral_bias.nc",
    overwrite: o.Overwrite = False,
) -> None:
    """Spearman's rank correlation with a bootstrap interval over networks."""
    pairs = load_pairs(spectra, robustness, label)
    recipe = {
        "command": "analyze_spectral_bias", **options.recipe(), "names": list(pairs.spectra),
        "spectra": [recipe_of(ds) for ds in pairs.spectra.values()],
        "robustness": [recipe_of(ds) for ds in pairs.robustness.values()],
    }  # fmt: skip
    path = result_path(out_file)

    def compute(_keep, _tick):
        scores = {name: accuracy_of(ds) for name, ds in pairs.robustness.items()}
        return spectral_bias(pairs.spectra, scores, **vars(options))

    ds = computed("spectral_bias", path, recipe, compute, overwrite=overwrite)
    print(f"{report(ds)}; result in {path}")


if __name__ == "__main__":
    launch(main)
