"""Robust overfitting: best and last robust accuracy of runs, and their gap."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xarray as xr

from ridgeline.analysis.training.metrics import read_metrics
from ridgeline.models.errors import InputError
from ridgeline.train.files.recipe import file_digest
from ridgeline.train.statistics import mean_and_interval

#: the columns of the table, one row per run
COLUMNS = ("best_epoch", "best", "last", "gap", "clean_best", "clean_last", "nrr_last")


def nrr(clean: float, robust: float) -> float:
    """Natural-robustness ratio 2 N R / (N + R), the harmonic mean (Gowda et al. 2024, section 4).

    It is 0 if either accuracy is 0, so a network that is always wrong counts in means over seeds.

    >>> nrr(0.9, 0.45), nrr(0.0, 0.0)
    (0.6, 0.0)
    """
    return 2 * clean * robust / (clean + robust) if clean + robust else 0.0


def networks_in(lines: Sequence[dict]) -> list[str]:
    """The networks in a run's metrics: "" for the trained one, then its copies by name."""
    keys = {key for line in lines for key in line}
    tail = "target_accuracy"
    found = {k.removeprefix("test_").removesuffix(tail).rstrip("_") for k in keys
             if k.startswith("test_") and k.endswith(tail)}  # fmt: skip
    return sorted(found)


def course(lines: Sequence[dict], network: str = "", part: str = "test") -> dict[str, np.ndarray]:
    """Robust and clean accuracy of one of a run's networks by epoch; NaN if not evaluated."""
    prefix = f"{part}_{network}_" if network else f"{part}_"
    pick = lambda what: np.array(  # noqa: E731
        [line.get(f"{prefix}{what}_accuracy", np.nan) for line in lines], dtype=float
    )
    return {"robust": pick("target"), "clean": pick("clean")}


def best_and_last(lines: Sequence[dict], network: str = "") -> dict[str, float]:
    """COLUMNS of one run: the best epoch by validation accuracy, all numbers on the test set.

    `gap` = best - last; a positive gap is robust overfitting. Without a validation set the epoch is
    chosen on the test set, which makes `best` too high; `chosen_on_test` says so. Raises InputError
    for metrics without robust accuracy.
    """
    test, val = course(lines, network), course(lines, network, "val")
    judged = np.isfinite(test["robust"])
    if not judged.any():
        raise InputError("the metrics hold no robust test accuracy (test_target_accuracy): "
                         "train with --attack")  # fmt: skip
    on_test = not np.isfinite(val["robust"]).any()
    score = test["robust"] if on_test else val["robust"]
    scored = judged & np.isfinite(score)
    if not scored.any():
        raise InputError("the metrics hold no epoch with both a validation and a test accuracy")
    best = int(np.argmax(np.where(scored, score, -np.inf)))
    last = int(np.flatnonzero(judged)[-1])
    robust, clean = test["robust"], test["clean"]
    return {
        "best_epoch": float(lines[best]["epoch"]), "best": robust[best], "last": robust[last],
        "gap": robust[best] - robust[last], "clean_best": clean[best], "clean_last": clean[last],
        "nrr_last": nrr(clean[last], robust[last]), "chosen_on_test": float(on_test),
    }  # fmt: skip


def recovery(lines: Sequence[dict], share: float = 0.99) -> np.ndarray:
    """Epochs after each forgetting until robust accuracy is `share` of its value before.

    1 is the first epoch after forgetting. NaN if the accuracy does not come back before the next
    forgetting, or was never evaluated. Epochs without evaluation (--eval_freq) are skipped: the
    value before is the last one evaluated. The phases are those in FOMO's metrics. Empty for other
    runs.
    """
    robust = course(lines)["robust"]
    phases = [line.get("phase") for line in lines]
    cycles = [line.get("cycle", 0) for line in lines]
    starts = [n for n in range(1, len(lines))
              if phases[n] == "relearn" and (cycles[n] != cycles[n - 1])]  # fmt: skip
    found = []
    for n, start in enumerate(starts):
        end = starts[n + 1] if n + 1 < len(starts) else len(lines)
        judged = robust[:start][np.isfinite(robust[:start])]
        before = judged[-1] if len(judged) else math.nan
        back = np.flatnonzero(robust[start:end] >= share * before)
        found.append(float(back[0] + 1) if len(back) else math.nan)
    return np.array(found)


