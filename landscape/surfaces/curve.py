"""Curves that connect two minima: trained by the one loop, measured by the one scan."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from ridgeline.landscape.batchnorm import place_on
from ridgeline.landscape.problem import Problem
from ridgeline.landscape.result import empty_cells, stamp
from ridgeline.landscape.surfaces.cell import VARIABLES, variables_of
from ridgeline.landscape.surfaces.scan import scan
from ridgeline.landscape.surfaces.shards import Shard
from ridgeline.landscape.weights.paths import Path, curve
from ridgeline.landscape.weights.point import Point, buffers_of
from ridgeline.models.copying import copy_of
from ridgeline.models.errors import InputError
from ridgeline.train.attacks import Attack
from ridgeline.train.data.examples import Batch, Images, arguments_of
from ridgeline.train.data.noise import Noise, Purpose, stream
from ridgeline.train.evaluation import Scores, evaluate
from ridgeline.train.files.integrity import check_real
from ridgeline.train.losses import Loss, loss_of, unit_of
from ridgeline.train.methods import Method, Setup, Step
from ridgeline.train.statistics import mean_and_error
from ridgeline.train.undisturbed import undisturbed


class Knots(nn.Module):
    """The control points of a curve as one module, to be trained and saved.

    State-dict keys are `conv1.weight_0, conv1.weight_1, ...`, buffers once under their own names:
    only to repeat released code (Liu et al. 2020). Fixed knots do not require gradients.
    """

    def __init__(self, knots: Sequence[Point], fixed: Sequence[bool], buffers: dict[str, Tensor]):
        super().__init__()
        self.names, self.count = list(knots[0]), len(knots)
        for name in self.names:
            for k, (knot, is_fixed) in enumerate(zip(knots, fixed, strict=True)):
                parameter = nn.Parameter(knot[name].clone(), requires_grad=not is_fixed)
                home, leaf = self._home(name)
                home.register_parameter(f"{leaf}_{k}", parameter)
        for name, value in buffers.items():
            home, leaf = self._home(name)
            home.register_buffer(leaf, value.clone())

    def _home(self, name: str) -> tuple[nn.Module, str]:
        *folders, leaf = name.split(".")
        home: nn.Module = self
        for folder in folders:
            if folder not in home._modules:
                home.add_module(folder, nn.Module())
            home = home._modules[folder]
        return home, leaf

    def points(self) -> list[Point]:
        """The knots as Points that share memory with the parameters."""
        return [
            {name: self.get_parameter(f"{name}_{k}") for name in self.names}
            for k in range(self.count)
        ]


def check_fixed(fix_points: Sequence[int]) -> None:
    """Raise InputError unless every control point is fixed (1) or free (0)."""
    for number in fix_points:
        if number not in (0, 1):
            raise InputError(f"--fix_points must be 1 (fixed) or 0 (free) each, got {number}")


def knots_in(tensors: dict[str, Tensor], like: Point, what: str) -> list[Point]:
    """The control points stored in a curve checkpoint; InputError if they do not fit."""
    first = next(iter(like))
    count = next(k for k in itertools.count() if f"{first}_{k}" not in tensors)
    if count < 2:
        raise InputError(
            f"{what} is not a curve checkpoint of this network: no {first}_0, {first}_1"
        )
    missing = [
        f"{n}_{k}"
        for n, t in like.items()
        for k in range(count)
        if f"{n}_{k}" not in tensors or tensors[f"{n}_{k}"].shape != t.shape
    ]
    if missing:
        raise InputError(f"{what} is a curve of another architecture: see {missing[0]}")
    for name, tensor in tensors.items():
        check_real(name, tensor, what)
    return [{n: tensors[f"{n}_{k}"].to(t) for n, t in like.items()} for k in range(count)]


class CurveTraining(Method):
    """Minimise the expected loss along a curve over its free knots (Garipov et al. 2018, eq. 2).

    Every batch sits at one t ~ U(0,1), drawn from the seed and the step. The attack sees the
    network at t in eval mode; the training pass is in train mode.
    """

    clock = "batch"

    def __init__(
        self,
        network: nn.Module,
        knots: Sequence[Point],
        fixed: Sequence[bool],
        curve_type: str = "bezier",
        attack: Attack | None = None,
        device: torch.device | str = "cpu",
        mean_loss: str | Loss = "cross_entropy",
    ):
        self.base = copy_of(network).requires_grad_(False).to(device)
        knots_of = Knots(knots, fixed, buffers_of(network)).to(device)
        super().__init__(knots_of, Setup(attack=attack, device=device))
        self.curve_type, self.attack, self.label = curve_type, attack, "curve"
        self.mean_loss = mean_loss
        if all(fixed):
            raise InputError("fix_points: at least one control point must be free (0)")

    @property
    def compilable(self) -> bool:
        """The network is called with other weights, by a function that no compiler has seen."""
        return False

    @property
    def path(self) -> Path:
        """The curve through the current knots."""
        return curve(self.curve_type, self.network.points())

    @property
    def judged(self) -> None:
        """A curve is no network: it is judged in its middle alone."""

    def _state(self, point: Point) -> dict[str, Tensor]:
        return {**point, **dict(self.network.named_buffers())}

    def _predict(self, point: Point):
        state = self._state(point)
        return lambda x: functional_call(self.base, state, *arguments_of(x))

    def loss(self, batch: Batch, step: Step) -> tuple[Tensor, Tensor]:
        """Mean (adversarial) loss of the batch at a random place of the curve, and outputs."""
        t = stream(step.seed, Purpose.CURVE, step.number).random()
        point = self.path(t)
        x = batch.x
        if self.attack is not None:
            here = {n: w.detach() for n, w in point.items()}
            with undisturbed(self.base):
                noise = Noise(step.seed, batch.index, step.epoch, Purpose.TRAINING_ATTACK)
                x = self.attack(self._predict(here), x, batch.y, noise)
        self.base.train()
        logits = self._predict(point)(x)
        if self.mean_loss == "cross_entropy":
            return F.cross_entropy(logits, batch.y), logits
        return loss_of(self.mean_loss)(logits, batch.y).mean(), logits

    def evaluate(self, images: Images, step: Step, batch_size: int) -> dict[str, Scores]:
        """Scores in the middle of the curve, t = 1/2, clean and under the attack."""
        middle = {n: w.detach() for n, w in self.path(0.5).items()}
        options = {"batch_size": batch_size, "seed": step.seed, "device": self.device,
                   "loss": loss_of(self.mean_loss)}  # fmt: skip
        with undisturbed(self.base):
            predict = self._predict(middle)
            scores = {"middle_clean": evaluate(predict, images, **options)}
            if self.attack is not None:
                scores["middle_target"] = evaluate(predict, images, self.attack, **options)
        return scores


def scan_curve(
    problem: Problem,
    path: Path,
    t: Sequence[float],
    subsets: dict[str, Images],
    *,
    budgets: Sequence[float] | None = None,
    batchnorm: str = "recalibrate",
    shard: Shard | None = None,
    cells: xr.Dataset | None = None,
    save: Callable[[xr.Dataset], None] | None = None,
) -> xr.Dataset:
    """Loss and accuracy along a curve and along the straight line between its ends.

    Args:
        problem: The problem; recalibrated BatchNorm statistics come from its images for every
            subset.
        path: The curve.
        t: Places on the curve, increasing from 0 to 1.
        subsets: Images by name.
        budgets: Attack budgets in [0,1] units; None: the attack's own, without a dimension eps.
        batchnorm: keep the BatchNorm statistics, or recalibrate them at every place.
        shard: Compute only the cells of this part; `merged` puts the parts together, to which
            `with_barriers` adds what needs all of them.
        cells: A half-done earlier result, to be completed.
        save: Called now and then with what is there.

    Returns:
        Measures over (path, subset, t) with path in (curve, line), before them eps if `budgets` are
        given. `barrier` (path, subset) is the largest L(t) - ((1-t) L(0) + t L(1)), at t =
        `barrier_at`; it is NaN if any loss on the path is. Its standard error `barrier_se` is that
        of the same difference of every example's own losses (the choice of t is not part of it).
        `arc_length` (path, t) is the Euclidean length of the path up to t.

    Raises:
        InputError: for another `t` and for budgets without an attack.

    References:
        Garipov et al. 2018.
    """
    paths = _paths(path)
    t = np.asarray(t, dtype=float)
    if t.ndim != 1 or len(t) < 2 or t[0] != 0 or t[-1] != 1 or not (np.diff(t) > 0).all():
        raise InputError(f"t must increase from 0 to 1 and hold both, got {t.tolist()}")
    levels = [problem.attack.eps if problem.attack else 0.0] if budgets is None else list(budgets)
    if problem.attack is None and any(levels):
        raise InputError("budgets above 0 need an attack")
    if cells is None:
        coordinates: dict = {"path": list(paths), "subset": list(subsets)}
        coordinates["t"] = ("t", t, {"units": "1"})
        if budgets is not None:
            coordinates = {"eps": ("eps", levels, {"units": "[0,1]"}), **coordinates}
        cells = empty_cells(coordinates, variables_of(problem))
        stamp(cells, "curve", {**problem.recipe(), "path": repr(path), "batchnorm": batchnorm})
    kept = [*VARIABLES, "done"]
    for level, (label, each), (subset, images) in _places(levels, paths, subsets):
        eps = levels[level]
        place = _place(cells, level, label, subset)

        def keep(done: xr.Dataset, place: dict = place) -> None:
            for name in kept:
                cells[name].loc[place] = done[name].values[0]
            if save is not None:
                save(cells)

        here = problem.under(problem.attack.at(eps) if problem.attack and eps else None)
        scan(
            here.on(images),
            each,
            {"t": t},
            batchnorm=batchnorm,
            shard=shard,
            cells=cells[kept].sel(place).expand_dims("eps").copy(deep=True),
            save=keep,
            description=f"{label}, {subset}" + (f", eps {eps:g}" if budgets is not None else ""),
        )
    if shard is None:
        with_barriers(problem, path, subsets, cells, batchnorm)
    if save is not None:
        save(cells)
    return cells


def with_barriers(
    problem: Problem, path: Path, subsets: dict[str, Images], cells: xr.Dataset, batchnorm: str
) -> xr.Dataset:  # fmt: skip
    """Add to the cells of a whole `scan_curve`, whose arguments these are, what needs all of them.

    Returns `cells` with the barriers, their errors and the lengths of the paths.
    """
    t, levels = cells["t"].values, _levels(problem, cells)
    paths = _paths(path)
    loss = cells["loss"]
    chord = (1 - cells["t"]) * loss.isel(t=0, drop=True) + cells["t"] * loss.isel(t=-1, drop=True)
    rise = loss - chord
    # without a loss somewhere on the way nothing is known about the largest one
    cells["barrier"] = rise.max("t", skipna=False)
    cells["barrier_at"] = cells["t"][rise.fillna(0).argmax("t")].drop_vars("t")
    cells["barrier_se"] = xr.full_like(cells["barrier"], np.nan)
    units = unit_of(problem.loss)
    for name, text in (("barrier", "largest rise above the chord"),
                       ("barrier_se", "standard error of the barrier over examples")):  # fmt: skip
        cells[name].attrs = {"long_name": text, "units": units}
    for level, (label, each), (subset, images) in _places(levels, paths, subsets):
        place = _place(cells, level, label, subset)
        eps, at = levels[level], float(cells["barrier_at"].sel(place))
        if np.isfinite(cells["barrier"].sel(place)):
            here = problem.under(problem.attack.at(eps) if problem.attack and eps else None)
            error = _rise_error(here.on(images), each, at, batchnorm)
            cells["barrier_se"].loc[place] = error
    lengths = [each.arc_length(t) for each in paths.values()]
    cells["arc_length"] = (("path", "t"), lengths, {"long_name": "length of the path up to t"})
    return cells


def _paths(path: Path) -> dict[str, Path]:
    return {"curve": path, "line": curve("poly_chain", [path.knots[0], path.knots[-1]])}


def _levels(problem: Problem, cells: xr.Dataset) -> list[float]:
    if "eps" in cells.dims:
        return cells["eps"].values.tolist()
    return [problem.attack.eps if problem.attack else 0.0]


def _places(levels: list[float], paths: dict[str, Path], subsets: dict[str, Images]) -> list:
    return list(itertools.product(range(len(levels)), paths.items(), subsets.items()))


def _place(cells: xr.Dataset, level: int, label: str, subset: str) -> dict:
    place = {"path": label, "subset": subset}
    return {"eps": cells["eps"].values[level], **place} if "eps" in cells.dims else place


def _rise_error(problem: Problem, path: Path, t: float, batchnorm: str) -> float:
    """Standard error over examples of l(t) - ((1-t) l(0) + t l(1))."""
    path = path.like(problem.origin)
    found = []
    for at in (0.0, t, 1.0):
        found.append(problem.evaluate(*place_on(problem, path, [at], batchnorm)).losses)
    start, middle, end = found
    return mean_and_error((middle - (1 - t) * start - t * end).numpy())[1]
