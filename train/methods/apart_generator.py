"""The generator of a training run as an attack, from the run itself or from its checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ridgeline.models.errors import InputError
from ridgeline.train.attacks import Attack, Predict
from ridgeline.train.data.examples import Images
from ridgeline.train.data.noise import Noise
from ridgeline.train.parts.layer_inputs import disturbed, reading_inputs


@dataclass(frozen=True, kw_only=True)
class Generator(Attack):
    """One signed step from the memory of an example, as in APART training (Li et al. 2020).

    The images are x + clip(clip(a_w w) + a s), clipped to eps and [0,1]. s is the sign of the loss
    gradient at x + clip(a_w w), `step` is a, and `memory_scale` is a_w. `memory` is w
    (M, C, H, W), possibly with a border. `rows` maps the index of a training image to its row; for
    images without a row w = 0. `noise_scales` are the scales of the noise at block inputs
    (`noisy`).
    """

    step: float
    memory_scale: float = 0.0
    noise_scales: tuple[float, ...] = ()
    memory: Tensor | None = field(default=None, repr=False, compare=False)
    rows: Mapping[int, int] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], images: Images | None = None) -> Generator:
        """The generator in one of our checkpoints, with its memory of `images`.

        Raises InputError if the tensors are not a generator or its memory is of other images.
        """
        if not {"eps", "step_size", "memory_scale", "noise_scales"} <= tensors.keys():
            raise InputError("the checkpoint holds no generator: train with train_apart")
        rows: dict[int, int] = {}
        memory = tensors.get("memory") if images is not None else None
        if memory is not None:
            place = {int(i): n for n, i in enumerate(tensors["index"])}
            if not all(int(i) in place for i in images.index):
                raise InputError("the generator of the checkpoint remembers other images")
            memory = memory[[place[int(i)] for i in images.index]]
            rows = {int(i): n for n, i in enumerate(images.index)}
        return cls(
            eps=tensors["eps"].item(), step=tensors["step_size"].item(),
            memory_scale=tensors["memory_scale"].item(),
            noise_scales=tuple(tensors["noise_scales"].tolist()), memory=memory, rows=rows,
        )  # fmt: skip

    def forgetful(self) -> Generator:
        """The same generator without memory, for images that it never saw."""
        return replace(self, memory=None, rows={})

    def start(self, x: Tensor, index: Tensor) -> Tensor:
        """The perturbation in memory for images x (N, C, H, W) with these indices."""
        found = torch.zeros_like(x)
        if self.memory is None:
            return found
        known = [n for n, i in enumerate(index.tolist()) if i in self.rows]
        kept = self.memory[[self.rows[i] for i in index.tolist() if i in self.rows]]
        border = (kept.shape[-1] - x.shape[-1]) // 2  # above 0 for runs that crop
        inner = slice(border, kept.shape[-2] - border), slice(border, kept.shape[-1] - border)
        own = (self.memory_scale * kept[..., inner[0], inner[1]]).clamp(-self.eps, self.eps)
        found[known] = own.to(x)
        return found

    def perturb(self, predict: Predict, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """The end of the step."""
        return self._step(predict, {}, x, y, noise.index)[0]

    def noisy(
        self, predict: Predict, sites: Mapping[str, nn.Module], x: Tensor, y: Tensor, index: Tensor
    ) -> Tensor:
        """Logits (N, classes) on its images with its noise at the block inputs, as in training.

        Raises InputError if the number of sites differs from the number of scales.
        """
        if len(sites) != len(self.noise_scales):
            raise InputError(
                f"the generator has noise for {len(self.noise_scales)} blocks, the network "
                f"{len(sites)}; it was trained without --layerwise or for another network"
            )
        moved, signs = self._step(predict, sites, x, y, index)
        scaled = zip(sites, self.noise_scales, strict=True)
        noise = {name: scale * signs[name] for name, scale in scaled}
        with torch.no_grad(), disturbed(sites, noise, {}):
            return predict(moved)

    def _step(
        self, predict: Predict, sites: Mapping[str, nn.Module], x: Tensor, y: Tensor, index: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The images, and the signs of the loss gradient by every site's input."""
        start = self.start(x, index)
        first = (x + start).clamp(0, 1).detach().requires_grad_()
        inputs_of: dict[str, Tensor] = {}
        with torch.enable_grad(), reading_inputs(sites, inputs_of):
            loss = F.cross_entropy(predict(first), y, reduction="sum")
        slope, *others = torch.autograd.grad(loss, [first, *inputs_of.values()])
        delta = (start + self.step * slope.sign()).clamp(-self.eps, self.eps)
        signs = {name: g.sign() for name, g in zip(inputs_of, others, strict=True)}
        return (x + delta).clamp(0, 1).detach(), signs
