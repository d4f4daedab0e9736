"""Training of curves that connect two minima."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from ridgeline.landscape.weights.paths import Path, curve
from ridgeline.landscape.weights.point import Point, buffers_of
from ridgeline.models.copying import copy_of
from ridgeline.models.errors import InputError
from ridgeline.train.attacks import Attack
from ridgeline.train.data.examples import Batch, Images, arguments_of
from ridgeline.train.data.noise import Noise, Purpose, stream
from ridgeline.train.evaluation import Scores, evaluate
from ridgeline.train.files.integrity import check_real
from ridgeline.train.losses import Loss, loss_of
from ridgeline.train.methods import Method, Setup, Step
from ridgeline.train.undisturbed import undisturbed


class Knots(nn.Module):
    """The control points of a curve as one module, to be trained and saved.

    State-dict keys are `conv1.weight_0, conv1.weight_1, ...`. Buffers are stored once, under their
    own names: only to repeat released code (Liu et al. 2020). Fixed knots do not require gradients.
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

    Every batch uses one t ~ U(0,1), determined by the seed and the step. The attack uses the
    network at t in eval mode. The training pass is in train mode.
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
        """False: every step calls the network with other weights, by an uncompiled function."""
        return False

    @property
    def called(self) -> nn.Module:
        """The network, which is called with the weights at t."""
        return self.base

    @property
    def path(self) -> Path:
        """The curve through the current knots."""
        return curve(self.curve_type, self.network.points())

    @property
    def judged(self) -> None:
        """None: a curve is not one network. Only its middle is evaluated."""

    def _state(self, point: Point) -> dict[str, Tensor]:
        return {**point, **dict(self.network.named_buffers())}

    def _predict(self, point: Point):
        state = self._state(point)
        return lambda x: functional_call(self.base, state, *arguments_of(x))

    def loss(self, batch: Batch, step: Step) -> tuple[Tensor, Tensor]:
        """Mean (adversarial) loss of the batch at a random t of the curve, and the outputs."""
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
        """Scores at the middle of the curve (t = 1/2), clean and under the attack."""
        middle = {n: w.detach() for n, w in self.path(0.5).items()}
        options = {"batch_size": batch_size, "seed": step.seed, "device": self.device,
                   "loss": loss_of(self.mean_loss)}  # fmt: skip
        with undisturbed(self.base):
            predict = self._predict(middle)
            scores = {"middle_clean": evaluate(predict, images, **options)}
            if self.attack is not None:
                scores["middle_target"] = evaluate(predict, images, self.attack, **options)
        return scores
