"""Drawings of training runs from their metrics: gradients, attacks, trade-offs, costs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ridgeline.analysis.figures.layout import over_epochs, subplots
from ridgeline.analysis.figures.legends import legend_of
from ridgeline.analysis.figures.magnitudes import draw_penalty
from ridgeline.analysis.figures.style import COLUMN, PAGE, PALETTE, line_of, pt
from ridgeline.analysis.training.overfitting import best_and_last, course, networks_in
from ridgeline.models.errors import InputError

#: metrics of runs by label
Metrics = Mapping[str, Sequence[dict]]
Look = dict[str, object]


def draw_gradients(metrics: Metrics) -> Figure:
    """Norm of the loss gradient by the weights over epochs, clean and robust, a colour per run.

    Robust: under the attack of the evaluation solid, under the budget of the epoch dotted.
    """
    _needs(metrics, "gradient_norm_clean", "--gradient_size")
    figure, (clean, robust) = subplots(1, 2, figsize=(PAGE, 2.4), sharey=True)
    for label, lines, look in looks(metrics):
        line(clean, lines, "gradient_norm_clean", label=label, **look)
        line(robust, lines, "gradient_norm_target", label=label, **look)
        line(robust, lines, "gradient_norm_scheduled", **{**look, "ls": ":"})
    clean.set(title="clean loss", ylabel="norm of the weights' gradient [nat]", yscale="log")
    robust.set(title="robust loss (at the epoch's budget dotted)")
    return _finish(figure, clean, robust)


def draw_magnitudes(metrics: Metrics) -> Figure:
    """Mean |gradient| of the last convolution of every stage over epochs, a colour per run.

    Of the robust loss on fixed training images (Gowda et al. 2024, figure 6a); networks without
    such stages show up to four of the weights that all runs have.
    """
    _needs(metrics, "gradient_magnitude", "--gradient_size")
    held = [next(m["gradient_magnitude"] for m in lines if "gradient_magnitude" in m)
            for lines in metrics.values()]  # fmt: skip
    shared = [n for n in held[0] if n.endswith("weight") and all(n in h for h in held)]
    if not shared:
        raise InputError("these runs share no weights by name: draw them one by one")
    stages = [n for n in shared if re.search(r"layer\d\.1\.conv2\.weight$", n)]
    places = np.unique(np.linspace(0, len(shared) - 1, 4).round().astype(int))
    chosen = stages or [shared[n] for n in places]
    figure, grid = subplots(1, len(chosen), figsize=(1.9 * len(chosen), 2.4), squeeze=False,
                            sharey=True)  # fmt: skip
    for place, name in zip(grid[0], chosen, strict=True):
        for label, lines, look in looks(metrics):
            some = [m for m in lines if "gradient_magnitude" in m]
            values = [m["gradient_magnitude"][name] for m in some]
            place.plot([m["epoch"] for m in some], values, label=label, **look)
        place.set(title=name.removesuffix(".weight"), yscale="log")
    grid[0, 0].set_ylabel("mean |gradient| [nat]")
    return _finish(figure, *grid[0])


def draw_certificate(metrics: Metrics) -> Figure:
    """How strong the attack of training is: accuracies under it and under stronger ones, the gap.

    The gap has its 95 % band.
    """
    _needs(metrics, "certificate_gap", "--certify_size")
    figure, (accuracy, gap) = subplots(1, 2, figsize=(PAGE, 2.4))
    for label, lines, look in looks(metrics):
        line(accuracy, lines, "certificate_own_accuracy", label=label, **look)
        line(accuracy, lines, "certificate_strong_accuracy", **{**look, "ls": "--"})
        line(gap, lines, "certificate_gap", **look)
        some = [m for m in lines if "certificate_gap" in m]
        mean, half = (np.array([m[f"certificate_gap{w}"] for m in some]) for w in ("", "_se"))
        gap.fill_between([m["epoch"] for m in some], mean - 1.96 * half, mean + 1.96 * half,
                         color=look["color"], alpha=0.2, lw=0)  # fmt: skip
    accuracy.set(title="own attack solid, stronger ones dashed", ylabel="training accuracy")
    gap.set(title="gap", ylabel="share that only stronger ones fool")
    return _finish(figure, accuracy, gap)


def draw_trace(metrics: Metrics) -> Figure:
    """The generator of APART and its like over epochs: its scalars, what it reaches, how it learns.

    Of a block's noise, relative to the size of what it disturbs, a line per block.
    """
    _needs(metrics, "generator_step", "train_apart (apart, fgsm or fgsm_plus)")
    figure, grid = subplots(1, 6, figsize=(2 * PAGE, 2.1), across=3, least=1.6)
    scales, blocks, bounds, gain, agreement, slope = grid.flat
    for label, lines, look in looks(metrics):
        faint = {**look, "ls": ":", "lw": 0.8}
        line(scales, lines, "generator_step", label=label, **look)
        line(scales, lines, "generator_memory_scale", **faint)
        names = {k for m in lines for k in m if k.startswith("generator_noise_")}
        for name in sorted(names):
            line(blocks, lines, name, **{**look, "lw": 0.6, "marker": ""})
        line(bounds, lines, "generator_saturated", **look)
        line(bounds, lines, "generator_clipped", **faint)
        line(gain, lines, "generator_gain", **look)
        line(agreement, lines, "generator_sign_agreement", **look)
        line(agreement, lines, "generator_memory", **faint)
        line(slope, lines, "generator_step_gradient", **look)
    scales.set(title="step (memory's scale dotted)", ylabel="share of eps")
    blocks.set(title="noise at block inputs", ylabel="share of their size")
    bounds.set(title="at eps (clipped to [0,1] dotted)", ylabel="share of pixels")
    gain.set(title="gain of the second pass", ylabel="loss [nat]")
    agreement.set(title="sign agreement (|memory| dotted)", ylabel="mean")
    slope.set(title="|slope| of the loss by the step", ylabel="nat per pixel range")
    return _finish(figure, *grid.flat)


def draw_tradeoff(metrics: Metrics) -> Figure:
    """Robust against clean test accuracy along every run; its best epoch is a star.

    Every network that a run carries is a path of its own, the last epoch its filled end.
    """
    figure, axes = subplots(figsize=(COLUMN, 2.9))
    for number, (name, lines, network) in enumerate(_networks(metrics)):
        look, at = line_of(name, number), course(lines, network)
        ends = best_and_last(lines, network)
        alive = np.isfinite(at["robust"])
        clean, robust = at["clean"][alive], at["robust"][alive]
        axes.plot(clean, robust, marker="o", ms=2, lw=0.7, label=name, **look)
        axes.plot(clean[-1], robust[-1], "o", color=look["color"], ms=5)
        axes.plot(ends["clean_best"], ends["best"], "*", color=look["color"], ms=9, mec="white",
                  mew=0.5)  # fmt: skip
    for mark, size, text in (("*", 9, "best epoch"), ("o", 5, "last epoch")):
        axes.plot([], [], mark, color="0.3", ms=size, ls="", label=text)
    axes.set(xlabel="clean test accuracy", ylabel=f"robust test accuracy{at_budget(metrics)}")
    legend_of(figure, *axes.get_legend_handles_labels(), most=3)
    return figure


def draw_final(metrics: Metrics) -> Figure:
    """Clean and robust test accuracy after the last epoch as bars: block studies."""
    rows = _networks(metrics)
    width = max(COLUMN, 0.6 * len(rows) + 1)
    figure, axes = subplots(figsize=(width, 2.6))
    for shift, column, text in (
        (-0.2, "clean_last", "clean"), (0.2, "last", f"robust{at_budget(metrics)}")
    ):  # fmt: skip
        values = [100 * best_and_last(lines, network)[column] for _, lines, network in rows]
        bars = axes.bar(np.arange(len(rows)) + shift, values, 0.4, label=text,
                        color=PALETTE[shift > 0])  # fmt: skip
        axes.bar_label(bars, [f"{v:.1f}" for v in values], fontsize=pt(5), padding=1)
    axes.set_xticks(range(len(rows)), [name for name, _, _ in rows], rotation=45, ha="right")
    axes.set(ylabel="test accuracy, last epoch [%]", ylim=(0, 100))
    legend_of(figure, *axes.get_legend_handles_labels(), where="upper", most=2)
    return figure


def draw_cost(metrics: Metrics) -> Figure:
    """Robust test accuracy against the time spent on training, without that of evaluations."""
    figure, axes = subplots(figsize=(COLUMN, 2.6))
    for number, (name, lines, network) in enumerate(_networks(metrics)):
        spent = np.cumsum([m["seconds"] - m.get("eval_seconds", 0.0) for m in lines])
        robust = course(lines, network)["robust"]
        alive = np.isfinite(robust)
        axes.plot(spent[alive], robust[alive], marker="o", label=name, **line_of(name, number))
    axes.set(
        xlabel="training time [s]",
        ylabel=f"robust test accuracy{at_budget(metrics)}",
        xlim=(0, None),
    )
    legend_of(figure, *axes.get_legend_handles_labels(), most=3)
    return figure


#: what metrics can be drawn against, besides their values per tensor
RUN_FIGURES: dict[str, Callable[[Metrics], Figure]] = {
    "gradients": draw_gradients,
    "magnitudes": draw_magnitudes,
    "certificate": draw_certificate,
    "generator": draw_trace,
    "tradeoff": draw_tradeoff,
    "final": draw_final,
    "cost": draw_cost,
    "penalty": draw_penalty,
}


def _needs(metrics: Metrics, key: str, option: str) -> None:
    """Raise InputError for a run whose metrics never hold `key`."""
    for label, lines in metrics.items():
        if not any(key in line for line in lines):
            raise InputError(f"{label}: its metrics hold no {key}: train with {option}")


def _networks(metrics: Metrics) -> list[tuple[str, Sequence[dict], str]]:
    """Name, metrics and copy of every network of the runs; InputError for one never attacked.

    Names say the budget of the attack where runs have several.
    """
    found, budgets = [], _budgets(metrics)
    single = len(set(budgets.values()) - {None}) < 2
    for label, lines in metrics.items():
        names = networks_in(lines)
        if not names:
            raise InputError(f"{label}: its metrics hold no robust test accuracy: train with "
                             "--attack")  # fmt: skip
        at = budgets[label]
        text = label if single or at is None else f"{label}, ε = {at:.3g}"
        found += [(f"{text} ({name})" if name else text, lines, name) for name in names]
    return found


def _budgets(metrics: Metrics) -> dict[str, float | None]:
    """The budget of the attack on test images of every run; None where it is not recorded."""
    return {label: (lines[-1] if lines else {}).get("target_eps")
            for label, lines in metrics.items()}  # fmt: skip


def at_budget(metrics: Metrics) -> str:
    """The budget of robust accuracies, where all runs have the same one."""
    found = set(_budgets(metrics).values())
    return f" at ε = {found.pop():.3g}" if len(found) == 1 and None not in found else ""


def looks(metrics: Metrics) -> Iterator[tuple[str, Sequence[dict], Look]]:
    """Label, metrics, and the colour with a marker of every run."""
    for number, (label, lines) in enumerate(metrics.items()):
        yield label, lines, {**line_of(label, number), "marker": "o"}


def line(axes: Axes, lines: Sequence[dict], key: str, **look: object) -> None:
    """A metric over the epochs that hold it."""
    some = [m for m in lines if key in m]
    axes.plot([m["epoch"] for m in some], [m[key] for m in some], **look)


def _finish(figure: Figure, *panels: Axes) -> Figure:
    """Whole epochs below all panels, one legend for the figure."""
    over_epochs(*panels)
    legend_of(figure, *panels[0].get_legend_handles_labels())
    return figure
