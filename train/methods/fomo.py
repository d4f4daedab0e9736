"""FOMO: forget, relearn, consolidate. A labelled reconstruction, not the published code."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ridgeline.models.errors import InputError
from ridgeline.train.attacks import Attack
from ridgeline.train.data.augmentation import PADDING, Augmentation
from ridgeline.train.data.examples import Batch
from ridgeline.train.data.noise import Noise, Purpose
from ridgeline.train.losses import divergence
from ridgeline.train.methods.base import Kept, Method, Setup, Step
from ridgeline.train.methods.fomo_options import FomoOptions
from ridgeline.train.objectives import (
    objective_of,
    perturbation_of,
)
from ridgeline.train.parts.forgetting import (
    draw_masks,
    forget,
    forgettable,
    lowest,
    new_values,
)
from ridgeline.train.parts.phases import PhaseRate, Phases
from ridgeline.train.parts.saliency import snip
from ridgeline.train.schedules.shapes import Constant

#: when networks of chosen cycles are saved: before and after forgetting, and after relearning
SNAPSHOTS = ("before", "after", "relearnt")


class Fomo(Method):
    """Adversarial training that periodically forgets a random part of its later layers.

    After the warm-up a stable network starts as a copy. Then every cycle has three phases:

    1. Forgetting: a fraction `fomo_rate` of every weight in `fomo_scope` is re-initialised.
    2. Relearning: the loss is that of the objective + `fomo_lambda` * the divergence from the
       stable network on the same adversarial images.
    3. Consolidation: the loss is that of the objective only.

    The stable network follows by EMA. With "iter_tail" it does so after every step of
    consolidation, with "phase_end" once at the end of a cycle (use a decay of 0.5 to 0.9), with
    "iter_all" after every step from the warm-up on. These options are ablations: `fomo_select`
    other than random (snip: on the training images), `fomo_init`, `fomo_reset_momentum`,
    `fomo_cr_on`, `fomo_cr_loss` and `fomo_cr_in_consolidation`.

    This is a reconstruction. Only abstract, method figure, reviews and two quoted results of
    Ramkumar et al. 2024 (arXiv 2402.11733) could be read, and no code was published. The order of
    the phases, the fraction, the EMA and the consistency follow the figure and other papers of the
    authors. Never report a run as the published FOMO.
    """

    options_type = FomoOptions
    augmentations: ClassVar = {
        "cifar10": Augmentation(crop=PADDING, border="reflect", flip=True),
        "cifar100": Augmentation(crop=PADDING, flip=True, rotate=15.0),
    }  # values of the code it is based on
    options: FomoOptions

    def __init__(
        self, network: nn.Module, setup: Setup | None = None, options: FomoOptions | None = None
    ):
        super().__init__(network, setup, options)
        given, self.attack = self.options, self.setup.needed_attack()
        if given.fomo_init in ("fresh", "rewind") and self.setup.fresh is None:
            raise InputError(f"--fomo_init {given.fomo_init} draws from Setup.fresh, which is None")
        self.phases = Phases(
            self.setup.epochs, given.fomo_warmup, given.fomo_relearn, given.fomo_consolidate_epochs
        )
        self.objective = objective_of(given.objective, given.trades_beta)
        self.objective.inner(self.attack)  # raises if the attack does not fit the objective
        self.awp = perturbation_of(network, given.awp_gamma)
        self.stable = self.follow("stable", given.fomo_ema_decay)
        self.stable.network.eval()
        self.weights_to_forget = forgettable(
            network, given.fomo_scope, shortcut=given.fomo_include_shortcut,
            classifier=given.fomo_include_fc,
        )  # fmt: skip
        self.snapshot_names = tuple(
            _named(cycle, when) for cycle in sorted(self.phases.kept()) for when in SNAPSHOTS
        )
        self._optimizer: torch.optim.Optimizer | None = None
        self._consistency = torch.zeros(2, dtype=torch.float64, device=self.device)

    @property
    def rate(self) -> Callable[[float], float] | None:
        """The learning rate of the run, changed by --fomo_lr."""
        if self.options.fomo_lr == "piecewise":
            return self.setup.rate
        kind, _, value = self.options.fomo_lr.partition(":")
        base = self.setup.rate or Constant(start_v=self.setup.optimizer.lr)
        return PhaseRate(base, self.phases, float(value), hold=kind == "hold")

    @property
    def divisible(self) -> bool:
        """True, unless the weights are perturbed for every batch."""
        return type(self).backward is Fomo.backward and self.awp is None

    @property
    def sums(self) -> list[Tensor]:
        """The sum of the consistency terms and their number."""
        return [self._consistency]

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Store the optimiser: its momentum is reset with the forgotten weights."""
        self._optimizer = optimizer

    def start_epoch(self, epoch: int) -> Kept:
        """Forget at the start of a cycle. In three cycles, return the networks before and after."""
        self._consistency.zero_()
        phase, cycle, within = self.phases.at(epoch)
        if epoch == self.phases.warmup:
            self.stable.restart()
        if phase != "relearn" or within:
            return {}
        before = self._snapshot(cycle, "before")
        weights = self.weights_to_forget
        masks = self._masks(cycle)
        stable = self.stable.network.state_dict()
        values = new_values(
            weights, self.options.fomo_init, fresh=self.setup.fresh, seed=self.setup.seed,
            cycle=cycle, stable=stable,
        )  # fmt: skip
        forget(weights, masks, values, self._optimizer, self.options.fomo_reset_momentum)
        return before | self._snapshot(cycle, "after")

    def _masks(self, cycle: int) -> dict[str, Tensor]:
        weights, given = self.weights_to_forget, self.options
        if given.fomo_select == "random":
            exact = given.fomo_mask == "tensor"
            return draw_masks(weights, given.fomo_rate, self.setup.seed, cycle, exact=exact)
        if given.fomo_select == "magnitude":
            return lowest({n: w.detach().abs() for n, w in weights.items()}, given.fomo_rate)
        scores = snip(self.network, self.setup.images, device=self.device)
        return lowest({n: scores[n] for n in weights}, given.fomo_rate)

    def _snapshot(self, cycle: int, name: str) -> Kept:
        if cycle not in self.phases.kept():
            return {}
        copied = {k: v.detach().clone() for k, v in self.network.state_dict().items()}
        return {_named(cycle, name): copied}

    def loss(self, batch: Batch, step: Step) -> tuple[Tensor, Tensor]:
        """The objective's mean loss and, in relearning, the consistency; adversarial logits."""
        noise = Noise(step.seed, batch.index, step.epoch, Purpose.TRAINING_ATTACK)
        given, train_mode = self.options, self.options.attack_mode == "train"
        x = self.objective.adversary(self.network, self.attack, batch, noise, train_mode=train_mode)
        if self.awp is not None:
            self.awp.perturb(lambda: self.objective.loss(self.network, batch, x)[0])
        loss, logits = self.objective.loss(self.network, batch, x)
        phase = self.phases.at(step.epoch)[0]
        late = given.fomo_cr_in_consolidation and phase == "consolidate"
        if given.fomo_lambda and (phase == "relearn" or late):
            term = self._distance(x, logits)
            if given.fomo_cr_on == "both":
                term = term + self._distance(batch.x, self.network(batch.x))
            term_and_one = torch.stack([term.detach(), torch.ones_like(term)])
            self._consistency += term_and_one.double()
            loss = loss + given.fomo_lambda * term
        return loss, logits

    def _distance(self, x: Tensor, logits: Tensor) -> Tensor:
        with torch.no_grad():
            target = self.stable.network(x)
        if self.options.fomo_cr_loss == "mse":
            return F.mse_loss(logits, target)
        return divergence(target, logits).mean()

    def backward(self, loss: Tensor) -> None:
        """Gradients; then perturbed weights are restored."""
        loss.backward()
        if self.awp is not None:
            self.awp.restore()

    def after_step(self, step: Step) -> None:
        """Update the stable network, if it is updated after every step."""
        phase = self.phases.at(step.epoch)[0]
        when = self.options.fomo_consolidate
        tail = when == "iter_tail" and phase == "consolidate"
        if tail or (when == "iter_all" and phase != "learn"):
            self.stable.update()

    def end_epoch(self, epoch: int) -> Kept:
        """At the end of a cycle or of its relearning: update the stable network, save networks."""
        phase, cycle, within = self.phases.at(epoch)
        last = phase != "learn" and within == self.phases.length - 1
        if last and self.options.fomo_consolidate == "phase_end":
            self.stable.update()
        relearnt = phase == "relearn" and within == self.phases.relearn - 1
        return self._snapshot(cycle, "relearnt") if relearnt else {}

    def training_attack(self, step: Step) -> Attack:
        """The objective's inner attack."""
        return self.objective.inner(self.attack)

    def metrics(self, step: Step) -> dict:
        """Phase, cycle (from 1), and the mean consistency term of the epoch."""
        phase, cycle, _ = self.phases.at(step.epoch)
        total, count = self._consistency.tolist()
        return {"eps": self.attack.eps, "phase": phase, "cycle": cycle + 1,
                "consistency": total / count if count else 0.0}  # fmt: skip

    def state(self) -> dict:
        """The stable network and the epoch's running mean."""
        return {**super().state(), "consistency": self._consistency}

    def load_state(self, state: dict) -> None:
        """Restore from `state()`."""
        super().load_state(state)
        self._consistency.copy_(state["consistency"])


def _named(cycle: int, when: str) -> str:
    return f"cycle{cycle + 1}_{when}"
