"""FOMO: forget, relearn, consolidate. A labelled reconstruction, not the published code."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ridgeline.models.errors import InputError, unknown
from ridgeline.train.attacks import Attack
from ridgeline.train.data.examples import Batch, Images
from ridgeline.train.data.noise import Noise, Purpose
from ridgeline.train.evaluation import Scores, scores_of_networks
from ridgeline.train.losses import divergence
from ridgeline.train.methods.base import Kept, Method, Step
from ridgeline.train.objectives import Madry, Objective
from ridgeline.train.parts.forgetting import (
    INITS,
    draw_masks,
    forget,
    forgettable,
    lowest,
    new_values,
)
from ridgeline.train.parts.phases import Cycles
from ridgeline.train.parts.saliency import snip
from ridgeline.train.parts.weight_average import Average
from ridgeline.train.parts.weight_perturbation import WeightPerturbation

CONSOLIDATIONS = ("iter_tail", "phase_end", "iter_all")
SELECTIONS = ("random", "magnitude", "snip")
#: when networks of chosen cycles are kept: around forgetting, and after relearning
SNAPSHOTS = ("before", "after", "relearnt")


class Fomo(Method):
    """Adversarial training that forgets a random part of its later layers again and again.

    After `cycles.warmup` epochs a stable network starts as a copy. Each cycle re-initialises
    `fraction` of every weight in `scope`, relearns with the objective's loss + `strength` * the
    divergence from the stable network on the same adversarial images, then consolidates: the
    objective alone, while the stable network follows by EMA ("iter_tail"; "phase_end": one update
    at the end of a cycle, use a decay of 0.5 to 0.9; "iter_all": after every step from the warm-up
    on). `select` other than random (magnitude, snip: lowest saliency on `images`), `init`,
    `momentum`, `both` (the divergence on clean images too), `squared` (between logits instead of
    KL) and `always` (the divergence during consolidation too) are ablations.

    This is a reconstruction: of Ramkumar et al. 2024 (arXiv 2402.11733) only abstract, method
    figure, reviews and two quoted results could be read, and no code was published. Order of the
    phases, fraction, EMA and consistency follow the figure and the authors' sister papers; never
    report a run as the published FOMO.
    """

    copy_names = ("stable",)

    def __init__(
        self,
        network: nn.Module,
        attack: Attack,
        cycles: Cycles,
        fresh: Callable[[int], nn.Module],
        *,
        objective: Objective | None = None,
        awp: WeightPerturbation | None = None,
        judge: Attack | None = None,
        images: Images | None = None,
        fraction: float = 0.035,
        scope: str = "later",
        shortcut: bool = False,
        classifier: bool = True,
        exact: bool = True,
        select: str = "random",
        init: str = "fresh",
        consolidation: str = "iter_tail",
        decay: float = 0.999,
        strength: float = 1.0,
        both: bool = False,
        squared: bool = False,
        always: bool = False,
        momentum: str = "masked",
        train_mode: bool = False,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ):
        for what, value, allowed in (
            ("consolidation", consolidation, CONSOLIDATIONS), ("init", init, INITS),
            ("selection", select, SELECTIONS), ("momentum", momentum, ("masked", "none", "all")),
        ):  # fmt: skip
            if value not in allowed:
                raise unknown(f"{what} of FOMO", value, allowed)
        if not 0 <= fraction <= 1 or not 0 <= decay <= 1 or not strength >= 0:
            raise InputError(
                f"FOMO: the forgotten fraction and the decay must lie in 0..1 and the consistency "
                f"weight must not be negative, got {fraction:g}, {decay:g}, {strength:g}"
            )
        if consolidation == "iter_tail" and not cycles.consolidate:
            raise InputError("FOMO: iter_tail needs 1 or more epochs of consolidation per cycle")
        self.network, self.attack, self.cycles, self.fresh = network, attack, cycles, fresh
        self.objective, self.awp, self.judge = objective or Madry(), awp, judge or attack
        self.objective.inner(attack)
        self.images, self.fraction, self.exact, self.select = images, fraction, exact, select
        self.init, self.consolidation, self.momentum = init, consolidation, momentum
        self.strength, self.both, self.squared, self.always = strength, both, squared, always
        self.train_mode, self.seed, self.device = train_mode, seed, device
        self.stable = Average(network, decay)
        self.stable.network.to(device).eval()
        options = {"shortcut": shortcut, "classifier": classifier}
        self.weights_to_forget = forgettable(network, scope, **options)
        self.snapshot_names = tuple(
            _named(cycle, when) for cycle in sorted(cycles.kept()) for when in SNAPSHOTS
        )
        self._optimizer: torch.optim.Optimizer | None = None
        self._consistency = torch.zeros(2, dtype=torch.float64, device=device)

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Its momentum is forgotten with the weights."""
        self._optimizer = optimizer

    def start_epoch(self, epoch: int) -> Kept:
        """Forget at the start of a cycle; networks before and after, of three cycles."""
        self._consistency.zero_()
        phase, cycle, within = self.cycles.at(epoch)
        if epoch == self.cycles.warmup:
            self.stable.restart()
        if phase != "relearn" or within:
            return {}
        before = self._snapshot(cycle, "before")
        weights = self.weights_to_forget
        masks = self._masks(cycle)
        stable = self.stable.network.state_dict()
        values = new_values(weights, self.init, fresh=self.fresh, seed=self.seed, cycle=cycle,
                            stable=stable)  # fmt: skip
        forget(weights, masks, values, self._optimizer, self.momentum)
        return before | self._snapshot(cycle, "after")

    def _masks(self, cycle: int) -> dict[str, Tensor]:
        weights = self.weights_to_forget
        if self.select == "random":
            return draw_masks(weights, self.fraction, self.seed, cycle, exact=self.exact)
        if self.select == "magnitude":
            return lowest({n: w.detach().abs() for n, w in weights.items()}, self.fraction)
        scores = snip(self.network, self.images, device=self.device)
        return lowest({n: scores[n] for n in weights}, self.fraction)

    def _snapshot(self, cycle: int, name: str) -> Kept:
        if cycle not in self.cycles.kept():
            return {}
        copied = {k: v.detach().clone() for k, v in self.network.state_dict().items()}
        return {_named(cycle, name): copied}

    def loss(self, batch: Batch, step: Step) -> tuple[Tensor, Tensor]:
        """The objective's mean loss and, in relearning, the consistency; adversarial logits."""
        noise = Noise(step.seed, batch.index, step.epoch, Purpose.TRAINING_ATTACK)
        x = self.objective.adversary(
            self.network, self.attack, batch, noise, train_mode=self.train_mode
        )
        if self.awp is not None:
            self.awp.perturb(lambda: self.objective.loss(self.network, batch, x)[0])
        loss, logits = self.objective.loss(self.network, batch, x)
        phase = self.cycles.at(step.epoch)[0]
        if self.strength and (phase == "relearn" or (self.always and phase == "consolidate")):
            term = self._distance(x, logits)
            if self.both:
                term = term + self._distance(batch.x, self.network(batch.x))
            term_and_one = torch.stack([term.detach(), torch.ones_like(term)])
            self._consistency += term_and_one.double()
            loss = loss + self.strength * term
        return loss, logits

    def _distance(self, x: Tensor, logits: Tensor) -> Tensor:
        with torch.no_grad():
            target = self.stable.network(x)
        return F.mse_loss(logits, target) if self.squared else divergence(target, logits).mean()

    def backward(self, loss: Tensor) -> None:
        """Gradients; then perturbed weights go back."""
        loss.backward()
        if self.awp is not None:
            self.awp.restore()

    def after_step(self, step: Step) -> None:
        """The stable network follows, when it does so step by step."""
        phase = self.cycles.at(step.epoch)[0]
        tail = self.consolidation == "iter_tail" and phase == "consolidate"
        if tail or (self.consolidation == "iter_all" and phase != "learn"):
            self.stable.update()

    def end_epoch(self, epoch: int) -> Kept:
        """The end of a cycle, and of its relearning."""
        phase, cycle, within = self.cycles.at(epoch)
        last = phase != "learn" and within == self.cycles.length - 1
        if last and self.consolidation == "phase_end":
            self.stable.update()
        relearnt = phase == "relearn" and within == self.cycles.relearn - 1
        return self._snapshot(cycle, "relearnt") if relearnt else {}

    def metrics(self, step: Step) -> dict:
        """Phase, cycle (from 1), and the mean consistency term of the epoch."""
        phase, cycle, _ = self.cycles.at(step.epoch)
        total, count = self._consistency.tolist()
        return {"eps": self.attack.eps, "phase": phase, "cycle": cycle + 1,
                "consistency": total / count if count else 0.0}  # fmt: skip

    def evaluate(self, images: Images, step: Step, batch_size: int) -> dict[str, Scores]:
        """Scores of the active and, once there is one, of the stable network."""
        options = {"batch_size": batch_size, "seed": step.seed, "device": self.device}
        networks = {"": self.network}
        if self.stable.seen:
            networks["stable"] = self.stable.network
        return scores_of_networks(networks, images, {"target": self.judge}, **options)

    def copies(self) -> Kept:
        """The stable network, from the end of the warm-up on."""
        return {"stable": self.stable.network.state_dict()} if self.stable.seen else {}

    def state(self) -> dict:
        """The stable network and the epoch's running mean."""
        return {"stable": self.stable.state(), "consistency": self._consistency}

    def load_state(self, state: dict) -> None:
        """Restore from `state()`."""
        self.stable.load_state(state["stable"])
        self._consistency.copy_(state["consistency"])


def _named(cycle: int, when: str) -> str:
    return f"cycle{cycle + 1}_{when}"
