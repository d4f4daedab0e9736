"""The landscape along a training run: curvature, distance and flatness by epoch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import xarray as xr

from ridgeline.analysis.training.metrics import read_metrics
from ridgeline.analysis.training.overfitting import best_and_last, course, networks_in
from ridgeline.landscape.curvature.measures import SpectrumOptions, measure
from ridgeline.landscape.curvature.operators import Hessian
from ridgeline.landscape.gradient import loss_gradient
from ridgeline.landscape.problem import Problem
from ridgeline.landscape.surfaces.scan import scan
from ridgeline.landscape.weights.directions import random_direction
from ridgeline.landscape.weights.paths import PolygonalChain
from ridgeline.landscape.weights.point import Point, add, norm, subtract
from ridgeline.models.errors import InputError, unknown
from ridgeline.train.files.recipe import file_digest
from ridgeline.train.options import Opt, Options
from ridgeline.train.statistics import mean_and_error


@dataclass(frozen=True)
class TrajectoryOptions(Options):
    """Cost and radii of the measures of every epoch."""

    trace_products: Annotated[int, Opt("Hessian products for each trace", low=2)] = 20
    radius: Annotated[
        float, Opt("length of random directions, relative to each filter", above=0)
    ] = 0.1
    ascent: Annotated[
        float, Opt("length of the step along the gradient, relative to each tensor", above=0)
    ] = 0.01
    directions: Annotated[int, Opt("number of random directions", low=1)] = 5


@dataclass(frozen=True)
class AlongOptions(Options):
    """The metrics of the run itself, for the same figure."""

    metrics: Annotated[str | None, Opt("the run's metrics (.jsonl), for the same figure")] = None
    copy: Annotated[
        str | None,
        Opt("network in the metrics: stable, average, revision; None: the trained one"),
    ] = None

    def check(self) -> None:
        """Raise InputError for --copy without --metrics."""
        if self.copy is not None and self.metrics is None:
            raise InputError("--copy names a network in --metrics: pass both")

    def read(self) -> xr.Dataset | None:
        """The result of `metrics_along` for the file; None without one. Raises InputError."""
        lines = [] if self.metrics is None else read_metrics(Path(self.metrics))
        return metrics_along(lines, self.copy or "") if lines else None

    def recipe(self) -> dict[str, Any]:
        """The digest of the file's content."""
        found = super().recipe()
        return found if not found else found | {"metrics": file_digest(Path(self.metrics))}


def trajectory(
    epochs: Mapping[int, Problem],
    initial: Point,
    *,
    trace_products: int = 20,
    radius: float = 0.1,
    ascent: float = 0.01,
    directions: int = 5,
    best: Point | None = None,
    along: xr.Dataset | None = None,
    tick: Callable[[int], None] | None = None,
) -> xr.Dataset:
    """Curvature, distance from the start and robust flatness of a run's networks, over `epoch`.

    All losses are in nat. The directions are the same at every epoch.

    Args:
        epochs: The networks of a run by epoch, with their attack.
        initial: The weights before the first step.
        trace_products: Number of Hessian products for each trace.
        radius: Length of the directions of `flatness`, in filter norms.
        ascent: Fraction of its own norm by which every tensor moves for `sharpness`.
        directions: Number of random directions.
        best: Weights of the best epoch, or None.
        along: The result of `metrics_along`, which is added to the dataset.
        tick: Called with the number of examples after every evaluation.

    Returns:
        - Of the robust loss with frozen adversarial images: `lambda_max` with its `residual`
          ||Hv - lambda v||, `trace` with `trace_se`, and `gradient_norm` by the weights.
        - `clean_gradient_norm`: the same of the clean loss.
        - `loss` and `accuracy`: under the attack.
        - `distance` (l_2) and `relative_distance`: from the initial weights.
        - `flatness`: mean rise of the robust loss along filter-normalised random directions, with
          `flatness_se` over directions (Stutz et al. 2021, average case). The attack runs again.
        - `sharpness`: rise of that loss when every tensor moves along its own gradient (Wu et al.
          2020), the worst case to first order.
        - With `best`: the `barrier` from there to the last epoch.
    """
    rows = []
    for epoch, problem in epochs.items():
        look = partial(_epoch, problem, initial, trace_products, radius, ascent, directions,
                       tick or (lambda n: None))  # fmt: skip
        row = problem.keep(f"epoch {epoch}", look)
        rows.append({name: float(value) for name, value in row.items()})
    units = {"loss": "nat", "flatness": "nat", "sharpness": "nat", "gradient_norm": "nat",
             "clean_gradient_norm": "nat"}  # fmt: skip
    ds = xr.Dataset(
        {name: ("epoch", [row[name] for row in rows],
                {"units": units[name]} if name in units else {}) for name in rows[0]},
        coords={"epoch": list(epochs)},
        attrs={"radius": radius, "ascent": ascent, "directions": directions},
    )  # fmt: skip
    if best is not None:
        last = epochs[max(epochs)]
        ds = ds.assign(barrier(last, best, last.origin))
    return ds if along is None else ds.merge(along)


