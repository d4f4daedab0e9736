"""A drawing for every kind of result. Each takes results by label and, optionally, axes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.mathtext import MathTextParser

from ridgeline.analysis.figures.budgets import draw_budgets
from ridgeline.analysis.figures.curvature import draw_hessian
from ridgeline.analysis.figures.frequency import (
    draw_corruptions,
    draw_fourier,
    draw_spectral_bias,
    draw_spectrum,
)
from ridgeline.analysis.figures.generator import draw_generator
from ridgeline.analysis.figures.layout import make_room
from ridgeline.analysis.figures.learning import draw_runs
from ridgeline.analysis.figures.lines import draw_curve
from ridgeline.analysis.figures.pairs import draw_pairs, draw_ranking
from ridgeline.analysis.figures.robustness import draw_robustness
from ridgeline.analysis.figures.runs import RUN_FIGURES
from ridgeline.analysis.figures.scattering import draw_scattering
from ridgeline.analysis.figures.sharpness import draw_sharpness
from ridgeline.analysis.figures.style import Results
from ridgeline.analysis.figures.style import style as settings_of
from ridgeline.analysis.figures.surfaces import (
    draw_distance,
    draw_scan,
    draw_similarity,
)
from ridgeline.analysis.figures.training import (
    draw_cka,
    draw_overfitting,
    draw_trajectory,
    draw_weights,
)
from ridgeline.analysis.look import Look
from ridgeline.landscape.result import recipe_of
from ridgeline.models.errors import InputError, unknown

#: kind of result -> drawing
FIGURES: dict[str, Callable[..., Figure]] = {
    "hessian": draw_hessian,
    "generator": draw_generator,
    "fourier": draw_fourier,
    "corruptions": draw_corruptions,
    "spectral_bias": draw_spectral_bias,
    "overfitting": draw_overfitting,
    "trajectory": draw_trajectory,
    "cka": draw_cka,
    "robustness": draw_robustness,
    "budgets": draw_budgets,
    "scan": draw_scan,
    "curve": draw_curve,
    "similarity": draw_similarity,
    "scattering": draw_scattering,
    "spectrum": draw_spectrum,
    "distance": draw_distance,
    "sharpness": draw_sharpness,
    "ranking": draw_ranking,
    "pairs": draw_pairs,
}


def draw(
    results: xr.Dataset | Results,
    *,
    style: str | None = None,
    width: str | float | None = None,
    font_size: float | None = None,
    colors: Mapping[str, str] | Sequence[str] = (),
    **options,
) -> Figure:
    """Draw a result, or several of one kind by label, together. Nothing is computed again.

    Args:
        results: A result, or results of one kind by label.
        style: Fonts, sizes of text and widths of a venue, as `neurips2024`; None: the house's.
        width: Of the figure: `column`, `full` or inches; None: of a style its column, else its own.
        font_size: In points.
        colors: Of networks by label, as `{"AT": "C1"}` (or `AT=C1`); the others take turns.
        **options: What the drawing takes besides, as `against` or `view`.

    Returns:
        The figure, which is not shown.

    Raises:
        InputError: If the kinds differ or have no figure, for an option that the drawing does not
            know, and for a look that means nothing.
    """
    if isinstance(results, xr.Dataset):
        results = {_label(results): results}
    if not isinstance(results, Mapping) or not all(
        isinstance(ds, xr.Dataset) for ds in results.values()
    ):
        raise InputError("draw takes a result, or several by label: {'A': a, 'B': b}")
    kinds = {ds.attrs.get("kind", "unknown") for ds in results.values()}
    if not results:
        raise InputError("nothing to draw: draw takes a result, or several by label")
    if len(kinds) != 1:
        raise InputError(
            f"results of one kind can be drawn together, got {', '.join(sorted(kinds))}"
        )
    kind = kinds.pop()
    if kind not in FIGURES:
        raise unknown("kind of result to draw", kind, FIGURES)
    look, results = Look(style, width, font_size, _texts(colors)), _readable(results)
    _check_colors(look, results)
    foreign = options.keys() - inspect.signature(FIGURES[kind]).parameters.keys()
    if foreign:
        raise InputError(f"results of kind {kind!r} cannot be drawn with --{foreign.pop()}")
    return _drawn(lambda: FIGURES[kind](results, **options), look)


def draw_metrics(
    metrics: Mapping[str, Sequence[dict]],
    against: str | None = None,
    *,
    style: str | None = None,
    width: str | float | None = None,
    font_size: float | None = None,
    colors: Mapping[str, str] | Sequence[str] = (),
) -> Figure:
    """Draw the metrics of runs by label: their loss and accuracies, or what `against` names.

    One of RUN_FIGURES, or a measure per tensor, as CURE's. InputError for another. The look is that
    of `draw`.
    """
    look, metrics = Look(style, width, font_size, _texts(colors)), _readable(metrics)
    _check_colors(look, metrics)

    def figure() -> Figure:
        if against in RUN_FIGURES:
            return RUN_FIGURES[against](metrics)
        return draw_weights(metrics, against) if against else draw_runs(metrics)

    return _drawn(figure, look)


def _readable(held: Mapping[str, Any]) -> dict[str, Any]:
    """The same by labels that can be drawn; InputError for one whose formula means nothing.

    Matplotlib hides labels that begin with an underscore, so these begin with a space.
    """
    held = {str(k): v for k, v in held.items()}
    for label in held:
        if label.count("$") > 1:
            try:
                MathTextParser("path").parse(label)
            except ValueError as error:
                said = str(error).strip().splitlines()[-1]
                raise InputError(f"--label {label}: no formula between dollars ({said})") from None
    return {f" {k}" if k.startswith("_") else k: v for k, v in held.items()}


def _check_colors(look: Look, held: Mapping[str, Any]) -> None:
    """Raise InputError for a colour of a label that is not drawn."""
    groups = {str(g) for ds in held.values() if isinstance(ds, xr.Dataset) and "label" in ds.coords
              for g in np.atleast_1d(ds["label"].values)}  # fmt: skip
    known = {k.strip() for k in held} | groups | {f"{k.strip()}: {g}" for k in held for g in groups}
    for label in look.named_colors:
        if label.strip() not in known and not any(label.startswith(f"{k} (") for k in known):
            raise unknown("label in --colors", label, known)


def _texts(colors: Mapping[str, str] | Sequence[str]) -> tuple[str, ...]:
    """Colours by label as options have them."""
    if isinstance(colors, Mapping):
        return tuple(f"{label}={color}" for label, color in colors.items())
    colors = (colors,) if isinstance(colors, str) else colors
    if not isinstance(colors, Sequence) or not all(isinstance(c, str) for c in colors):
        raise InputError(f"colors must be a dict, label to colour, got {colors!r}")
    return tuple(colors)


def _drawn(figure: Callable[[], Figure], look: Look) -> Figure:
    """A figure in its look, which does not depend on the settings it is written under later."""
    with settings_of(look):
        drawn = figure()
        make_room(drawn)
        for axes in drawn.axes if look.settings else ():
            axes.tick_params(labelfontfamily=mpl.rcParams["font.family"])
        return drawn


def _label(result: xr.Dataset) -> str:
    """What a single result is called: its network's name."""
    try:
        recipe = recipe_of(result)
    except InputError:
        return ""
    model = recipe.get("model")
    own = model.get("model_type", "") if isinstance(model, dict) else ""  # of several: a list
    return str(recipe.get("network") or own)