class Runs(NamedTuple):
    """Metrics of runs: the label of each, its lines, and the digest of its file."""

    labels: list[str]
    lines: list[Sequence[dict]]
    digests: list[str]

    def by_label(self) -> dict[str, list[Sequence[dict]]]:
        """The lines of every run of a label."""
        found: dict[str, list[Sequence[dict]]] = {}
        for label, lines in zip(self.labels, self.lines, strict=True):
            found.setdefault(label, []).append(lines)
        return found

    def recoveries(self) -> str:
        """A line for every run that forgets: after how many epochs its accuracy was back."""
        text = ""
        for label, lines in zip(self.labels, self.lines, strict=True):
            epochs = ", ".join(f"{e:g}" for e in recovery(lines))
            text += f"{label}: epochs to regain 99 % after forgetting: {epochs}\n" * bool(epochs)
        return text


def load_runs(metrics: Sequence[str], label: Sequence[str]) -> Runs:
    """The runs in metrics files, with their labels (or file names if there are no labels).

    Raises InputError for a run that is not finished, and for a run that is given twice.
    """
    paths = [Path(p) for p in metrics]
    names = list(label) or [p.stem for p in paths]
    if not paths or len(names) != len(paths):
        raise InputError("--metrics needs at least one file and --label one label per file")
    for path in paths:
        if path.with_suffix(".state").exists():
            raise InputError(f"{path} is of a run that is not finished; run its command again")
    lines = [read_metrics(p) for p in paths]
    digests = [file_digest(p) for p in paths]
    if len(set(zip(names, digests, strict=True))) < len(digests):
        raise InputError("--metrics names one run twice under one label: that is one seed")
    return Runs(names, lines, digests)


def overfitting(runs: Mapping[str, Sequence[Sequence[dict]]]) -> xr.Dataset:
    """Best, last and gap of methods with several seeds, and their curves by epoch.

    `runs` has the metrics of every seed by method. Each network of a run has its own `label`, such
    as "FOMO (stable)". Dims: label, seed, epoch (from 1). Per method there is the mean over seeds
    of every column, and the half width `_ci` of its 95 % t interval (NaN for one seed).
    """
    cases: dict[str, list[tuple[Sequence[dict], str]]] = {}
    for label, seeds in runs.items():
        for lines in seeds:
            for network in networks_in(lines) or [""]:
                name = f"{label} ({network})" if network else label
                cases.setdefault(name, []).append((lines, network))
    count = max(len(case) for case in cases.values())
    epochs = sorted({line["epoch"] for case in cases.values() for lines, _ in case
                     for line in lines})  # fmt: skip
    place = {epoch: n for n, epoch in enumerate(epochs)}
    table = {c: np.full((len(cases), count), np.nan) for c in (*COLUMNS, "chosen_on_test")}
    curves = {c: np.full((len(cases), count, len(epochs)), np.nan)
              for c in ("robust", "clean", "robust_train")}  # fmt: skip
    for m, case in enumerate(cases.values()):
        for s, (lines, network) in enumerate(case):
            for column, value in best_and_last(lines, network).items():
                table[column][m, s] = value
            at = [place[line["epoch"]] for line in lines]
            for name, values in course(lines, network).items():
                curves[name][m, s, at] = values
            if not network:  # only the trained network has accuracies on training images
                curves["robust_train"][m, s, at] = [line["train_accuracy"] for line in lines]
    ds = xr.Dataset(
        {
            **{f"{c}_by_seed": (("label", "seed"), v) for c, v in table.items()},
            **{c: (("label", "seed", "epoch"), v) for c, v in curves.items()},
        },
        coords={"label": list(cases), "epoch": epochs},
    )
    for column in COLUMNS:
        seeds = zip(table[column], cases.values(), strict=True)
        mean, half = zip(*(mean_and_interval(row[: len(case)]) for row, case in seeds), strict=True)
        ds[column], ds[f"{column}_ci"] = ("label", list(mean)), ("label", list(half))
    return ds
