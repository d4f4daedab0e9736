"""Adversarial training, with a constant or a scheduled budget (PAS)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ridgeline.models.errors import InputError
from ridgeline.train.attacks import Attack
from ridgeline.train.data.examples import Batch, Images
from ridgeline.train.data.noise import Noise, Purpose
from ridgeline.train.evaluation import Scores, scores_of_networks
from ridgeline.train.methods.base import Kept, Method, Step
from ridgeline.train.objectives import Madry, Objective
from ridgeline.train.parts.batchnorm_statistics import recalibrate
from ridgeline.train.parts.weight_average import Average
from ridgeline.train.parts.weight_perturbation import WeightPerturbation
from ridgeline.train.schedules.shapes import Schedule


class Adversarial(Method):
    """Minimise the loss at adversarial examples: Madry et al. 2018, or another `objective`.

    With `eps_schedule` the budget follows the schedule and the step follows the budget: periodic
    adversarial scheduling (Liu et al. 2020, section 5). The attack sees the network in eval mode
    and leaves no trace; the training pass is in train mode. `judge` is the attack of the
    evaluation at the target budget (default: the attack itself). `awp` moves the weights up the
    loss before every step; `average` follows the network from epoch `average_from` (from 0) on,
    step by step if it has a decay (EMA, of BatchNorm's statistics too), else epoch by epoch (SWA),
    and is judged beside it. SWA's BatchNorm statistics are those of the clean training `images`,
    taken exactly after every epoch (Izmailov et al. 2018, section 3.2). Raises InputError for SWA
    without images.
    """

    def __init__(
        self,
        network: nn.Module,
        attack: Attack,
        eps_schedule: Schedule | None = None,
        device: torch.device | str = "cpu",
        judge: Attack | None = None,
        *,
        objective: Objective | None = None,
        awp: WeightPerturbation | None = None,
        average: Average | None = None,
        average_from: int = 0,
        images: Images | None = None,
    ):
        self.network, self.attack, self.device = network, attack, device
        self.judge = judge or attack
        self.eps_schedule, self.objective = eps_schedule, objective or Madry()
        self.awp, self.average, self.average_from, self.images = awp, average, average_from, images
        self.copy_names = () if average is None else ("average",)
        self._by_step = average is not None and average.decay is not None
        self._by_epoch = average is not None and average.decay is None
        if eps_schedule is not None:
            attack.at(eps_schedule(0))  # a budget that cannot be scaled is refused here
        self.objective.inner(attack)  # nor one that cannot train by this objective
        if self._by_epoch and images is None:
            raise InputError("the plain mean of networks (SWA) needs the training images")
        if average is not None:
            average.network.to(device)

    def attack_at(self, step: Step) -> Attack:
        """The attack at the scheduled budget."""
        if self.eps_schedule is None:
            return self.attack
        return self.attack.at(self.eps_schedule(step.time))

    def metrics(self, step: Step) -> dict[str, float]:
        """The scheduled budget, in [0,1] units."""
        return {"eps": self.attack_at(step).eps}

    def loss(self, batch: Batch, step: Step) -> tuple[Tensor, Tensor]:
        """Mean loss of the objective, and the logits of the adversarial batch."""
        attack = self.attack_at(step)
        noise = Noise(step.seed, batch.index, step.epoch, Purpose.TRAINING_ATTACK)
        x = self.objective.adversary(self.network, attack, batch, noise)
        if self.awp is not None:
            self.awp.perturb(lambda: self.objective.loss(self.network, batch, x)[0])
        return self.objective.loss(self.network, batch, x)

    def backward(self, loss: Tensor) -> None:
        """Gradients, at the perturbed weights if there are such; then the weights go back."""
        loss.backward()
        if self.awp is not None:
            self.awp.restore()

    def start_epoch(self, epoch: int) -> Kept:
        """The exponential average starts as a copy of what stands here."""
        if self._by_step and epoch == self.average_from:
            self.average.restart()
        return {}

    def after_step(self, step: Step) -> None:
        """Move the exponential average."""
        if self._by_step and step.epoch >= self.average_from:
            self.average.update()

    def end_epoch(self, epoch: int) -> Kept:
        """Take the epoch's network into the plain mean, whose BatchNorm then meets the images."""
        if self._by_epoch and epoch >= self.average_from:
            if epoch == self.average_from:
                self.average.restart()
            else:
                self.average.update()
            recalibrate(self.average.network, self.images, device=self.device)
        return {}

    def evaluate(self, images: Images, step: Step, batch_size: int) -> dict[str, Scores]:
        """Scores on clean images, at the target budget and at the scheduled budget."""
        options = {"batch_size": batch_size, "seed": step.seed, "device": self.device}
        scheduled = self.attack_at(step)
        if scheduled.eps == self.attack.eps:
            scheduled = self.judge
        attacks = {"target": self.judge, "scheduled": scheduled}
        scores = scores_of_networks({"": self.network}, images, attacks, **options)
        if self.average is not None and self.average.seen:
            others = {"average": self.average.network}
            scores |= scores_of_networks(others, images, {"target": self.judge}, **options)
        return scores

    def copies(self) -> Kept:
        """The average, once it has begun."""
        if self.average is None or not self.average.seen:
            return {}
        return {"average": self.average.network.state_dict()}

    def state(self) -> dict:
        """The average."""
        return {} if self.average is None else {"average": self.average.state()}

    def load_state(self, state: dict) -> None:
        """Restore from `state()`."""
        if self.average is not None:
            self.average.load_state(state["average"])
