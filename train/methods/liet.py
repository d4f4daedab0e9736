"""LIET: one-step adversarial training that starts from perturbations of the labels."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ridgeline.models.errors import InputError
from ridgeline.train.attacks import Attack, Predict
from ridgeline.train.attacks.norms import INF
from ridgeline.train.data.examples import Batch
from ridgeline.train.data.noise import Noise, Purpose
from ridgeline.train.methods.base import Method, Setup, Step
from ridgeline.train.options import Opt, Options
from ridgeline.train.specs import radius
from ridgeline.train.undisturbed import undisturbed

_GREY = 0.5
#: above this radius the published code uses stronger noise and does not clip to the ball
_NARROW = 8 / 255
# the counter of each kind of draw of an example
_NOISE, _MASK, _SHARE_AND_SIGN, _FIRST_LABELS, _LABELS = range(5)


@dataclass(frozen=True)
class LietOptions(Options):
    """The start of the single step, the labels, and the divergence between start and end."""

    eps: Annotated[
        str | float | None, Opt("radius in training; None: the one of --attack")
    ] = None  # fmt: skip
    wide: Annotated[
        bool | None,
        Opt("noise of 2 eps, images not clipped to the ball; None: where eps is above 8/255"),
    ] = None
    inherent_every: Annotated[
        int, Opt("steps between two computations of the labels' perturbations", low=1)
    ] = 20
    noise_low: Annotated[
        float, Opt("smallest share of pixels with noise instead of these", low=0, high=1)
    ] = 0.1
    noise_high: Annotated[float, Opt("largest such share", low=0, high=1)] = 0.5
    label_noise: Annotated[
        float, Opt("share of a label that is spread over other classes at random", low=0, high=1)
    ] = 0.6
    consistency: Annotated[
        float,
        Opt(
            "weight, in the last epoch, of the divergence between start and end of the step", low=0
        ),
    ] = 100.0
    average_decay: Annotated[
        float | None, Opt("decay per step of the average of weights; None: none", low=0, high=1)
    ] = 0.9995

    def check(self) -> None:
        """Raise InputError if the lower share exceeds the upper one."""
        if self.noise_low > self.noise_high:
            raise InputError(f"--noise_low {self.noise_low:g} is above --noise_high "
                             f"{self.noise_high:g}")  # fmt: skip

    def radius(self, setup: Setup) -> float:
        """`eps` in [0,1] units. Bare numbers are in the unit of --attack.

        Raises InputError without an attack, and for a radius that is not valid for l_inf.
        """
        attack = setup.needed_attack()
        if attack.order != INF:
            raise InputError("--attack: LIET trains in an l_inf ball; use order=-1")
        eps = attack.eps if self.eps is None else radius(self.eps, "--eps", attack.unit)
        if not 0 < eps <= 1:
            raise InputError(f"--eps must be positive and at most 1, the pixel range, got {eps:g}")
        return eps


@dataclass(frozen=True, kw_only=True)
class LabelStep(Attack):
    """One signed step from x +- d, where d is `inherent` (classes, C, H, W) of the label.

    A share of the pixels of d is replaced by uniform noise. It is drawn between `low` and `high`.
    """

    wide: bool
    low: float
    high: float
    inherent: Tensor = field(repr=False, compare=False)

    @property
    def reach(self) -> float:
        """The ball's radius, or with `wide` the radius of noise plus step."""
        return 3 * self.eps if self.wide else self.eps

    def start(self, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """The start of the step: images (N, C, H, W) in [0,1]."""
        drawn = (noise.uniform(x.new_empty(len(x), 2), _SHARE_AND_SIGN) + 1) / 2
        shares = self.low + (self.high - self.low) * drawn[:, :1]
        noisy = (noise.uniform(x, _MASK).flatten(1) + 1) / 2 < shares
        size = 2 * self.eps if self.wide else self.eps
        found = torch.where(
            noisy.view_as(x), size * noise.uniform(x, _NOISE), self.inherent[y].to(x)
        )
        signs = torch.where(drawn[:, 1] < 0.5, -1.0, 1.0).to(x).view(-1, 1, 1, 1)
        return (x + signs * found).clamp(0, 1)

    def end(self, x: Tensor, start: Tensor, slope: Tensor) -> Tensor:
        """The end of the step from `start` along the signs of the loss gradient `slope` there."""
        moved = start.detach() + self.eps * slope.sign()
        if not self.wide:
            moved = x + (moved - x).clamp(-self.eps, self.eps)
        return moved.clamp(0, 1)

    def perturb(self, predict: Predict, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """The end of the step along the gradient of the cross-entropy."""
        start = self.start(x, y, noise).requires_grad_()
        with torch.enable_grad():
            loss = F.cross_entropy(predict(start), y, reduction="sum")
        return self.end(x, start, torch.autograd.grad(loss, start)[0])


class Liet(Method):
    """Cross-entropy at the end of the step + weight * Jensen-Shannon divergence of its two ends.

    - The perturbation of a label is eps times the sign of the loss gradient by a grey image of that
      label, in eval mode. It is computed every `inherent_every` steps and at the start of every
      epoch.
    - The step starts at `LabelStep.start`. Both passes are in train mode, and the gradient of the
      divergence goes through both. Its weight increases linearly over the run to `consistency`.
    - In all labels a share is spread over the other classes at random, with new numbers in every
      pass.
    - The average of the weights, with BatchNorm's statistics, begins after the first step.
    - Defaults are those for CIFAR-10, with eps 8/255 and 100 epochs.

    Source: only the configuration and code of LIET in FastAT Benchmark (github.com/fzjcdt). There
    are two differences. The share of noise and the sign of the start are drawn per example, not
    once per batch, so that an example's numbers do not depend on its batch. The best and the last
    network are saved, both plain and averaged, not only the better one. The setup's attack is for
    evaluation only.
    """

    options_type = LietOptions
    options: LietOptions
    clock = "batch"

    def __init__(
        self, network: nn.Module, setup: Setup | None = None, options: LietOptions | None = None
    ):
        super().__init__(network, setup, options)
        given, images = self.options, self.setup.images
        self.eps = given.radius(self.setup)
        self.wide = self.eps > _NARROW if given.wide is None else given.wide
        if images is None:
            raise InputError("LIET needs the training images: their shape and their classes")
        if images.num_classes < 2:
            raise InputError(f"{images.name}: LIET spreads labels over other classes, and there is "
                             "only one")  # fmt: skip
        shape = (images.num_classes, *images.image_shape)
        dtype = next(network.parameters()).dtype
        self._inherent = torch.zeros(shape, device=self.device, dtype=dtype)
        self._epoch, self._taken = -1, 0  # when it was computed: epoch, number of the step
        if given.average_decay is not None:
            self.average = self.follow("average", given.average_decay)

    def recipe(self) -> dict[str, Any]:
        """The options, with the radius in [0,1] units."""
        return {**super().recipe(), "eps": self.eps, "wide": self.wide}

    def training_attack(self, step: Step) -> LabelStep:
        """The current single step, with plain labels."""
        given = self.options
        return LabelStep(eps=self.eps, wide=self.wide, low=given.noise_low, high=given.noise_high,
                         inherent=self._inherent)  # fmt: skip

    def weight(self, epoch: int) -> float:
        """The weight of the divergence in an epoch (from 0)."""
        return self.options.consistency * (epoch + 1) / max(self.setup.epochs, 1)

    def metrics(self, step: Step) -> dict[str, float]:
        """The radius of training, in [0,1] units, and the weight of the divergence."""
        return {"eps": self.eps, "consistency": self.weight(step.epoch)}

    def loss(self, batch: Batch, step: Step) -> tuple[Tensor, Tensor]:
        """Mean loss of the batch, and the logits at the end of the step."""
        if step.epoch != self._epoch or step.number - self._taken >= self.options.inherent_every:
            self._epoch, self._taken = step.epoch, step.number
            self._inherent = self._signs(step)
        attack = self.training_attack(step)
        noise = Noise(step.seed, batch.index, step.epoch, Purpose.LIET)
        start = attack.start(batch.x, batch.y, noise).requires_grad_()
        first = self.network(start)
        loss = self._losses(first, batch.y, noise, _FIRST_LABELS).sum()
        slope = torch.autograd.grad(loss, start, retain_graph=True)[0]
        logits = self.network(attack.end(batch.x, start, slope))
        loss = self._losses(logits, batch.y, noise, _LABELS).mean()
        return loss + self.weight(step.epoch) * jensen_shannon(first, logits).mean(), logits

    def after_step(self, step: Step) -> None:
        """Update the average, which starts as the network after the first step."""
        if self.options.average_decay is None:
            return
        if self.average.seen:
            self.average.update()
        else:
            self.average.restart()

    def state(self) -> dict[str, Any]:
        """The networks that follow, the labels' perturbations, and when they were computed."""
        return {**super().state(), "inherent": self._inherent, "epoch": self._epoch,
                "taken": self._taken}  # fmt: skip

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore from `state()`."""
        super().load_state(state)
        self._inherent = state["inherent"].to(self._inherent)
        self._epoch, self._taken = state["epoch"], state["taken"]

    def _losses(self, logits: Tensor, y: Tensor, noise: Noise, draw: int) -> Tensor:
        uniform = (noise.uniform(logits.detach(), draw) + 1) / 2
        targets = noisy_labels(y, uniform, self.options.label_noise)
        return -(targets * F.log_softmax(logits, 1)).sum(1)

    def _signs(self, step: Step) -> Tensor:
        """The signs of the gradient by a grey image of every class, times eps."""
        grey = torch.full_like(self._inherent, _GREY).requires_grad_()
        y = torch.arange(len(grey))
        noise = Noise(step.seed, y, step.number, Purpose.LIET_CLASSES)
        with undisturbed(self.network, eval_only=True), torch.enable_grad():
            losses = self._losses(self.network(grey), y.to(grey.device), noise, _LABELS)
            slope = torch.autograd.grad(losses.sum(), grey)[0]
        return self.eps * slope.sign()


def noisy_labels(y: Tensor, uniform: Tensor, share: float) -> Tensor:
    """Labels (N, C): 1 - `share` at classes y (N,); the rest in proportion to `uniform` (N, C).

    >>> noisy_labels(torch.tensor([0]), torch.tensor([[0.9, 0.25, 0.75]]), 0.5).tolist()
    [[0.5, 0.125, 0.375]]
    """
    own = F.one_hot(y, uniform.shape[1]).to(uniform)
    others = uniform.clamp_min(1e-12) * (1 - own)
    return (1 - share) * own + share * others / others.sum(1, keepdim=True)


def jensen_shannon(a: Tensor, b: Tensor) -> Tensor:
    """Jensen-Shannon divergence in nats, (N,), of the softmax of logits a, b (N, C); at most ln 2.

    >>> jensen_shannon(torch.tensor([[90.0, -90.0]]), torch.tensor([[-90.0, 90.0]])).item()
    0.6931471824645996
    """
    p, q = (F.log_softmax(z, 1) for z in (a, b))
    middle = torch.logaddexp(p, q) - math.log(2)
    return (p.exp() * (p - middle) + q.exp() * (q - middle)).sum(1) / 2
