"""One loss of a network as the sharpness measures see it: values, gradients, and their cost."""

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
    """A measure, its standard error and what the error is over, and passes over all examples.

    A Hessian product counts as two backward passes, its recorded graph as one forward and one
    backward pass.
    """

    value: float
    se: float
    over: str
    forward: float
    backward: float


class View:
    """One loss on its images, without attack: clean ones, or adversarial ones that stand still.

    `attacked` is the problem whose attack made the images (None: clean), for measures that run it
    again at other weights. `other` is the frozen problem of the other loss on the same examples
    (None: there is none). `attack` has the budget of measures in the space of images. `forward`
    and `backward` count passes over all examples.
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
        """A measure with the passes that were spent so far."""
        return Value(value, se, over, self.forward, self.backward)

    def nothing(self) -> Value:
        """A measure that this loss does not have."""
        return self.value(math.nan, math.nan, "")


class Moving(View):
    """The adversarial loss itself: the attack runs again at every Point."""

    def __init__(self, attacked: Problem):
        super().__init__(attacked.under(None), attacked, attack=attacked.attack)

    def losses(self, point: Point | None = None) -> Tensor:
        """The loss (N,) of every example on the images that the attack finds at a Point."""
        images = self._images(point)
        self.forward += 1
        return self._on(images).evaluate(point).losses

    def gradient(self, point: Point | None = None) -> tuple[Tensor, Point]:
        """Losses (N,) and gradient on the images that the attack finds at a Point (Danskin)."""
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
    """The loss of logits (N, C) that are centred and divided by their spread, per example.

    The spread is the standard deviation over classes, (1/C) sum_c (z_c - mean)^2 under the root
    (Andriushchenko et al. 2023, section 3). A network that is only more confident is no flatter.
    """

    def normalised(logits: Tensor, y: Tensor) -> Tensor:
        centred = logits - logits.mean(1, keepdim=True)
        square = centred.square().mean(1, keepdim=True)
        return loss(centred / square.clamp_min(torch.finfo(square.dtype).tiny).sqrt(), y)

    normalised.__qualname__ = "cross_entropy of normalised logits"
    return normalised
