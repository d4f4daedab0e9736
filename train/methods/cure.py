"""CURE: conserve, update and revise weights in adversarial training."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ridgeline.models.errors import InputError
from ridgeline.models.stages import CLASSIFIER, STEM, stages
from ridgeline.train.attacks import Attack, away_from_clean
from ridgeline.train.data.augmentation import CROP_AND_FLIP
from ridgeline.train.data.examples import Batch
from ridgeline.train.data.noise import Noise, Purpose, stream
from ridgeline.train.losses import divergence
from ridgeline.train.methods.adversarial import Adversarial
from ridgeline.train.methods.base import Kept, Method, Setup, Step, joined
from ridgeline.train.methods.cure_options import FREEZE, VARIANTS, CureOptions
from ridgeline.train.parts.gradient_mask import update_masks
from ridgeline.train.undisturbed import undisturbed

#: the quantities of every masked tensor, as means over the steps of an epoch
TRACE = ("updated", "changed", "overlap", "prominence")


class Cure(Method):
    """Conserve-update-revise (Gowda et al. 2024, arXiv 2401.14948).

    In every step:

    1. The loss is that of TRADES, CE + beta KL, plus gamma times the divergence from a revision
       model on clean and on adversarial images.
    2. In each tensor, the `percentile` % of weights with the lowest prominence
       alpha |dCE/dw| + (1 - alpha) |dCE'/dw| (eq. 6) get gradient 0. The classifier is not masked.
    3. With probability `ema_update_freq` the revision model follows the weights by EMA with decay
       min(1 - 1/(t+1), `ema_alpha`) (eq. 7).

    The result is the trained network, not the revision model.

    Choices where paper and code disagree: `percentile` is the share conserved. Percentiles are per
    tensor (or `rgp_scope` "global"). BatchNorm is masked too (`mask_bn`). The revision model
    normalises by its batch and has its own statistics (`rev_bn`). beta is 5 as in the code (eq. 5
    has 1). A weight with gradient 0 still moves by momentum and weight decay; `conserve` strict
    restores masked weights and their momenta after the step. `cure_variant`: the other losses and
    masks of the released code (VARIANTS). `epochs_warmup`: epochs of natural training at the start
    (CURE_Eff). After these the revision model starts as a copy, once.
    """

    options_type = CureOptions
    augmentations: ClassVar = {"svhn": CROP_AND_FLIP}
    options: CureOptions

    def __init__(
        self, network: nn.Module, setup: Setup | None = None, options: CureOptions | None = None
    ):
        super().__init__(network, setup, options)
        given = self.options
        if given.cure_variant == FREEZE:
            raise InputError("--cure_variant freeze is adversarial training: see Cure.build")
        if given.epochs_warmup > self.setup.epochs:
            raise InputError(f"--epochs_warmup must lie in 0..{self.setup.epochs} (--epoch_num)")
        self.label = f"cure_{given.cure_variant}"
        self.attack = away_from_clean(self.setup.needed_attack())
        self.variant, self.strict = VARIANTS[given.cure_variant], given.conserve == "strict"
        self.revision = self.follow("revision", given.ema_alpha, buffers=given.rev_bn == "running")
        self.revision.network.train(given.rev_bn == "batch")
        self.masked = self._maskable(given.mask_bn) if self.variant.score else {}
        self._optimizer: torch.optim.Optimizer | None = None
        self._t = 0
        self._before: dict[str, Tensor] = {}
        self._masks: dict[str, Tensor] = {}
        self._trace = torch.zeros(len(self.masked) + 1, len(TRACE), device=self.device)

    @classmethod
    def build(cls, network: nn.Module, setup: Setup, options: CureOptions | None = None) -> Method:
        """CURE. For the variant freeze: adversarial training of chosen stages only."""
        if options is None or options.cure_variant != FREEZE:
            return cls(network, setup, options)
        study = Adversarial(network, setup)
        study.label = f"cure_{FREEZE}"
        return study

    def _maskable(self, mask_bn: bool) -> dict[str, Tensor]:
        by_stage = stages(self.network)
        spared = {*by_stage[CLASSIFIER], *(by_stage[STEM] if self.variant.first_only else ())}
        norms = {n for n, m in self.network.named_modules() if isinstance(m, nn.BatchNorm2d)}
        return {
            n: p for n, p in self.network.named_parameters()
            if n not in spared and (mask_bn or n.rpartition(".")[0] not in norms)
            and (not self.variant.first_only or "conv1" in n)
        }  # fmt: skip

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Store the optimiser: with `strict` its momenta are restored with masked weights."""
        self._optimizer = optimizer

    def start_epoch(self, epoch: int) -> Kept:
        """Start the revision model as a copy, once."""
        self._trace.zero_()
        if epoch == self.options.epochs_warmup:
            self.revision.restart()
        return {}

    def loss(self, batch: Batch, step: Step) -> tuple[Tensor, Tensor]:
        """The total loss and the logits of the adversarial batch (clean in the warm-up)."""
        if step.epoch < self.options.epochs_warmup:
            self._parts = None
            logits = self.network(batch.x)
            return F.cross_entropy(logits, batch.y), logits
        with undisturbed(self.network):
            noise = Noise(step.seed, batch.index, step.epoch, Purpose.TRAINING_ATTACK)
            x = self.attack(self.network, batch.x, batch.y, noise)
        clean, logits = self.network(batch.x), self.network(x)
        natural, robust = F.cross_entropy(clean, batch.y), F.cross_entropy(logits, batch.y)
        kl = divergence(clean, logits).mean()
        with torch.no_grad():
            targets = self.revision.network(batch.x), self.revision.network(x)
        given, squared = self.options, self.options.aux_loss_type == "l2"
        distance = F.mse_loss if squared else lambda z, t: divergence(t, z).mean()
        revision = sum(distance(z, t) for z, t in zip((clean, logits), targets, strict=True))
        base = {
            "trades": natural + given.trades_beta * kl,
            "mixed": given.alpha * natural + (1 - given.alpha) * robust,
            "mixed_kl": given.alpha * natural + (1 - given.alpha) * kl,
        }[self.variant.base]
        self._parts = {"natural": natural, "robust": robust, "kl": kl, "revision": revision}
        return base + given.gamma * revision, logits

    def backward(self, loss: Tensor) -> None:
        """Gradients, set to 0 for conserved weights."""
        if self._parts is None or self.variant.score is None:
            loss.backward()
            self._before = {}
            return
        scores = self._scores(loss)
        masks = update_masks(scores, self.options.percentile, self.options.rgp_scope)
        for row, (name, p) in enumerate(self.masked.items()):
            mask = masks[name]
            p.grad.masked_fill_(~mask, 0)
            self._trace[row, 0] += mask.float().mean()
            self._trace[row, 3] += scores[name].abs().mean()
            if name in self._masks:
                old = self._masks[name]
                self._trace[row, 2] += (mask & old).sum() / (mask | old).sum().clamp_min(1)
        self._trace[-1] += torch.tensor([1.0, 1, bool(self._masks), 1], device=self.device)
        self._masks, self._parts = masks, None
        self._before = {n: p.detach().clone() for n, p in self.masked.items()}
        self._momenta = self._running() if self.strict else {}

    def _scores(self, loss: Tensor) -> dict[str, Tensor]:
        """The scores that the mask ranks. Also sets the gradients of the loss."""
        kind, parts, weights = self.variant.score, self._parts, list(self.masked.values())
        alpha, gamma = self.options.alpha, self.options.gamma
        if kind == "total":
            loss.backward()
            return {n: p.grad.abs() for n, p in self.masked.items()}
        if self.variant.resum:
            loss = alpha * parts["natural"] + (1 - alpha) * parts["kl"] + gamma * parts["revision"]
        if kind == "signed_all":
            loss.backward()
            return {n: p.grad.clone() for n, p in self.masked.items()}
        second = parts["robust" if kind == "prominence" else "kl"]
        by_nat = torch.autograd.grad(parts["natural"], weights, retain_graph=True)
        by_second = torch.autograd.grad(second, weights, retain_graph=True)
        loss.backward()
        found = {}
        for name, a, b in zip(self.masked, by_nat, by_second, strict=True):
            if kind == "prominence":
                a, b = a.abs(), b.abs()
            found[name] = alpha * a + (1 - alpha) * b
        return found

    def after_step(self, step: Step) -> None:
        """Restore strictly conserved weights, record changes, update the revision model."""
        with torch.no_grad():
            if self.strict and self._before:
                self._restore()
            for row, (name, before) in enumerate(self._before.items()):
                self._trace[row, 1] += (self.masked[name] != before).float().mean()
        self._before = {}
        if step.epoch < self.options.epochs_warmup:
            return
        self._t += 1
        given = self.options
        if stream(step.seed, Purpose.REVISION, step.number).random() < given.ema_update_freq:
            self.revision.update(1 - min(1 - 1 / (self._t + 1), given.ema_alpha))

    def _running(self) -> dict[str, dict[str, Tensor]]:
        """Copies of the optimiser's averages of the masked tensors, by tensor."""
        return {
            n: {k: v.clone() for k, v in self._optimizer.state.get(p, {}).items()
                if torch.is_tensor(v) and v.shape == p.shape}
            for n, p in self.masked.items()
        }  # fmt: skip

    def _restore(self) -> None:
        for name, p in self.masked.items():
            mask = self._masks[name]
            p.copy_(torch.where(mask, p, self._before[name]))
            for key, value in self._optimizer.state[p].items():
                if torch.is_tensor(value) and value.shape == p.shape:
                    old = self._momenta[name].get(key, torch.zeros_like(value))
                    value.copy_(torch.where(mask, value, old))

    def training_attack(self, step: Step) -> Attack | None:
        """PGD on the divergence; none in the warm-up."""
        return None if step.epoch < self.options.epochs_warmup else self.attack

    def metrics(self, step: Step) -> dict:
        """Per masked tensor: intended and actual share of updated weights, overlap, prominence."""
        means = (self._trace / self._trace[-1].clamp_min(1)).T.tolist()
        trace = {what: dict(zip(self.masked, row, strict=False))
                 for what, row in zip(TRACE, means, strict=True)}  # fmt: skip
        return joined({"eps": self.attack.eps}, trace)

    def state(self) -> dict:
        """The revision model, its step count, the last masks and the epoch's running means."""
        own = {"t": self._t, "masks": self._masks, "trace": self._trace}
        return {**super().state(), **own}

    def load_state(self, state: dict) -> None:
        """Restore from `state()`."""
        super().load_state(state)
        self._t = state["t"]
        self._masks = {n: m.to(self.device) for n, m in state["masks"].items()}
        self._trace.copy_(state["trace"])
