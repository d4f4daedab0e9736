"""A cell of the verdict: a number in words, and what must be known to compare it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ridgeline.analysis.page.sources import Source


@dataclass(frozen=True)
class Cell:
    """A number as text, its value to sort by, and what a reader must know to compare it."""

    text: str
    value: float
    note: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""


def with_error(value: float, error: float = np.nan, unit: str = "") -> str:
    """A number with its error, if it has one; words for a number that is not finite.

    >>> with_error(0.1234567, 0.0123, "nat"), with_error(float("inf"))
    ('0.1235 ± 0.012 nat', 'infinite')
    """
    if np.isnan(value):
        return "not a number"
    if np.isinf(value):
        return "infinite" if value > 0 else "minus infinite"
    shown = f" ± {error:.2g}" if np.isfinite(error) else ""
    return f"{value:.4g}{shown}{' ' * bool(unit)}{unit}"


def percent(value: float, low: float, high: float) -> str:
    """A share with its interval, in percent."""
    if not np.isfinite(value):
        return with_error(value)
    return f"{100 * value:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def settings_of(source: Source, **more: object) -> dict[str, Any]:
    """What must be equal for two cells to be compared."""
    data = source.data
    return {"data set": data.get("dataset"), "images": data.get("examples"),
            "choice of images": str(data.get("sha256"))[:12],
            "batchnorm": source.recipe.get("batchnorm", "stored"), **more}  # fmt: skip


def images_of(source: Source) -> str:
    """How many images, or else the result that has the number."""
    return f"{source.examples} images" if source.examples else source.name


def loss_of(source: Source, eps: float | None = None) -> str:
    """Which loss a number is about: clean, or robust with its budget.

    `eps` is the budget if the result has several; None: that of the attack.
    """
    budget = source.eps if eps is None else eps
    if not source.attack or budget == 0:
        return "clean loss"
    return "robust loss" if np.isnan(budget) else f"robust loss, ε = {budget:.3g}"
