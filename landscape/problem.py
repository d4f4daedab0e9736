"""A Problem: network, data and loss, and the attack that may define the loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.func import functional_call

from landscape.point import Point, buffers_of, point_of
from models.copying import copy_of
from models.errors import unknown
from train.attacks import Attack, Predict
from train.data import Batch, Images
from train.evaluation import Scores, attacked, evaluate
from train.losses import LOSSES


@dataclass(frozen=True)
class Problem:
    """L(theta) = sum over examples of the loss / number of examples, in eval mode.

    With an attack, the loss is that of the images the attack finds at theta (noise keyed by `seed`
    and example: common random numbers at every theta). Holds a private copy of the network and
    evaluates it by `functional_call`, so nothing of the caller's is ever touched. `batch_size` is
    a memory setting and never changes a value. The dtype is that of the Point. `calibration` are
    the images that recalibrated BatchNorm statistics come from (None: the problem's own).
    `loss` is a name in LOSSES; attacks climb the cross-entropy whatever it is.
    """

    network: nn.Module
    images: Images
    attack: Attack | None = None
    seed: int = 0
    batch_size: int = 100
    device: torch.device | str = "cpu"
    calibration: Images | None = None
    loss: str = "cross_entropy"
    origin: Point = field(init=False, repr=False)
    buffers: Mapping[str, Tensor] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise unknown("loss", self.loss, LOSSES)
        network = copy_of(self.network).eval().requires_grad_(False).to(self.device)
        object.__setattr__(self, "network", network)
        object.__setattr__(self, "origin", point_of(network))
        object.__setattr__(self, "buffers", buffers_of(network))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the network's parameters."""
        return next(iter(self.origin.values())).dtype

    def on(self, images: Images) -> Problem:
        """The same problem on other images; BatchNorm is still calibrated on the present ones."""
        return replace(self, images=images, calibration=self.calibration or self.images)

    def under(self, attack: Attack | None) -> Problem:
        """The same problem under another attack, or none."""
        return replace(self, attack=attack)

    def predict(self, point: Point, buffers: Mapping[str, Tensor] | None = None) -> Predict:
        """The function x -> logits at a Point; differentiable in the Point and in x."""
        dtype = next(iter(point.values())).dtype
        buffers = self.buffers if buffers is None else buffers
        state = {
            **{k: b.to(dtype) if b.is_floating_point() else b for k, b in buffers.items()},
            **point,
        }
        return lambda x: functional_call(self.network, state, (x,))

    def scores(
        self, point: Point | None = None, buffers: Mapping[str, Tensor] | None = None, tick=None
    ) -> Scores:
        """Loss and correctness of every example at a Point (default: the network's own)."""
        point = self.origin if point is None else point
        return evaluate(
            self.predict(point, buffers),
            self.images,
            self.attack,
            batch_size=self.batch_size,
            seed=self.seed,
            device=self.device,
            dtype=next(iter(point.values())).dtype,
            loss=LOSSES[self.loss],
            tick=tick,
        )

    def batches(
        self, dtype: torch.dtype = torch.float32, images: Images | None = None
    ) -> Iterator[Batch]:
        """The clean images (or others) on the device, in their fixed order."""
        return (images or self.images).batches(self.batch_size, device=self.device, dtype=dtype)

    def frozen(
        self, point: Point | None = None, buffers: Mapping[str, Tensor] | None = None, tick=None
    ) -> Problem:
        """The problem without attack on the images that the attack finds at a Point.

        Its gradient there is that of the adversarial loss (Danskin); its Hessian leaves out how
        the adversarial images move with theta.
        """
        if self.attack is None:
            return self
        point = self.origin if point is None else point
        dtype = next(iter(point.values())).dtype
        predict = self.predict(point, buffers)
        found = []
        options = {"batch_size": self.batch_size, "seed": self.seed, "device": self.device}
        for batch, x in attacked(predict, self.images, self.attack, dtype=dtype, **options):
            found.append(x.cpu())
            if tick is not None:
                tick(len(batch.y))
        images = replace(self.images, pixels=torch.cat(found))
        return replace(self.on(images), attack=None)
