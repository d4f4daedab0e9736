"""Metrics of training runs, and results of one run in the order of its epochs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xarray as xr

from ridgeline.landscape.result import recipe_of
from ridgeline.models.errors import InputError


def runs_by_epoch(results: Mapping[str, xr.Dataset]) -> dict[str, list[tuple[int, xr.Dataset]]]:
    """Results by run: labels NAME_10 and NAME_20 are epochs 10 and 20 of the run NAME.

    Raises InputError for a result whose recipe records no epoch.
    """
    runs: dict[str, list[tuple[int, xr.Dataset]]] = {}
    for label, ds in results.items():
        epoch = recipe_of(ds).get("epoch")
        if epoch is None:
            raise InputError(f"{label}: --against epoch needs a checkpoint that records its epoch")
        run = re.sub(rf"[ _-]*(?<!\d){epoch}(?!\d)", "", label).strip(" _-") or "run"
        runs.setdefault(run, []).append((epoch, ds))
    for points in runs.values():
        points.sort(key=lambda point: point[0])
    return runs


def read_metrics(path: Path) -> list[dict]:
    """The lines of a metrics file. Raises InputError if it is missing, empty or malformed.

    Every line has an `epoch`. Losses, accuracies and values per tensor must be numbers.
    """
    if not path.is_file():
        raise InputError(f"no such metrics file: {path}")
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
    except ValueError as error:
        raise InputError(f"{path} is not a metrics file ({error})") from None
    if not lines or not all(isinstance(line, dict) and "epoch" in line for line in lines):
        raise InputError(f"{path} is not a metrics file: its lines need an epoch each")
    for place, line in enumerate(lines, start=1):
        for key, value in {"train_loss": None, "train_accuracy": None, **line}.items():
            if not _fits(key, value):
                raise InputError(
                    f"{path} is not a metrics file: line {place} has {key} {json.dumps(value)}"
                )
    epochs = [int(line["epoch"]) for line in lines]
    if epochs != list(range(1, len(lines) + 1)):
        raise InputError(f"{path} does not hold every epoch from 1 on, once and in order")
    return lines


def best_epoch(path: Path) -> dict:
    """The line of the epoch with the best validation accuracy (the first of equal ones).

    Raises InputError for metrics without a validation set.
    """
    judged = [line for line in read_metrics(path) if "val_clean_accuracy" in line]
    if not judged:
        raise InputError(f"{path} holds no accuracy on a validation set (val_clean_accuracy)")
    return max(judged, key=lambda line: line["val_clean_accuracy"])


def _fits(key: str, value: Any) -> bool:
    """Whether a value of the metrics has the type that its key requires."""
    if key == "epoch":
        return _is_number(value) and float(value).is_integer()
    if key.endswith("_accuracy"):
        return _is_number(value) and 0 <= value <= 1
    if isinstance(value, dict):
        return all(map(_is_number, value.values()))
    return _is_number(value) or not key.endswith("_loss")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
