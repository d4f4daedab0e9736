"""A Problem: network, data and loss, and the attack that may define the loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ridgeline.landscape.resume import Compute, Keep, Values, at_once
from ridgeline.landscape.weights.point import Point, buffers_of, point_of
from ridgeline.models.copying import copy_of
from ridgeline.models.errors import unknown
from ridgeline.train.attacks import Attack, Predict
from ridgeline.train.data.examples import Batch, Images
from ridgeline.train.evaluation import Scores, attacked, evaluate
from ridgeline.train.losses import LOSSES
from ridgeline.train.precision import exact


@dataclass(frozen=True)
class Problem:
    """L(theta) = sum over examples of the loss / number of examples, in eval mode.

    With an attack, the loss is that of the images the attack finds at theta (noise keyed by `seed`
    and example: common random numbers at every theta). Holds a private copy of the network and
    evaluates it by `functional_call`, so nothing of the caller's is ever touched. `batch_size` is
    a memory setting and never changes a value. The dtype is that of the Point. `calibration` are
    the images that recalibrated BatchNorm statistics come from (None: the problem's own).
    `loss` is a name in LOSSES; attacks climb the cross-entropy whatever it is. `keep` remembers
    finished parts of the work, so that what was killed resumes (`landscape.resume.resumable`).
    """

    network: nn.Module
    images: Images
    attack: Attack | None = None
    seed: int = 0
    batch_size: int = 100
    device: torch.device | str = "cpu"
    calibration: Images | None = None
    loss: str = "cross_entropy"
    keep: Keep = field(default=at_once, repr=False, compare=False)
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

    def resuming(self, keep: Keep) -> Problem:
        """The same problem with a memory for finished parts of its work."""
        return replace(self, keep=keep)

    def predict(self, point: Point, buffers: Mapping[str, Tensor] | None = None) -> Predict:
        """The function x -> logits at a Point; differentiable in the Point and in x."""
        dtype = next(iter(point.values())).dtype
        buffers = self.buffers if buffers is None else buffers
        state = {
            **{k: b.to(dtype) if b.is_floating_point() else b for k, b in buffers.items()},
            **point,
        }
        return exact()(lambda x: functional_call(self.network, state, (x,)))

    def scores(
        self, point: Point | None = None, buffers: Mapping[str, Tensor] | None = None, tick=None
    ) -> Scores:
        """Loss and correctness of every example at a Point (default: the network's own)."""
        found = []
        for chunk, options in self._chunks(point, buffers):
            options |= {"loss": LOSSES[self.loss]}
            score = partial(evaluate, images=chunk, attack=self.attack, **options)
            found.append(self._kept("scores", chunk, lambda score=score: vars(score())))
            if tick is not None:
                tick(len(chunk))
        return Scores(*(torch.cat([part[n] for part in found]) for n in ("losses", "correct")))

    def adversarial(
        self, point: Point | None = None, buffers: Mapping[str, Tensor] | None = None, tick=None
    ) -> Iterator[tuple[Batch, Tensor]]:
        """Every clean batch with what the attack makes of it at a Point (clean without an attack).

        Both on the device, the images in their fixed order.
        """
        for chunk, options in self._chunks(point, buffers):
            pairs = attacked(images=chunk, attack=self.attack, **options)
            found = self._kept("images", chunk, lambda pairs=pairs: {"x": next(pairs)[1]})
            (batch,) = chunk.batches(len(chunk), device=self.device, dtype=options["dtype"])
            if tick is not None:
                tick(len(chunk))
            yield batch, found["x"].to(batch.x)

    def _chunks(
        self, point: Point | None, buffers: Mapping[str, Tensor] | None
    ) -> Iterator[tuple[Images, dict[str, Any]]]:
        """The images in runs of `batch_size`, or of as many as the attack insists on.

        With what `evaluate` and `attacked` need to know of the Point, and of how to run.
        """
        point = self.origin if point is None else point
        options = {
            "predict": self.predict(point, buffers), "dtype": next(iter(point.values())).dtype,
            "seed": self.seed, "device": self.device,
        }  # fmt: skip
        size = (self.attack and self.attack.chunk) or self.batch_size
        for positions in torch.arange(len(self.images)).split(size):
            yield self.images.take(positions), {**options, "batch_size": size}

    def _kept(self, what: str, chunk: Images, compute: Compute) -> Values:
        """The values of one chunk, under a name that tells what was done with which examples."""
        first, last = chunk.index[0], chunk.index[-1]
        name = f"{what} of {chunk.name} {first}..{last}, {self.attack!r}, seed {self.seed}"
        return self.keep(name, compute)

    def batches(
        self, dtype: torch.dtype | None = None, images: Images | None = None
    ) -> Iterator[Batch]:
        """The clean images (or others) on the device, in their fixed order, in the network's dtype.

        Another `dtype` is for a Point that has another.
        """
        dtype = dtype or self.dtype
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
        found = [x.cpu() for _, x in self.adversarial(point, buffers, tick)]
        images = replace(self.images, pixels=torch.cat(found))
        return replace(self.on(images), attack=None)
