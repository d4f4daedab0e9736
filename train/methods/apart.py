"""APART: adversarial training against a generator that is trained by ascent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ridgeline.models.blocks import block_inputs
from ridgeline.models.errors import InputError
from ridgeline.train.attacks import PGD
from ridgeline.train.data.augmentation import Crop
from ridgeline.train.data.examples import Batch, Images
from ridgeline.train.data.noise import Purpose, stream
from ridgeline.train.methods.adversarial import Adversarial
from ridgeline.train.methods.apart_generator import Generator
from ridgeline.train.methods.apart_options import ApartOptions
from ridgeline.train.methods.base import Method, Setup, Step, joined
from ridgeline.train.parts.layer_inputs import disturbed, reading_inputs
from ridgeline.train.schedules.shapes import Triangle

_START = 1e-4  # initial value of the step and of the memory's scale
_TRACE = ("saturated", "clipped", "memory", "sign_agreement", "gain", "step_gradient")


class Apart(Method):
    """Minimise the loss on images that a trained one-step generator makes (Li et al. 2020).

    Each step has two passes in train mode; BatchNorm's statistics include both. The first pass is
    at x + clip(a_w w). It gives the signs s and s_b of the loss gradient by the images and by the
    input h_b of every block. The second pass is at x + clip(clip(a_w w) + a s) and h_b + a_b s_b.
    Its gradients train network and generator. The scalars a, a_w, a_b ascend by their own SGD with
    L2 coefficient `weight_decay_alpha`. The memory w in [-1,1] stores a direction per training
    image and follows its crops and flips.

    Choices where code and paper are unclear: all scalars share one optimiser with an explicit L2
    coefficient. It is 1200, the effective value of the published code (which says 400) under its
    torch version. a and a_w stay at 0 or above, so the memory never changes its sign. Cropped
    images have a grey border. In a network without residual blocks, `block_inputs` defines where
    the noise is added.

    `memory` and `layerwise` switch these parts on or off; `step` fixes a. Method fgsm has neither
    part and a fixed step of eps: FGSM training without random start. With a learnable step it is
    "FGSM+" (the paper only names it; this reading is ours). The scalars are not part of the
    network, so Hessians and directions do not include them; checkpoints store them separately. The
    setup's attack is for evaluation only. Source: arXiv 2010.08034 and its code.
    """

    options_type = ApartOptions
    options: ApartOptions
    border = 0.5
    clock = "batch"

    def __init__(
        self, network: nn.Module, setup: Setup | None = None, options: ApartOptions | None = None
    ):
        super().__init__(network, setup, options)
        given, setup, self.label = self.options, self.setup, self.options.method
        if given.method == "pgd":
            raise InputError("--method pgd is adversarial training: see Apart.build")
        self.eps, step = given.radii(setup)
        self._momentum = given.momentum(setup)
        cycle = given.cycle(setup)
        self.scalar_rate = Triangle(up_v=given.max_lr_alpha, cycle_freq=cycle)
        self.scalar_momentum = self._momentum or Triangle(low_v=0.9, up_v=0.9, cycle_freq=cycle)
        whole = given.method == "apart"
        block_noise = whole and given.layerwise
        self.sites = block_inputs(network) if block_noise else {}
        self.step_size = _scalar(_START if step is None else step, self.device)
        self.memory_scale = _scalar(_START, self.device)
        self.noise_scales = torch.zeros(len(self.sites), device=self.device, requires_grad=True)
        self.scalars = [] if step is not None else [self.step_size]
        self.memory: Tensor | None = None
        if whole and given.memory:
            self.scalars.append(self.memory_scale)
            self._row = {int(i): n for n, i in enumerate(setup.images.index)}
            padding = self._checked_padding()
            self.memory = _first_memory(setup.images, padding, setup.seed).to(self.device)
        if block_noise:
            self.scalars.append(self.noise_scales)
        self._optimizer = None
        if self.scalars:
            self._optimizer = torch.optim.SGD(
                self.scalars, lr=self.scalar_rate(0), momentum=self.scalar_momentum(0),
                weight_decay=given.weight_decay_alpha, maximize=True,
            )  # fmt: skip
        self._epoch = -1
        self._trace = torch.zeros(1 + len(_TRACE) + len(self.sites), device=self.device)

    @classmethod
    def build(cls, network: nn.Module, setup: Setup, options: ApartOptions | None = None) -> Method:
        """APART or FGSM. For method pgd: adversarial training by PGD with the same schedules.

        PGD has steps of eps/4, as in the paper, and returns its last iterate.
        """
        given = options or ApartOptions()
        if given.method != "pgd":
            return cls(network, setup, given)
        eps, _ = given.radii(setup)
        attack = PGD(eps=eps, step_size=eps / 4, iterations=given.iter_num, keep_best=False)
        method = Adversarial(network, replace(
            setup, attack=attack, eval_attack=setup.target, clock=cls.clock,
            momentum=given.momentum(setup),
        ))  # fmt: skip
        method.border, method.label = cls.border, "pgd"
        return method

    @property
    def momentum(self) -> Triangle | None:
        """The optimiser's momentum, which decreases while the learning rate increases."""
        return self._momentum

    @property
    def compilable(self) -> bool:
        """True, unless hooks add noise to blocks."""
        return not self.sites

    def recipe(self) -> dict[str, Any]:
        """The options, with the radii in [0,1] units."""
        eps, step = self.options.radii(self.setup)
        return {**super().recipe(), "eps": eps, "step": step}

    def loss(self, batch: Batch, step: Step) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy of the generator's batch, and its logits."""
        if step.epoch != self._epoch:
            self._epoch = step.epoch
            self._trace.zero_()
        augment = self.setup.augment
        crop = augment and augment.window(batch.index, step.seed, step.epoch)
        rows, remembered, start = None, None, torch.zeros_like(batch.x)
        if self.memory is not None:
            rows = torch.tensor([self._row[i] for i in batch.index.tolist()], device=self.device)
            remembered = self.memory[rows] if crop is None else crop.apply(self.memory[rows])
            start = (self.memory_scale * remembered).clamp(-self.eps, self.eps)
        first, signs = self._signs((batch.x + start).clamp(0, 1).detach(), batch.y)
        moved = batch.x + (start + self.step_size * signs["x"]).clamp(-self.eps, self.eps)
        x = moved.clamp(0, 1)
        x = x if x.requires_grad else x.requires_grad_()
        x.retain_grad()
        sizes: dict[str, Tensor] = {}
        noise = {n: a * signs[n] for n, a in zip(self.sites, self.noise_scales, strict=True)}
        with disturbed(self.sites, noise, sizes):
            logits = self.network(x)
        loss = F.cross_entropy(logits, batch.y)
        self._pass = (batch, step, rows, crop, remembered, x, moved.detach(), signs["x"])
        self._note(len(batch.y), gain=(loss - first).detach(), sizes=sizes)
        return loss, logits

    def backward(self, loss: Tensor) -> None:
        """Gradients of the network; also one step of the memory and the scalars."""
        for scalar in self.scalars:
            scalar.grad = None
        loss.backward()
        batch, step, rows, crop, remembered, x, moved, sign = self._pass
        with torch.no_grad():
            if rows is not None:
                self._remember(rows, crop, remembered, x.grad)
            delta = moved - batch.x
            slope = self.step_size.grad
            self._add(
                len(batch.y),
                saturated=(delta.abs() >= self.eps * (1 - 1e-6)).float().mean(),
                clipped=((moved < 0) | (moved > 1)).float().mean(),
                memory=torch.zeros(()) if remembered is None else remembered.abs().mean(),
                sign_agreement=(sign * x.grad.sign()).mean(),
                step_gradient=torch.zeros(()) if slope is None else slope.abs(),
            )
        del self._pass
        self._ascend(step)

    def _checked_padding(self) -> int:
        """Padding of images and memory. Raises InputError for changes other than crop and flip."""
        augment = self.setup.augment
        if augment is None:
            return 0
        if augment.rotate or augment.cutout:
            raise InputError(
                f"--augment {augment}: the memory of APART follows crops and flips only; leave "
                "rotate and cutout out, or pass --memory False"
            )
        return augment.crop

    def _ascend(self, step: Step) -> None:
        """One ascent step of the scalars on the loss minus their L2 term."""
        if self._optimizer is None:
            return
        for group in self._optimizer.param_groups:
            group["lr"] = self.scalar_rate(step.time)
            group["momentum"] = self.scalar_momentum(step.time)
        self._optimizer.step()
        with torch.no_grad():
            for scalar in (self.step_size, self.memory_scale):
                scalar.clamp_(min=0)

    def training_attack(self, step: Step) -> Generator:
        """The current generator, with its memory."""
        rows = {} if self.memory is None else self._row
        return replace(Generator.of(self._tensors()), memory=self.memory, rows=rows)

    def beside(self) -> dict[str, Tensor]:
        """The generator: its scalars, its memory, and the indices of the memory's images."""
        held = self._tensors()
        if self.memory is not None and self.options.save_memory:
            held |= {"memory": self.memory, "index": self.setup.images.index}
        return held

    def _tensors(self) -> dict[str, Tensor]:
        return {
            "eps": torch.tensor(self.eps, dtype=torch.float64), "step_size": self.step_size,
            "memory_scale": self.memory_scale, "noise_scales": self.noise_scales,
        }  # fmt: skip

    def metrics(self, step: Step) -> dict[str, float]:
        """Means of the generator over the epoch's examples; radii are relative to eps."""
        means = (self._trace[1:] / self._trace[0].clamp_min(1)).tolist()
        named = dict(zip((*_TRACE, *(f"noise_{n}" for n in self.sites)), means, strict=True))
        return joined(
            {"eps": self.eps},
            {f"generator_{name}": value for name, value in named.items()},
            {"generator_step": self.step_size.item() / self.eps},
            {"generator_memory_scale": self.memory_scale.item() / self.eps},
        )

    def state(self) -> dict[str, Tensor]:
        """Scalars, memory, their optimiser's momenta and the running means."""
        state = {"step_size": self.step_size, "memory_scale": self.memory_scale,
                 "noise_scales": self.noise_scales, "trace": self._trace,
                 "epoch": torch.tensor(self._epoch)}  # fmt: skip
        if self.memory is not None:
            state["memory"] = self.memory
        if self._optimizer is not None:
            state["optimizer"] = self._optimizer.state_dict()
        return state

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Restore from `state()`."""
        with torch.no_grad():
            for name in ("step_size", "memory_scale", "noise_scales"):
                getattr(self, name).copy_(state[name])
        self._trace.copy_(state["trace"])
        self._epoch = int(state["epoch"])
        if self.memory is not None:
            self.memory.copy_(state["memory"])
        if self._optimizer is not None:
            self._optimizer.load_state_dict(state["optimizer"])

    def _signs(self, x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The first pass: its loss, and the signs of the gradient by x and every block input."""
        x = x.requires_grad_()
        inputs_of: dict[str, Tensor] = {}
        with reading_inputs(self.sites, inputs_of):
            loss = F.cross_entropy(self.network(x), y)
        gradients = torch.autograd.grad(loss, [x, *inputs_of.values()])
        named = zip(["x", *inputs_of], gradients, strict=True)
        return loss.detach(), {name: g.sign() for name, g in named}

    def _remember(
        self, rows: Tensor, crop: Crop | None, remembered: Tensor, gradient: Tensor
    ) -> None:
        """Update the memory by one step of the generator, before the scalars change."""
        ratio = self.step_size / (self.memory_scale + 1e-7)
        window = (remembered + ratio * gradient.sign()).clamp(-1, 1).to(self.memory.dtype)
        if crop is None:
            self.memory[rows] = window
            return
        padded = self.memory[rows]
        crop.undo(padded, window)
        self.memory[rows] = padded

    def _note(self, count: int, *, gain: Tensor, sizes: Mapping[str, Tensor]) -> None:
        self._trace[0] += count
        self._add(count, gain=gain)
        for place, (name, scale) in enumerate(zip(self.sites, self.noise_scales, strict=True)):
            relative = scale.detach() / sizes[name].clamp_min(1e-12)
            self._trace[1 + len(_TRACE) + place] += count * relative

    def _add(self, count: int, **values: Tensor) -> None:
        for name, value in values.items():
            self._trace[1 + _TRACE.index(name)] += count * value.to(self._trace.device)


def _scalar(value: float, device: torch.device | str) -> Tensor:
    return torch.tensor(float(value), device=device, requires_grad=True)


def _first_memory(images: Images, padding: int, seed: int) -> Tensor:
    """1e-3 N(0,1) per example, determined by the seed and the example's index in the data set."""
    channels, height, width = images.image_shape
    shape = (channels, height + 2 * padding, width + 2 * padding)
    own = [stream(seed, Purpose.GENERATOR_MEMORY, int(i)) for i in images.index]
    rows = [torch.from_numpy(draw.standard_normal(shape, dtype="float32")) for draw in own]
    return 1e-3 * torch.stack(rows)
