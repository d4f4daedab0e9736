"""Interactive plots by epoch: what runs' metrics say, and landscapes along a run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np

from ridgeline.analysis.page.sources import Source
from ridgeline.analysis.page.traces import Plot, axes, line, looks, names

_KEY = re.compile(r"(train|val|test)_(?:(\w+?)_)??(?:(clean|target|scheduled)_)?(loss|accuracy)")
_TICKS = 8  # labels along the epochs, about
_DASH = {"test": "solid", "train": "dot", "val": "dash"}
_SETS = "Test images solid, training images dotted, validation images dashed."
_UNITS = {"loss": "loss [nat]", "accuracy": "accuracy [%]"}
_IMAGES = {"clean": "clean images", "target": "attacked images",
           "scheduled": "images attacked at the budget of the epoch"}  # fmt: skip
#: metrics besides loss and accuracy: their keys, title of the plot, axis
_BESIDE = (
    (("gradient_norm_clean", "gradient_norm_target"),
     "Norm of the gradient of the loss by the weights: clean images dotted, attacked ones solid",
     "gradient norm [nat]"),
    (("lr",), "Learning rate", "learning rate"),
    (("eps",), "Budget ε of the attack in training", "ε, in units of the pixel range"),
)  # fmt: skip


def metrics(sources: Sequence[Source]) -> Iterator[Plot]:
    """Losses and accuracies of runs, clean and attacked, a colour per run; then what else changed.

    Copies that a run carries, as averages, are runs of their own.
    """
    for images in _IMAGES:
        for measure, unit in _UNITS.items():
            lines = list(_lines(sources, images, measure))
            if lines:
                yield Plot(f"{measure.capitalize()} on {_IMAGES[images]} by epoch. {_SETS}", lines,
                           _by_epoch(lines, unit), names(sources))  # fmt: skip
    for keys, title, unit in _BESIDE:
        lines = [
            line(_epochs(s), _values(s, key), s.name, number,
                 dash="dot" if key.endswith("clean") else "solid")
            for number, s in _looks(sources) for key in keys if _changes(s, key)
        ]  # fmt: skip
        if lines:
            yield Plot(f"{title}.", lines, _by_epoch(lines, unit), names(sources))


def _looks(sources: Sequence[Source]) -> Iterator[tuple[int, Source]]:
    """The results with the numbers of their looks."""
    return zip(looks([s.rank for s in sources]), sources, strict=True)


def _by_epoch(lines: Sequence[dict], unit: str) -> dict:
    """Axes over epochs, which are whole numbers."""
    layout = axes("epoch", unit)
    last = max((x for drawn in lines for x in drawn["x"]), default=1)
    layout["xaxis"]["dtick"] = max(1, round(last / _TICKS))
    return layout


def _lines(sources: Sequence[Source], images: str, measure: str) -> Iterator[dict]:
    found = [(source, match) for source in sources
             for key in dict.fromkeys(k for row in source.lines for k in row)
             if (match := _KEY.fullmatch(key)) and match[4] == measure]  # fmt: skip
    # of all plots alike: the runs first, then the copies that they carry
    every = dict.fromkeys([*((s.name, "", s.rank) for s in sources),
                           *((s.name, m[2] or "", s.rank) for s, m in found)])  # fmt: skip
    numbers = dict(zip(every, looks([rank for _, _, rank in every]), strict=True))
    for source, match in found:
        key, kept, copy = match[0], match[3], match[2] or ""
        if kept is None:  # of training: the images it saw
            kept = "target" if "eps" in source.lines[-1] else "clean"
        if kept != images or (kept == "scheduled" and _repeats(source, key)):
            continue
        name = f"{source.name}, {copy.replace('_', ' ')}" if copy else source.name
        scale = 100 if measure == "accuracy" else 1
        yield line(_epochs(source), scale * _values(source, key), name,
                   numbers[source.name, copy, source.rank], dash=_DASH[match[1]])  # fmt: skip


def _repeats(source: Source, key: str) -> bool:
    """Whether the budget of the epoch was the attack's own all along."""
    return bool(np.array_equal(_values(source, key),
                               _values(source, key.replace("scheduled", "target")),
                               equal_nan=True))  # fmt: skip


def _changes(source: Source, key: str) -> bool:
    """Whether a run has a number at all; learning rate and budget only where they change."""
    values = _values(source, key)
    known = values[np.isfinite(values)]
    return known.size > 0 and (key not in ("lr", "eps") or bool(np.ptp(known) > 0))


def _epochs(source: Source) -> np.ndarray:
    return np.array([row["epoch"] for row in source.lines])


def _values(source: Source, key: str) -> np.ndarray:
    held = [row.get(key) for row in source.lines]
    return np.array([float(v) if isinstance(v, (int, float)) else np.nan for v in held])


def trajectories(sources: Sequence[Source]) -> Iterator[Plot]:
    """Curvature, accuracy and flatness by epoch, a colour per run."""
    for variables, title, unit, dim in (
        ({"lambda_max": "solid"}, "Largest eigenvalue λ_max of the Hessian", "λ_max [nat]",
         "epoch"),
        ({"trace": "solid"}, "Trace of the Hessian, with its standard error", "trace [nat]",
         "epoch"),
        ({"robust_test": "solid", "robust_train": "dot"},
         "Robust accuracy: test images solid, training images dotted", "accuracy [%]",
         "every_epoch"),
        ({"flatness": "solid", "sharpness": "dot"},
         "Rise of the loss along random directions (solid) and along the steepest one (dotted)",
         "rise of the loss [nat]", "epoch"),
    ):  # fmt: skip
        scale = 100 if "%" in unit else 1
        lines = [
            line(s.result[dim], scale * s.result[name], s.name, number, s.result.get(f"{name}_se"),
                 dash)
            for number, s in _looks(sources) for name, dash in variables.items()
            if name in s.result
        ]  # fmt: skip
        if lines:
            yield Plot(f"{title}, by epoch.", lines, _by_epoch(lines, unit), names(sources))
