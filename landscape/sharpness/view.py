"""One loss of a network in the form the sharpness measures use: values, gradients, cost."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ridgeline.landscape.gradient import loss_gradient
from ridgeline.landscape.pieces import piece_by_piece
from ridgeline.landscape.problem import Problem
from ridgeline.landscape.resume import Values, at_once
from ridgeline.landscape.weights.point import Point, unflatten
from ridgeline.train.attacks import Attack
from ridgeline.train.attacks.record import Trace
from ridgeline.train.data.examples import Data
from ridgeline.train.evaluation import attacked
from ridgeline.train.losses import Loss
from ridgeline.train.statistics import mean_and_error


@dataclass(frozen=True)
class Value:
    """A measure, its standard error, what the error is over, and the passes over all examples.

    A Hessian product counts as two backward passes. Its recorded graph counts as one forward and
    one backward pass.
    """

    value: float
    se: float
    over: str
    forward: float
    backward: float


class View:
    """One loss on fixed images, clean or adversarial; no attack is run.

    - `attacked`: the problem whose attack made the images (None: clean). Some measures run that
      attack again at other weights.
    - `other`: the frozen problem of the other loss on the same examples (None: there is none).
    - `attack`: gives the budget of measures in image space.
    - `forward`, `backward`: number of passes over all examples so far.
    """

    def __init__(
        self, frozen: Problem, attacked: Problem | None = None, other: Problem | None = None,
        attack: Attack | None = None,
    ):  # fmt: skip
        if frozen.attack is not None:
            raise ValueError("a view needs a problem without attack: use problem.frozen()")
        self.problem = frozen.resuming(at_once)
        self.attacked = None if attacked is None else attacked.resuming(at_once)
        self.other, self.attack = other, attack
        self.origin, self.seed = frozen.origin, frozen.seed
        self.forward = self.backward = 0.0

    def losses(self, point: Point | None = None) -> Tensor:
        """The loss (N,) of every example at a Point, in float64."""
        self.forward += 1
        return self.problem.evaluate(point).losses

    def gradient(self, point: Point | None = None) -> tuple[Tensor, Point]:
        """Losses (N,) at a Point, and the gradient of their mean there."""
        self.forward += 1
        self.backward += 1
        losses, flat = loss_gradient(self.problem, point)
        return losses, unflatten(flat.to(self.problem.device), self.origin)

    def mean(self, samples: Tensor, over: str) -> Value:
        """The mean of samples (n,) with its standard error."""
        return self.value(*mean_and_error(samples), over)

    def value(self, value: float, se: float, over: str) -> Value:
        """A measure with the number of passes so far."""
        return Value(value, se, over, self.forward, self.backward)

    def nothing(self) -> Value:
        """NaN, for a measure that this loss does not have."""
        return self.value(math.nan, math.nan, "")


class Moving(View):
    """The adversarial loss: the attack runs again at every Point."""

    def __init__(self, attacked: Problem):
        super().__init__(attacked.under(None), attacked, attack=attacked.attack)

    def losses(self, point: Point | None = None) -> Tensor:
        """The loss (N,) of every example on the images that the attack finds at a Point."""
        images = self._images(point)
        self.forward += 1
        return self._on(images).evaluate(point).losses

    def gradient(self, point: Point | None = None) -> tuple[Tensor, Point]:
        """Losses (N,) and gradient on the images that the attack finds at a Point.

        This is the gradient of the adversarial loss (Danskin's theorem).
        """
        images = self._images(point)
        self.forward += 1
        self.backward += 1
        losses, flat = loss_gradient(self.problem, point, images=images)
        return losses, unflatten(flat.to(self.problem.device), self.origin)

    def _on(self, images: Tensor) -> Problem:
        return self.problem.on(replace(self.problem.images, pixels=images))

    def _images(self, point: Point | None) -> Tensor:
        def perturbed(chunk: Data, options: dict[str, Any]) -> Values:
            record = Trace()
            batches = attacked(images=chunk, attack=self.attacked.attack, record=record, **options)
            (_, x), *_ = batches
            return {"x": x.cpu(), "passes": (record.forward, record.backward)}

        found = [
            f for _, f in piece_by_piece(self.attacked, "images", perturbed, point, None, None)
        ]
        forward, backward = (sum(f["passes"][n] for f in found) for n in (0, 1))
        count = len(self.problem.data)
        self.forward += forward / count
        self.backward += backward / count
        return torch.cat([f["x"] for f in found])


def normalised_logits(loss: Loss) -> Loss:
    """The loss of logits (N, C) that are centred and divided by their standard deviation.

    Both are taken over the C classes, per example; the variance is (1/C) sum_c (z_c - mean)^2
    (Andriushchenko et al. 2023, section 3). Multiplying all logits by a factor does not change
    this loss.
    """

    def normalised(logits: Tensor, y: Tensor) -> Tensor:
        centred = logits - logits.mean(1, keepdim=True)
        square = centred.square().mean(1, keepdim=True)
        return loss(centred / square.clamp_min(torch.finfo(square.dtype).tiny).sqrt(), y)

    normalised.__qualname__ = "cross_entropy of normalised logits"
    return normalised
