"""Per-epoch curves of FastAT Benchmark's `benchmark_data.json` (Pan and Yao, arXiv 2604.22853).

The file maps data set -> method -> `seeds` -> seed -> lists over epochs:

- `train_acc_list`: accuracy on the adversarial training images.
- `val_acc_list` and `pgd_acc_list`: accuracy on 1,000 held-out images, clean and under PGD-10
  (l_inf 8/255, steps of 2/255). The prefix is `model_` for the network and `wa_` for its weight
  average, if it has one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ridgeline.models.errors import InputError, unknown

#: the note that a result has on these curves
NOTE = ("FastAT: PGD-10, l_inf 8/255, on 1,000 held-out images on which the best epoch is chosen "
        "too")  # fmt: skip
_NETWORKS = {"model": "test_", "wa": "test_average_"}  # prefix there -> prefix of metrics


def read_benchmark(
    spec: str, methods: Sequence[str] = ()
) -> tuple[Path, dict[str, list[list[dict]]]]:
    """The file, and the runs of its methods by label, as lines of metrics, one list per seed.

    `spec` is FILE or FILE@DATASET (default: cifar10). `methods` selects methods (empty: all).
    Raises InputError for a file of another kind, and for an unknown data set or method.
    """
    name, _, dataset = spec.partition("@")
    path = Path(name)
    if not path.is_file():
        raise InputError(f"--benchmark: no such file: {path}")
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise _foreign(path, str(error)) from None
    if not isinstance(content, dict) or not all(isinstance(v, dict) for v in content.values()):
        raise _foreign(path, "it does not map data sets to methods")
    dataset = dataset or "cifar10"
    if dataset not in content:
        raise unknown("data set of --benchmark", dataset, content)
    known = content[dataset]
    for method in methods:
        if method not in known:
            raise unknown("--benchmark_methods", method, known)
    return path, {
        f"FastAT {method}": _seeds(path, method, known[method]) for method in methods or known
    }


def _seeds(path: Path, method: str, found: Any) -> list[list[dict]]:
    seeds = found.get("seeds") if isinstance(found, dict) else None
    if not isinstance(seeds, dict) or not seeds:
        raise _foreign(path, f"{method} has no seeds")
    return [_lines(path, f"{method}, seed {seed}", run) for seed, run in sorted(seeds.items())]


def _lines(path: Path, what: str, run: Any) -> list[dict]:
    """The run as lines of metrics, in the format of our own runs."""
    if not isinstance(run, dict):
        raise _foreign(path, f"{what} holds no lists")
    columns = {"train_accuracy": run.get("train_acc_list")}
    for there, here in _NETWORKS.items():
        robust, clean = (run.get(f"{there}_{kind}_acc_list") for kind in ("pgd", "val"))
        if robust or there == "model":
            columns |= {f"{here}target_accuracy": robust, f"{here}clean_accuracy": clean}
    for column, values in columns.items():
        if not isinstance(values, list) or not values or not all(map(_is_share, values)):
            raise _foreign(path, f"{what} lacks shares of 0..1 for {column}")
    if len(lengths := {len(values) for values in columns.values()}) > 1:
        raise _foreign(
            path, f"{what} has lists of {' and '.join(map(str, sorted(lengths)))} epochs"
        )
    (count,) = lengths
    return [
        {"epoch": n + 1, **{column: values[n] for column, values in columns.items()}}
        for n in range(count)
    ]


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _foreign(path: Path, why: str) -> InputError:
    return InputError(f"--benchmark: {path} is not FastAT Benchmark's benchmark_data.json ({why})")
