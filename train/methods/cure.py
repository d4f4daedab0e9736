"""CURE: conserve, update and revise weights in adversarial training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ridgeline.models.errors import InputError, unknown
from ridgeline.models.stages import CLASSIFIER, STEM, stages
from ridgeline.train.attacks import Attack, away_from_clean
from ridgeline.train.data.examples import Batch, Images
from ridgeline.train.data.noise import Noise, Purpose, stream
from ridgeline.train.evaluation import Scores, scores_of_networks
from ridgeline.train.losses import divergence
from ridgeline.train.methods.base import Kept, Method, Step, joined
from ridgeline.train.parts.gradient_mask import SCOPES, update_masks
from ridgeline.train.parts.weight_average import Average
from ridgeline.train.undisturbed import undisturbed

#: what is kept of every masked tensor, as means over the steps of an epoch
TRACE = ("updated", "changed", "overlap", "prominence")


@dataclass(frozen=True)
class Variant:
    """A reading of the method: base loss, what the mask ranks, and which tensors it masks."""

    base: str  # trades: CE + beta KL; mixed: alpha CE + (1 - alpha) CE'; mixed_kl: ... KL
    score: str | None  # prominence, total, signed, signed_all; None: no mask
    first_only: bool = False  # only conv1 of the blocks
    resum: bool = False  # the gradient is alpha g_nat + (1 - alpha) g_KL + gamma g_CR


#: those named code_* are here only to repeat released code (Gowda et al. 2024)
VARIANTS = {
    "paper": Variant("trades", "prominence"),
    "code_rgp": Variant("mixed", "total"),
    "code_rgp_old": Variant("mixed_kl", "total"),
    "code_rgp_soft": Variant("trades", "signed", first_only=True),
    "code_rgp_soft_all": Variant("trades", "signed_all", first_only=True, resum=True),
    "none": Variant("trades", None),
}


class Cure(Method):
    """Conserve-update-revise (Gowda et al. 2024, arXiv 2401.14948).

    Every step: the TRADES loss CE + beta KL plus gamma times the divergence from a revision model
    on clean and on adversarial images; the gradients of the `percent` % of each tensor's weights
    with the lowest prominence alpha |dCE/dw| + (1 - alpha) |dCE'/dw| (eq. 6) are zeroed, the
    classifier's never; with probability `rate` the revision model follows the weights by EMA with
    decay min(1 - 1/(t+1), `decay`) (eq. 7). The trained network is the one to use.

    Readings where paper and code disagree: `percent` is the share conserved; percentiles per
    tensor (`scope` "global" offered); BatchNorm is masked too (`mask_bn`); the revision model
    normalises by its batch and keeps its own statistics ("batch", else "running"); beta is 5 as
    in the code (eq. 5 has 1). Zeroed gradients do not freeze: momentum and weight decay still move
    the weight; `strict` restores masked weights and their momenta after the step. `variant`: the
    other losses and masks of the released code (VARIANTS). `warmup` epochs of natural training
    come first in CURE_Eff; then the revision model starts as a copy, once.
    """

    copy_names = ("revision",)

    def __init__(
        self,
        network: nn.Module,
        attack: Attack,
        *,
        judge: Attack | None = None,
        variant: str = "paper",
        alpha: float = 0.1,
        beta: float = 5.0,
        gamma: float = 1.0,
        percent: float = 30.0,
        scope: str = "layer",
        mask_bn: bool = True,
        strict: bool = False,
        rate: float = 0.2,
        decay: float = 0.999,
        revision_bn: str = "batch",
        squared: bool = False,
        warmup: int = 0,
        device: torch.device | str = "cpu",
    ):
        for what, value, allowed in (("variant of CURE", variant, VARIANTS),
                                     ("scope of the percentile", scope, SCOPES),
                                     ("BatchNorm of the revision", revision_bn,
                                      ("batch", "running"))):  # fmt: skip
            if value not in allowed:
                raise unknown(what, value, allowed)
        for what, value, top in (("alpha", alpha, 1), ("percent", percent, 100), ("rate", rate, 1),
                                 ("decay", decay, 1)):  # fmt: skip
            if not 0 <= value <= top:
                raise InputError(f"CURE: {what} must lie in 0..{top}, got {value:g}")
        for what, value in (("trades_beta", beta), ("gamma", gamma), ("warmup", warmup)):
            if not value >= 0:
                raise InputError(f"CURE: {what} must not be negative, got {value:g}")
        self.network, self.attack, self.device = network, away_from_clean(attack), device
        self.judge, self.variant = judge or attack, VARIANTS[variant]
        self.alpha, self.beta, self.gamma, self.percent = alpha, beta, gamma, percent
        self.scope, self.strict, self.rate, self.decay = scope, strict, rate, decay
        self.squared, self.warmup = squared, warmup
        self.revision = Average(network, decay, buffers=revision_bn == "running")
        self.revision.network.to(device).train(revision_bn == "batch")
        self.masked = self._maskable(mask_bn) if self.variant.score else {}
        self._optimizer: torch.optim.Optimizer | None = None
        self._t = 0
        self._before: dict[str, Tensor] = {}
        self._masks: dict[str, Tensor] = {}
        self._trace = torch.zeros(len(self.masked) + 1, len(TRACE), device=device)

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
        """Its momenta are restored with masked weights when `strict`."""
        self._optimizer = optimizer

    def start_epoch(self, epoch: int) -> Kept:
        """The revision model starts as a copy, once."""
        self._trace.zero_()
        if epoch == self.warmup:
            self.revision.restart()
        return {}

    def loss(self, batch: Batch, step: Step) -> tuple[Tensor, Tensor]:
        """The total loss and the logits of the adversarial batch (clean in the warm-up)."""
        if step.epoch < self.warmup:
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
        distance = F.mse_loss if self.squared else lambda z, t: divergence(t, z).mean()
        revision = sum(distance(z, t) for z, t in zip((clean, logits), targets, strict=True))
        base = {
            "trades": natural + self.beta * kl,
            "mixed": self.alpha * natural + (1 - self.alpha) * robust,
            "mixed_kl": self.alpha * natural + (1 - self.alpha) * kl,
        }[self.variant.base]
        self._parts = {"natural": natural, "robust": robust, "kl": kl, "revision": revision}
        return base + self.gamma * revision, logits

    def backward(self, loss: Tensor) -> None:
        """Gradients, zeroed where the mask conserves."""
        if self._parts is None or self.variant.score is None:
            loss.backward()
            self._before = {}
            return
        scores = self._scores(loss)
        masks = update_masks(scores, self.percent, self.scope)
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
        """What the mask ranks; sets the gradients of the loss on the way."""
        kind, parts, weights = self.variant.score, self._parts, list(self.masked.values())
        if kind == "total":
            loss.backward()
            return {n: p.grad.abs() for n, p in self.masked.items()}
        if self.variant.resum:
            loss = (self.alpha * parts["natural"] + (1 - self.alpha) * parts["kl"]
                    + self.gamma * parts["revision"])  # fmt: skip
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
            found[name] = self.alpha * a + (1 - self.alpha) * b
        return found

    def after_step(self, step: Step) -> None:
        """Restore what is strictly conserved; note what changed; the revision model follows."""
        with torch.no_grad():
            if self.strict and self._before:
                self._restore()
            for row, (name, before) in enumerate(self._before.items()):
                self._trace[row, 1] += (self.masked[name] != before).float().mean()
        self._before = {}
        if step.epoch < self.warmup:
            return
        self._t += 1
        if stream(step.seed, Purpose.REVISION, step.number).random() < self.rate:
            self.revision.update(1 - min(1 - 1 / (self._t + 1), self.decay))

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

    def metrics(self, step: Step) -> dict:
        """Per masked tensor: intended and actual updated share, overlap, prominence."""
        means = (self._trace / self._trace[-1].clamp_min(1)).T.tolist()
        trace = {what: dict(zip(self.masked, row, strict=False))
                 for what, row in zip(TRACE, means, strict=True)}  # fmt: skip
        return joined({"eps": self.attack.eps}, trace)

    def evaluate(self, images: Images, step: Step, batch_size: int) -> dict[str, Scores]:
        """Scores of the network and of the revision model."""
        options = {"batch_size": batch_size, "seed": step.seed, "device": self.device}
        networks = {"": self.network}
        if self.revision.seen:
            networks["revision"] = self.revision.network
        return scores_of_networks(networks, images, {"target": self.judge}, **options)

    def copies(self) -> Kept:
        """The revision model, once there is one."""
        return {"revision": self.revision.network.state_dict()} if self.revision.seen else {}

    def state(self) -> dict:
        """The revision model, its clock, the last masks and the epoch's running means."""
        return {"revision": self.revision.state(), "t": self._t, "masks": self._masks,
                "trace": self._trace}  # fmt: skip

    def load_state(self, state: dict) -> None:
        """Restore from `state()`."""
        self.revision.load_state(state["revision"])
        self._t = state["t"]
        self._masks = {n: m.to(self.device) for n, m in state["masks"].items()}
        self._trace.copy_(state["trace"])
