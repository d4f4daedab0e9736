"""Drawings of learning curves: loss and accuracies of runs over epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ridgeline.analysis.figures.layout import over_epochs, subplots
from ridgeline.analysis.figures.legends import legend, legend_of
from ridgeline.analysis.figures.runs import Look, Metrics, at_budget, line, looks
from ridgeline.analysis.figures.style import COLUMN, PAGE, color_of

_ACCURACIES: dict[str, tuple[str, Look]] = {
    "test_clean_accuracy": ("clean test accuracy", {"ls": "-", "marker": "o"}),
    "test_target_accuracy": ("robust test accuracy", {"ls": "--", "marker": "s"}),
    "train_accuracy": ("training accuracy", {"ls": ":", "marker": "o"}),
}


def draw_runs(metrics: Metrics) -> Figure:
    """Training loss over epochs, and accuracy on test images: clean solid, robust dashed.

    Runs that were never judged on test images show their accuracy on the images of training.
    """
    figure, (loss, accuracy) = subplots(1, 2, figsize=(PAGE, 2.4))
    _draw_loss(metrics, loss, {})
    drawn = set()
    for _, lines, look in looks(metrics):
        judged = [k for k in ("test_clean_accuracy", "test_target_accuracy")
                  if any(k in m for m in lines)]  # fmt: skip
        for key in judged or ["train_accuracy"]:
            line(accuracy, lines, key, **look | _ACCURACIES[key][1])
            drawn.add(key)
    accuracy.set(ylabel="accuracy", ylim=(0, 1.02))
    handles, labels = loss.get_legend_handles_labels()
    for key in _ACCURACIES:
        if key in drawn:
            text, look = _ACCURACIES[key]
            handles.append(Line2D([], [], color="0.3", ms=3, **look))
            labels.append(text + (at_budget(metrics) if key == "test_target_accuracy" else ""))
    over_epochs(accuracy)
    legend_of(figure, handles, labels, most=4)
    return figure


def draw_training(
    metrics: Metrics, axes: Axes | None = None, *, colors: Mapping[str, tuple] | None = None
) -> Figure:
    """Training loss per epoch of several runs, with the level of chance, ln of their classes.

    Runs of data sets with different numbers of classes have no such level in common. Crosses are
    epochs whose network gives all images one class. `colors` fixes those of runs by label.
    """
    axes = axes or subplots(figsize=(COLUMN, 2.4))[1]
    _draw_loss(metrics, axes, colors or {})
    legend(axes)
    return axes.figure


def _draw_loss(metrics: Metrics, axes: Axes, colors: Mapping[str, tuple]) -> None:
    for number, (label, lines) in enumerate(metrics.items()):
        color = colors.get(label) or color_of(label, number)
        axes.plot(*_points(lines), label=label, color=color)
        axes.plot(*_points([m for m in lines if m.get("constant_classifier")]), "x", ms=4,
                  color=color)  # fmt: skip
    classes = {m.get("classes") for lines in metrics.values() for m in lines}
    if len(classes) == 1 and (count := classes.pop()):
        axes.axhline(np.log(count), color="0.6", ls="--", lw=0.8, label=f"chance, ln {count}")
    if any(m.get("constant_classifier") for lines in metrics.values() for m in lines):
        axes.plot([], [], "x", ms=4, color="0.3", label="one class for all images")
    over_epochs(axes)
    axes.set(ylabel="training loss [nat]")


def _points(lines: Sequence[dict]) -> tuple[list, list]:
    return [m["epoch"] for m in lines], [m["train_loss"] for m in lines]
