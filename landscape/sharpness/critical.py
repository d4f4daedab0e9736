"""Critical sharpness: the shortest gradient-descent step that raises the loss."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from ridgeline.landscape.sharpness.options import SharpnessOptions
from ridgeline.landscape.sharpness.view import Value, View
from ridgeline.landscape.weights.point import Point, add, dot, norm
from ridgeline.train.statistics import mean_and_error

#: largest factor between two steps while no step has raised the loss
_GROWTH = 10.0
#: share of the loss that the first step would remove if the loss were linear
_PROBE = 0.01
#: relative distance from the root of the point that gives the slope at the root
_APART = 0.05
#: relative distance to step beyond the expected root, so that two points enclose it
_BEYOND = 1.02
#: a rise per step below this share of the slope counts as zero
_CLOSE = 1e-7


def critical_sharpness(view: View, options: SharpnessOptions) -> Value:
    """2 / eta, with eta the gradient-descent step after which the loss has its first value again.

    Kalra et al. 2026 (arXiv 2601.16979), with the gradient as update. For a quadratic loss it is
    g'Hg / g'g. The standard error is over examples, from the losses at the last two steps. NaN if
    the gradient is 0 or no step that was tried raises the loss.
    """
    base, gradient = view.gradient()
    return _search(view, base, gradient, dot(gradient, gradient), options.critical_passes)


def critical_relative(view: View, options: SharpnessOptions) -> Value:
    """The same, along the gradient of the other loss: clean for robust, robust for clean.

    Infinite if the angle between the two gradients is 90 degrees or more: then every step raises
    the loss. NaN without an attack.
    """
    if view.other is None:
        return view.nothing()
    base, own = view.gradient()
    other = View(view.other)
    _, gradient = other.gradient()
    view.forward += other.forward
    view.backward += other.backward
    return _search(view, base, gradient, dot(own, gradient), options.critical_passes)


def _search(view: View, base: Tensor, update: Point, slope: float, passes: int) -> Value:
    """2 / eta with mean l(theta - eta update) = mean l(theta), found in `passes` passes.

    h(eta) = (L(theta - eta update) - L(theta)) / eta is -slope at 0. It is linear for a quadratic
    loss. The next step is where the line through the two points around the root is 0.
    """
    if not math.isfinite(slope) or norm(update) == 0:
        return view.nothing()
    if slope <= 0:
        return view.value(math.inf, math.nan, "examples")

    def rises(eta: float) -> Tensor:
        return view.losses(add(view.origin, update, -eta)) - base

    return view.value(*critical_step(rises, base.mean().item(), slope, passes), "examples")


def critical_step(
    rises: Callable[[float], Tensor], loss: float, slope: float, passes: int
) -> tuple[float, float]:
    """2 / eta and its standard error; `rises(eta)` (N,) is the rise of each example's loss."""
    low, high = (0.0, -slope), None  # (eta, h) on both sides of the root
    eta = _PROBE * max(abs(loss), 1e-12) / slope
    best: tuple[float, Tensor] | None = None
    met = [low]
    for _ in range(passes):
        each = rises(eta)
        h = each.mean().item() / eta
        if not math.isfinite(h):
            h = math.inf
        else:
            met.append((eta, h))
        if math.isfinite(h) and (best is None or abs(h) < abs(best[1].mean().item() / best[0])):
            best = eta, each
        if h > 0:
            high = eta, h
        else:
            before, low = low, (eta, h)
        if abs(h) <= _CLOSE * slope:
            high = high or (eta, h)
            break
        if high is None:
            growth = _BEYOND * _through(before, low)
            eta = min(growth, _GROWTH * eta) if growth > eta else _GROWTH * eta
        elif math.isinf(high[1]):
            eta = (low[0] + high[0]) / 2
        else:
            eta = _through(low, high)
    if high is None or best is None:
        return math.nan, math.nan
    # d eta = d rise / (eta h'(eta)), d (2 / eta) = 2 / eta^2 d eta
    far = min((p for p in met if abs(p[0] - eta) > _APART * eta), key=lambda p: abs(p[0] - eta))
    incline = eta * far[1] / (far[0] - eta)  # h is 0 at eta
    error = mean_and_error(best[1])[1] / incline if incline > 0 else math.nan
    return 2 / eta, 2 / eta**2 * error


def _through(low: tuple[float, float], high: tuple[float, float]) -> float:
    """Where the line through two points (eta, h) is 0; infinite if nowhere."""
    rise = high[1] - low[1]
    return low[0] - low[1] * (high[0] - low[0]) / rise if rise else math.inf
