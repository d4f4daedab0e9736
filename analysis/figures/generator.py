"""Drawings of a generator's course: curves over epochs, and its perturbations as pictures."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ridgeline.analysis.figures.layout import over_epochs, subplots
from ridgeline.analysis.figures.legends import legend_of
from ridgeline.analysis.figures.style import PAGE, Results, color_of, pt
from ridgeline.models.errors import InputError, unknown

AGAINST = ("epoch", "images")


def draw_generator(results: Results, axes: Axes | None = None, *, against: str = "epoch") -> Figure:
    """Curves over epochs, a colour per run; or `against` images: the perturbations of one run."""
    del axes
    if against not in AGAINST:
        raise unknown("--against for a generator", against, AGAINST)
    return draw_pictures(results) if against == "images" else draw_course(results)


def draw_course(results: Results) -> Figure:
    """Transfer to the reference, robust accuracy, gap of own and strong attack, alignment."""
    figure, grid = subplots(1, 4, figsize=(PAGE * 1.45, 2.3), least=1.6)
    transfer, robust, gap, aligned = grid
    first = next(iter(results.values()))
    for name, text, look in (
        ("random", "random signs", "--"),
        ("reference_strong", "own PGD", ":"),
    ):
        transfer.axhline(float(first[name]), color="0.5", ls=look, lw=0.8, label=text)
    for number, (label, ds) in enumerate(results.items()):
        color = color_of(label, number)
        for place, name, ls in (
            (transfer, "transfer", "-"), (robust, "robust", "-"), (robust, "clean", ":"),
            (gap, "gap", "-"), (aligned, "alignment", "-"), (aligned, "alignment_block", ":"),
        ):  # fmt: skip
            error = ds[f"{name}_se"].values if f"{name}_se" in ds else 0.0
            if name == "gap":
                error = np.hypot(ds["own_train_se"].values, ds["strong_train_se"].values)
            main = ls == "-"
            place.plot(ds["epoch"], ds[name], ls, color=color, label=label if main else None,
                       marker="o" if main else None)  # fmt: skip
            if main:
                low, high = ds[name].values - 1.96 * error, ds[name].values + 1.96 * error
                place.fill_between(ds["epoch"], low, high, color=color, alpha=0.2, lw=0)
    titles = {
        transfer: "reference on the run's perturbations",
        robust: "robust (clean dotted) accuracy",
        gap: "training: own less strong attack",
        aligned: "gradient alignment (blocks dotted)",
    }
    for place, title in titles.items():
        place.set(title=title)
        over_epochs(place)
    transfer.set_ylabel("accuracy")
    robust.set_ylabel("accuracy")
    gap.set_ylabel("difference of accuracies")
    aligned.set_ylabel("cosine")
    legend_of(figure, *transfer.get_legend_handles_labels(), most=len(results) + 2)  # fmt: skip
    return figure


def draw_pictures(results: Results, epochs: int = 4) -> Figure:
    """Original images, then the perturbations of some epochs, from -eps (dark) to eps (bright)."""
    if len(results) != 1:
        raise InputError("--against images draws one result at a time")
    (ds,) = results.values()
    chosen = np.unique(np.linspace(0, ds.sizes["epoch"] - 1, epochs).round().astype(int))
    eps = float(ds["eps"])
    rows = [("image", ds["image"].values)]
    for place in chosen:
        here = ds.isel(epoch=place)
        title = (f"epoch {int(here['epoch'])}\nautocorr. {float(here['autocorrelation']):.2f}\n"
                 f"high freq. {float(here['high_share']):.2f}")  # fmt: skip
        rows.append((title, 0.5 + here["perturbation"].values / (2 * eps)))
    tiles = ds.sizes["tile"]
    figure, grid = subplots(
        len(rows), tiles, figsize=(0.9 * tiles + 1.1, 0.95 * len(rows)), least=0.1,
        squeeze=False,
    )  # fmt: skip
    for line, (title, pictures) in zip(grid, rows, strict=True):
        for place, picture in zip(line, pictures, strict=True):
            shown = np.moveaxis(picture, 0, -1).clip(0, 1)
            shown = shown[..., 0] if shown.shape[-1] == 1 else shown
            image = place.imshow(shown, cmap="gray", vmin=0, vmax=1)
            place.set_xticks([])
            place.set_yticks([])
        line[0].set_ylabel(title, rotation=0, ha="right", va="center", fontsize=pt(6))
    bar = figure.colorbar(image, ax=grid, shrink=0.6, ticks=[0, 0.5, 1])
    bar.ax.set_yticklabels([f"{-eps:.3g}", "0", f"{eps:.3g}"])
    bar.set_label("perturbation")
    return figure