def _epoch(
    problem: Problem, initial: Point, trace_products: int, radius: float, ascent: float,
    directions: int, tick: Callable[[int], None],
) -> dict[str, float]:  # fmt: skip
    """The numbers of one epoch's network."""
    origin, count = problem.origin, len(problem.images)
    frozen = problem.frozen()
    here = frozen.evaluate()  # on the images just found, so the attack runs only once
    hessian = Hessian(frozen)
    found, *_ = measure(hessian, SpectrumOptions(trace_products=trace_products), problem.seed)
    tick(count)
    rises = []
    for number in range(directions):
        there = add(origin, random_direction(origin, problem.seed, number=number), radius)
        rises.append(problem.evaluate(there).loss - here.loss)
        tick(count)
    flatness, flatness_se = mean_and_error(np.array(rises))
    slope = hessian.gradient()
    moved = steepest(origin, slope, ascent)
    _, clean = loss_gradient(problem.under(None))
    walked = norm(subtract(origin, initial))
    row = {
        "lambda_max": float(found["eigenvalue"][0]), "residual": float(found["residual"][0]),
        "trace": float(found["trace"]), "trace_se": float(found["trace_se"]),
        "loss": here.loss, "loss_se": here.loss_se, "accuracy": here.accuracy,
        "gradient_norm": norm(slope), "clean_gradient_norm": clean.norm().item(),
        "distance": walked, "relative_distance": walked / norm(initial),
        "flatness": flatness, "flatness_se": flatness_se,
        "sharpness": problem.evaluate(moved).loss - here.loss,
    }  # fmt: skip
    tick(count)
    return row


def metrics_along(lines: Sequence[dict], network: str = "") -> xr.Dataset:
    """Robust accuracy over `every_epoch` of one of a run's networks, and its best epoch.

    `network` is "" for the trained network, or the name of a copy. Raises InputError if the
    metrics do not have it.
    """
    known = networks_in(lines)
    if network and network not in known:
        raise unknown("--copy for these metrics", network, filter(None, known))
    return xr.Dataset(
        {
            "robust_test": ("every_epoch", course(lines, network)["robust"]),
            "robust_train": ("every_epoch", [line["train_accuracy"] for line in lines]),
            "best_epoch": best_and_last(lines, network)["best_epoch"],
        },
        coords={"every_epoch": [line["epoch"] for line in lines]},
    )


def steepest(origin: Point, gradient: Point, gamma: float) -> Point:
    """Every tensor of two or more dimensions moved by gamma ||w|| along its own gradient."""
    moved = {}
    for name, w in origin.items():
        length = gradient[name].norm()
        step = gamma * w.norm() / length if w.ndim > 1 and length > 0 else torch.zeros_like(length)
        moved[name] = w + step * gradient[name]
    return moved


def barrier(problem: Problem, start: Point, end: Point, points: int = 11) -> dict[str, float]:
    """Largest rise of the problem's loss above the chord between two Points, and its t.

    At every point BatchNorm statistics are recalibrated and the attack runs again. Both numbers
    are NaN if a loss on the path is NaN, because the largest loss is then unknown.
    """
    if points < 3:
        raise InputError(f"a barrier needs 3 or more points on the path, got {points}")
    t = np.linspace(0, 1, points)
    ds = scan(problem, PolygonalChain((start, end)), {"t": t}, batchnorm="recalibrate",
              description="best to last")  # fmt: skip
    loss = ds["loss"].values[0]
    rise = loss - ((1 - t) * loss[0] + t * loss[-1])
    place = np.nan if np.isnan(rise).any() else t[rise.argmax()]
    return {"barrier": float(rise.max()), "barrier_at": float(place)}
