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
    """What adversarial training minimises, at which budgets, and which average it keeps."""

    objective: ObjectiveName = "at"
    trades_beta: TradesBeta = 6.0
    awp_gamma: AwpGamma = 0.0
    attack_threshold_schedule: Annotated[
        str | Schedule | None, Opt("budget per epoch, e.g. name=cycle_cos,...; None: constant")
    ] = None
    average: Annotated[str | None, Opt("average the weights beside training", choices=AVERAGES)] = (
        None
    )
    average_decay: Annotated[
        float, Opt("decay of ema per step", low=0, high=1, only={"average": ("ema",)})
    ] = 0.999
    average_from: Annotated[
        int, Opt("epochs before the average begins", low=0, only={"average": ()})
    ] = 0


class Adversarial(Method):
    """Minimise the loss at adversarial examples: Madry et al. 2018, or another `objective`.

    With a schedule the budget follows it and the step follows the budget: periodic adversarial
    scheduling (Liu et al. 2020, section 5). The attack sees the network in eval mode and leaves no
    trace; the training pass is in train mode. Weight perturbation moves the weights up the loss
    before every step. The average follows the network from epoch `average_from` (from 0) on, step
    by step (ema, of BatchNorm's statistics too) or epoch by epoch (swa), and is scored beside it.
    BatchNorm's statistics of swa are those of the clean training images, taken exactly after every
    epoch (Izmailov et al. 2018, section 3.2). Raises InputError without an attack, for budgets that
    it cannot take, and for swa without images.
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
        self.objective.inner(self.attack)  # one that cannot train by this objective is refused here
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
        """The options, the schedule as it was understood."""
        found = super().recipe()
        if self.eps_schedule is not None:
            found["attack_threshold_schedule"] = repr(self.eps_schedule)
        return found

    @property
    def divisible(self) -> bool:
        """Unless the weights are perturbed for every batch."""
        return type(self).backward is Adversarial.backward and self.awp is None

    def attack_at(self, step: Step) -> Attack:
        """The attack at the scheduled budget."""
        if self.eps_schedule is None:
            return self.attack
        return self.attack.at(self.eps_schedule(step.time))

    def training_attack(self, step: Step) -> Attack:
        """What the objective makes of the attack at the scheduled budget."""
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
        """Gradients, at the perturbed weights if there are such; then the weights go back."""
        loss.backward()
        if self.awp is not None:
            self.awp.restore()

    def start_epoch(self, epoch: int) -> Kept:
        """The exponential average starts as a copy of what stands here."""
        if self._by_step and epoch == self.options.average_from:
            self.average.restart()
        return {}

    def after_step(self, step: Step) -> None:
        """Move the exponential average."""
        if self._by_step and step.epoch >= self.options.average_from:
            self.average.update()

    def end_epoch(self, epoch: int) -> Kept:
        """Take the epoch's network into the plain mean, whose BatchNorm then meets the images."""
        if self._by_epoch and epoch >= self.options.average_from:
            if epoch == self.options.average_from:
                self.average.restart()
            else:
                self.average.update()
            recalibrate(self.average.network, self.setup.images, device=self.device)
        return {}

    def attacks(self, step: Step) -> dict[str, Attack | None]:
        """The attack at the scheduled budget, which the evaluation takes while it is the target."""
        scheduled = self.attack_at(step)
        return {"scheduled": self.setup.target if scheduled.eps == self.attack.eps else scheduled}


def budget_schedule(given: str | Schedule | None, attack: Attack, epochs: int) -> Schedule | None:
    """The schedule behind --attack_threshold_schedule, its budgets in [0,1] units.

    Bare numbers are in the unit of --attack. Raises InputError, also for a budget within the run
    that the attack cannot take.
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
