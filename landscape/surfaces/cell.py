"""One cell of a scan: the source of its adversarial images, and its measures."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ridgeline.landscape.batchnorm import place_on
from ridgeline.landscape.gradient import loss_gradient
from ridgeline.landscape.pieces import Instead, laid_out
from ridgeline.landscape.problem import Problem
from ridgeline.landscape.resume import at_once
from ridgeline.landscape.surfaces.compiled import Compiled
from ridgeline.landscape.surfaces.execution import description, fastest
from ridgeline.landscape.surfaces.first_layers import FirstLayers
from ridgeline.landscape.surfaces.linear_layers import stand_ins
from ridgeline.landscape.surfaces.plain import known
from ridgeline.landscape.surfaces.pooling import pooling_stand_ins
from ridgeline.landscape.weights.paths import Path
from ridgeline.landscape.weights.point import Point
from ridgeline.models.errors import InputError, unknown
from ridgeline.train.evaluation import Scores
from ridgeline.train.losses import name_of, unit_of
from ridgeline.train.workers import alone

#: where the attack of a cell's adversarial images is run
ADVERSARIES = {
    "moving": "attacked anew at every cell",
    "frozen": "attacked at the origin of the axes",
    "anchored": "attacked at the middle cell of a block of adv_calc_freq cells per axis",
    "max": "the worse of moving and frozen, per example",
}
#: the measures of every cell
VARIABLES = ("loss", "loss_se", "accuracy", "margin")
#: further measures on request, and their cost
EXTRAS = {
    "gradient_norm": "Euclidean norm of the gradient by the weights; one backward pass a batch",
    "lambda_max": "largest eigenvalue of the Hessian, adversarial images frozen; many products",
}

Coordinates = tuple[float, ...]
Tick = Callable[[int], None]


def variables_of(problem: Problem, extras: Collection[str] = ()) -> dict[str, dict[str, str]]:
    """The variables of a cell with their attributes; InputError for unknown extras."""
    units = unit_of(problem.loss)
    name = name_of(problem.loss).replace("_", "-")
    for extra in extras:
        if extra not in EXTRAS:
            raise unknown("measure of a cell", extra, EXTRAS)
    return {
        "loss": {"long_name": f"mean {name}", "units": units},
        "loss_se": {"long_name": f"standard error of the mean {name}", "units": units},
        "accuracy": {"long_name": "fraction of examples classified correctly", "units": "1"},
        "margin": {"long_name": "mean of the true logit less the largest other", "units": "1"},
        **{n: {"long_name": EXTRAS[n].partition(";")[0], "units": units} for n in extras},
    }


class Places:
    """Measures of a problem at coordinates of a path, for every budget.

    It caches the adversarial images of the latest anchor. On a grid of many `cells` it also caches
    the outputs of the first layers for fixed images. `left` is the number of cells, of all
    budgets, that are still to be computed (None: all). `compiled` is as in `scan`. Raises
    InputError for budgets above 0 without an attack, and for extras with the adversary `max`.
    """

    def __init__(
        self, problem: Problem, path: Path, budgets: Sequence[float], batchnorm: str,
        extras: Collection[str] = (), adversary: str = "moving", cells: int = 1,
        left: int | None = None, compiled: bool = False,
    ):  # fmt: skip
        attack = problem.attack
        if attack is None and any(budgets):
            raise InputError("budgets above 0 need an attack")
        if compiled and attack is not None:
            raise InputError("only scans without an attack are compiled")
        if extras and adversary == "max":
            raise InputError("the adversary max has no gradient: it takes the worse of two sets")
        path = path.like(problem.origin)
        # the memory layout is changed once, not in every cell
        self.path = replace(path, knots=[laid_out(problem, knot) for knot in path.knots])
        self.batchnorm, self.extras = batchnorm, extras
        self.problems = [
            problem.under(attack.at(eps) if attack and eps else None) for eps in budgets
        ]
        self._linear = stand_ins(problem)
        self._simple = {**self._linear, **pooling_stand_ins(problem)}
        # the work of most cells: an attack only if each cell runs one
        moves = attack is not None and adversary in ("moving", "max")
        typical = self.problems[-1] if moves else problem.under(None)
        left = cells * len(budgets) if left is None else left
        place = self.path(*(0.7 * path.ends[1] for _ in path.axes))
        # compiled passes keep the usual way: another way might change the last digits
        self._way = typical if compiled else fastest(
            typical, left, place, quarters=batchnorm == "keep" and not extras,
            instead=None if moves else lambda number: self._simple,
        )  # fmt: skip
        self._key: tuple | None = None
        self._frozen: Problem | None = None
        # first layers need one pass per knot: worth it only if many cells have the same images
        self._many = cells >= 4 * len(self.path.knots) and adversary != "anchored"
        self._seen: tuple[tuple | None, FirstLayers | None] | None = None
        # every cell is only a forward pass on the same images
        self._clean = batchnorm == "keep" and all(p.attack is None for p in self.problems)
        self._compile, self._compiled = compiled, None

    @property
    def apart(self) -> bool:
        """Whether each thread may compute its own cell, with the same bits.

        This needs cells that share no intermediate values, and pieces that run on one thread. It
        is not done for networks with hooks or with modules of unknown packages: these may store
        values of a cell where all threads read them.
        """
        way, threads = self._way, torch.get_num_threads()
        whole = way.device.type == "cpu" and way.keep is at_once and way.together
        whole = whole and way.chunk is None  # else each piece seeds the generator of all threads
        pieces = len(way.data.pieces(way.batch_size))
        may = self._clean and not self.extras and whole and 1 < threads <= pieces
        may = may and known(way.network)
        if may:
            way.replicas.provide(threads)
        return may

    @property
    def execution(self) -> str:
        """How the latest cell was computed."""
        if self._compiled is not None:
            return description(self._way, (), onednn=False, compiled=True)
        layers = self._seen[1] if self._seen else None
        return description(self._way, layers.names if layers else (), bool(self._linear))

    def measure(
        self, level: int, at: Coordinates, anchors: Sequence[Coordinates | None], tick: Tick
    ) -> dict[str, float]:
        """The variables at coordinates, on images attacked at an anchor (None: at the cell itself).

        With several anchors, every example counts with its larger loss.
        """
        first, *others = anchors
        scores, extras = self._look(level, at, first, tick)
        for other in others:
            scores = _worse(scores, self._look(level, at, other, lambda n: None)[0])
        with alone():  # several threads would sum the examples in another order
            return {"loss": scores.loss, "loss_se": scores.loss_se, "accuracy": scores.accuracy,
                    "margin": scores.margin, **extras}  # fmt: skip

    def _look(
        self, level: int, at: Coordinates, anchor: Coordinates | None, tick: Tick
    ) -> tuple[Scores, dict[str, float]]:
        problem = self.problems[level]
        point, buffers = place_on(problem, self.path, at, self.batchnorm)
        if anchor is not None and problem.attack is not None:
            if self._key != (level, anchor):
                self._frozen = problem.frozen(*place_on(problem, self.path, anchor, self.batchnorm))
                self._key = (level, anchor)
            problem = self._frozen
        moving, frozen = problem.attack is not None, problem is self._frozen
        if self.extras:  # measured on the images of the loss
            problem = problem.frozen(point, buffers, tick)
            tick = lambda n: None  # noqa: E731
        running = problem
        if (problem.attack is None) == (self._way.attack is None):
            running = problem.running(self._way.together, self._way.batch_size)
        if self._compile:  # at the first cell, when no other thread computes
            self._compile = False
            self._compiled = Compiled.of(running, self.path, self.batchnorm)
        if self._compiled is not None:
            instead = self._compiled.at(point, buffers)
        else:
            instead = None if moving else self._instead(running, buffers, at, frozen)
        scores = running.evaluate(point, buffers, tick, instead)
        return scores, self._extras(problem, point, buffers)

    def _instead(
        self, problem: Problem, buffers: Mapping[str, Tensor], at: Coordinates, frozen: bool
    ) -> Instead | None:
        """The functions that replace layers at this Point, for fixed images."""
        key = self._key if frozen else None  # the clean images are the same for every budget
        if self._many and (self._seen is None or self._seen[0] != key):
            self._seen = (key, FirstLayers.of(problem, self.path, buffers))
        if self._seen is None or self._seen[1] is None:
            return (lambda number: self._simple) if self._simple else None
        first = self._seen[1].at(*at)
        return lambda number: {**self._simple, **first(number)}

    def _extras(
        self, problem: Problem, point: Point, buffers: Mapping[str, Tensor]
    ) -> dict[str, float]:
        found = {}
        if "gradient_norm" in self.extras:
            found["gradient_norm"] = loss_gradient(problem, point, buffers)[1].norm().item()
        if "lambda_max" in self.extras:
            from ridgeline.landscape.curvature.eigenpairs import top_eigenpairs
            from ridgeline.landscape.curvature.operators import Hessian

            operator = Hessian(problem, point, buffers=buffers)
            found["lambda_max"] = float(top_eigenpairs(operator, 1, seed=problem.seed).values[0])
        return found


def _worse(a: Scores, b: Scores) -> Scores:
    return Scores(
        torch.maximum(a.losses, b.losses),
        a.correct * b.correct,
        torch.minimum(a.margins, b.margins),
    )
