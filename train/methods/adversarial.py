"""Adversarial training, with a constant or a scheduled budget (PAS)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from torch import Tensor, nn

from ridgeline.models.errors import InputError
from ridgeline.train.attacks import Attack, check_budget
from ridgeline.train.data.examples import Batch
from ridgeline.train.data.noise import Noise, Purpose
from ridgeline.train.methods.base import Kept, Method, Setup, Step
from ridgeline.train.objectives import (
    AwpGamma,
    ObjectiveName,
    TradesBeta,
    objective_of,
    perturbation_of,
)
from ridgeline.train.options import Opt, Options
from ridgeline.train.parts.batchnorm_statistics import recalibrate
from ridgeline.train.parts.weight_average import AVERAGES
from ridgeline.train.schedules import check_not_negative, parse_schedule
from ridgeline.train.schedules.shapes import Schedule


@dataclass(frozen=True)
class AdversarialOptions(Options):
    """The objective of adversarial training, its budgets, and the average of its weights."""

    objective: ObjectiveName = "at"
    trades_beta: TradesBeta = 6.0
    awp_gamma: AwpGamma = 0.0
    attack_threshold_schedule: Annotated[
        str | Schedule | None, Opt("budget per epoch, e.g. name=cycle_cos,...; None: constant")
    ] = None
    average: Annotated[
        str | None, Opt("average of the weights during training", choices=AVERAGES)
    ] = None
    average_decay: Annotated[
        float, Opt("decay of ema per step", low=0, high=1, only={"average": ("ema",)})
    ] = 0.999
    average_from: Annotated[
        int, Opt("epochs before the average begins", low=0, only={"average": ()})
    ] = 0


class Adversarial(Method):
    """Minimise the loss at adversarial examples: Madry et al. 2018, or another `objective`.

    - With a schedule the budget follows the schedule, and the step follows the budget: periodic
      adversarial scheduling (PAS, Liu et al. 2020, section 5).
    - The attack uses the network in eval mode and does not change it. The training pass is in train
      mode.
    - Weight perturbation moves the weights along the gradient of the loss before every step.
    - The average of the weights begins at epoch `average_from` (counted from 0) and is evaluated
      too. `ema` is updated after every step, with BatchNorm's statistics. `swa` is updated after
      every epoch; its BatchNorm statistics are then computed exactly from the clean training images
      (Izmailov et al. 2018, section 3.2).

    Raises InputError without an attack, for budgets that the attack does not allow, and for swa
    without images.
    """

    options_type = AdversarialOptions
    options: AdversarialOptions

    def __init__(
        self,
        network: nn.Module,
        setup: Setup | None = None,
        options: AdversarialOptions | None = None,
    ):
        super().__init__(network, setup, options)
        given, self.attack = self.options, self.setup.needed_attack()
        self.label = "adversarial" if given.objective == "at" else given.objective
        self.eps_schedule = budget_schedule(
            given.attack_threshold_schedule, self.attack, self.setup.epochs
        )
        self.objective = objective_of(given.objective, given.trades_beta)
        self.objective.inner(self.attack)  # raises if the attack does not fit the objective
        self.awp = perturbation_of(network, given.awp_gamma)
        self._by_step, self._by_epoch = given.average == "ema", given.average == "swa"
        if given.average is None:
            return
        if self.setup.epochs and given.average_from >= self.setup.epochs:
            raise InputError(
                f"--average_from {given.average_from} leaves no epoch of {self.setup.epochs} to "
                "average"
            )
        if self._by_epoch and self.setup.images is None:
            raise InputError("the plain mean of networks (swa) needs the training images")
        self.average = self.follow("average", given.average_decay if self._by_step else None)

    def recipe(self) -> dict[str, Any]:
        """The options, with the parsed schedule."""
        found = super().recipe()
        if self.eps_schedule is not None:
            found["attack_threshold_schedule"] = repr(self.eps_schedule)
        return found

    @property
    def divisible(self) -> bool:
        """True, unless the weights are perturbed for every batch."""
        return type(self).backward is Adversarial.backward and self.awp is None

    def attack_at(self, step: Step) -> Attack:
        """The attack at the scheduled budget."""
        if self.eps_schedule is None:
            return self.attack
        return self.attack.at(self.eps_schedule(step.time))

    def training_attack(self, step: Step) -> Attack:
        """The objective's inner attack at the scheduled budget."""
        return self.objective.inner(self.attack_at(step))

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
        """Gradients, at the perturbed weights if there are any; then the weights are restored."""
        loss.backward()
        if self.awp is not None:
            self.awp.restore()

    def start_epoch(self, epoch: int) -> Kept:
        """Start the exponential average as a copy of the network."""
        if self._by_step and epoch == self.options.average_from:
            self.average.restart()
        return {}

    def after_step(self, step: Step) -> None:
        """Update the exponential average."""
        if self._by_step and step.epoch >= self.options.average_from:
            self.average.update()

    def end_epoch(self, epoch: int) -> Kept:
        """Add the epoch's network to the plain mean; compute the mean's BatchNorm statistics."""
        if self._by_epoch and epoch >= self.options.average_from:
            if epoch == self.options.average_from:
                self.average.restart()
            else:
                self.average.update()
            recalibrate(self.average.network, self.setup.images, device=self.device)
        return {}

    def attacks(self, step: Step) -> dict[str, Attack | None]:
        """The attack at the scheduled budget, if it is also the attack of the evaluation."""
        scheduled = self.attack_at(step)
        return {"scheduled": self.setup.target if scheduled.eps == self.attack.eps else scheduled}


def budget_schedule(given: str | Schedule | None, attack: Attack, epochs: int) -> Schedule | None:
    """The schedule behind --attack_threshold_schedule, its budgets in [0,1] units.

    Bare numbers are in the unit of --attack. Raises InputError for a wrong spec, and for a budget
    during the run that the attack does not allow.
    """
    if given is None:
        return None
    what, schedule = "--attack_threshold_schedule", given
    if isinstance(given, str):
        schedule = parse_schedule(given, what, budget=True, beside=attack.unit)
    check_not_negative(schedule, epochs, what)
    for quarter in range(4 * epochs + 1):
        time = quarter / 4
        check_budget(attack, schedule(time), f"{what} at epoch {time:g}")
    return schedule
