"""Adversarial training, with a constant or a scheduled budget (PAS)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from train.attacks import Attack
from train.data import Batch, Images
from train.evaluation import Scores, evaluate
from train.guard import undisturbed
from train.methods.base import Method, Step
from train.noise import Noise
from train.schedules import Schedule


class Adversarial(Method):
    """Minimise the loss at adversarial examples only (Madry et al. 2018).

    With `eps_schedule` the budget follows the schedule and the step follows the budget: periodic
    adversarial scheduling (Liu et al. 2020, section 5). The attack sees the network in eval mode
    and leaves no trace; the training pass is in train mode. `judge` is the attack of the
    evaluation at the target budget (default: the attack itself).
    """

    def __init__(
        self,
        network: nn.Module,
        attack: Attack,
        eps_schedule: Schedule | None = None,
        device: torch.device | str = "cpu",
        judge: Attack | None = None,
    ):
        self.network, self.attack, self.device = network, attack, device
        self.judge = judge or attack
        self.eps_schedule = eps_schedule
        if eps_schedule is not None:
            attack.at(eps_schedule(0))  # a budget that cannot be scaled is refused here

    def attack_at(self, step: Step) -> Attack:
        """The attack at the scheduled budget."""
        if self.eps_schedule is None:
            return self.attack
        return self.attack.at(self.eps_schedule(step.time))

    def settings(self, step: Step) -> dict[str, float]:
        """The scheduled budget, in [0,1] units."""
        return {"eps": self.attack_at(step).eps}

    def loss(self, batch: Batch, step: Step) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy of the adversarial batch."""
        noise = Noise(step.seed, batch.index, step.epoch)
        with undisturbed(self.network):
            x = self.attack_at(step)(self.network, batch.x, batch.y, noise)
        logits = self.network(x)
        return F.cross_entropy(logits, batch.y), logits

    def evaluate(self, images: Images, step: Step, batch_size: int) -> dict[str, Scores]:
        """Scores on clean images, at the target budget and at the scheduled budget."""
        scheduled = self.attack_at(step)
        options = {"batch_size": batch_size, "seed": step.seed, "device": self.device}
        with undisturbed(self.network):
            clean = evaluate(self.network, images, **options)
            target = evaluate(self.network, images, self.judge, **options)
            if scheduled.eps == 0:
                now = clean
            elif scheduled.eps == self.attack.eps:
                now = target
            else:
                now = evaluate(self.network, images, scheduled, **options)
        return {"clean": clean, "target": target, "scheduled": now}
