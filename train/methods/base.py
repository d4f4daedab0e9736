"""What a training method is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ridgeline.models.errors import InputError
from ridgeline.train.attacks import Attack
from ridgeline.train.data.augmentation import Augmentation
from ridgeline.train.data.examples import Batch, Images
from ridgeline.train.evaluation import Scores, scores_of_networks
from ridgeline.train.optimizers import OptimizerSpec
from ridgeline.train.options import Options
from ridgeline.train.parts.weight_average import Average
from ridgeline.train.schedules.shapes import Schedule

#: what schedules see: whole epochs, or with every batch the fractional one
CLOCKS = ("epoch", "batch")
#: state dicts by name
Kept = dict[str, dict[str, Tensor]]


def joined(*parts: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics of several sources as one dict; ValueError if two of them have the same name."""
    line: dict[str, Any] = {}
    for part in parts:
        if taken := line.keys() & part.keys():
            raise ValueError(f"two metrics have the name {', '.join(sorted(taken))}")
        line |= part
    return line


@dataclass(frozen=True)
class Step:
    """Where training stands: whole `epoch`, fractional `time` for schedules, step count, seed."""

    epoch: int
    time: float
    number: int
    seed: int


@dataclass(frozen=True)
class Setup:
    """What surrounds a method in a run. A method takes from it what it needs.

    `images` are the training images. Training faces `attack`; scores are taken under `eval_attack`
    (None: the same). `rate` and `momentum` are schedules of the optimiser (None: constant); they
    see the whole epoch, with clock "batch" the fractional one. `fresh(seed)` makes a newly
    initialised network like the one that is trained.
    """

    images: Images | None = None
    attack: Attack | None = None
    eval_attack: Attack | None = None
    optimizer: OptimizerSpec | None = None
    epochs: int = 0
    rate: Schedule | None = None
    momentum: Schedule | None = None
    clock: str = "epoch"
    augment: Augmentation | None = None
    seed: int = 0
    device: torch.device | str = "cpu"
    fresh: Callable[[int], nn.Module] | None = None

    @property
    def target(self) -> Attack | None:
        """The attack of the evaluation."""
        return self.eval_attack or self.attack

    def needed_attack(self) -> Attack:
        """The attack of training, for methods that cannot do without; raises InputError."""
        if self.attack is None:
            raise InputError("adversarial training, its options and --eval_attack need --attack")
        return self.attack


class Method(ABC):
    """One training method: what is trained, its loss on a batch, and hooks around the one loop.

    It is built from a network, the `Setup` of the run and its own options (`options_type`; None:
    the defaults). `network` holds everything that is trained and saved. Hooks: `attach`,
    `start_epoch`, `backward`, `after_step`, `end_epoch`; extra state for resuming goes through
    `state` and `load_state`. What a run needs of the method: `rate`, `momentum`, `clock`.

    A second network that follows the first is made by `follow`: it is saved, resumed and scored
    (COPY_clean, COPY_target) by itself. `snapshot_names` are all names that `start_epoch` and
    `end_epoch` will ever give: their files are claimed before training.
    """

    options_type: ClassVar[type[Options]] = Options
    network: nn.Module
    followers: Mapping[str, Average] = MappingProxyType({})
    snapshot_names: tuple[str, ...] = ()
    border: float = 0.0  # value around images that are cropped
    #: by the name of a data set, where the method's own paper differs from the usual augmentation
    augmentations: ClassVar[Mapping[str, Augmentation | None]] = MappingProxyType({})

    def __init__(
        self, network: nn.Module, setup: Setup | None = None, options: Options | None = None
    ):
        self.network, self.setup = network, setup or Setup()
        self.options, self.device = options or self.options_type(), self.setup.device
        self.followers = {}
        self.label = type(self).__name__.lower()  # in recipes and file names

    @classmethod
    def build(cls, network: nn.Module, setup: Setup, options: Options | None = None) -> Method:
        """The method that these options mean: this one, or another that it is compared with."""
        return cls(network, setup, options)

    @property
    def rate(self) -> Schedule | Callable[[float], float] | None:
        """The learning rate over the run; None: that of the optimiser."""
        return self.setup.rate

    @property
    def momentum(self) -> Schedule | None:
        """The optimiser's momentum over the run; None: its own."""
        return self.setup.momentum

    @property
    def divisible(self) -> bool:
        """Whether a batch's gradients are the mean of its parts', taken one after the other."""
        return type(self).backward is Method.backward

    @property
    def called(self) -> nn.Module:
        """The module whose passes are made: that of the layers."""
        return self.network

    @property
    def sums(self) -> list[Tensor]:
        """Running sums over an epoch for `metrics`, in which parts of a batch add up."""
        return []

    @property
    def compilable(self) -> bool:
        """Whether its network is called as a whole, without hooks that a compiler would miss."""
        return True

    @property
    def clock(self) -> str:
        """Whether schedules see the whole "epoch", or every "batch" its place in it."""
        return self.setup.clock

    @property
    def judged(self) -> nn.Module | None:
        """The network that is looked at beside its scores; None of what is no network."""
        return self.network

    def recipe(self) -> dict[str, Any]:
        """What of the method's options decides its numbers and is not the default."""
        return self.options.recipe()

    @abstractmethod
    def loss(self, batch: Batch, step: Step) -> tuple[Tensor, Tensor]:
        """Mean training loss (scalar) and logits (B, classes) of a batch."""

    def training_attack(self, step: Step) -> Attack | None:
        """The attack that makes the images of training, as it stands; None for clean images."""
        return None

    def attacks(self, step: Step) -> dict[str, Attack | None]:
        """Attacks of the evaluation by name, besides the setup's `target`."""
        return {}

    def evaluate(self, images: Images, step: Step, batch_size: int) -> dict[str, Scores]:
        """Scores on held-out images by name: `clean`, `target`, and under `attacks`.

        The networks that follow are scored clean and under `target`.
        """

        def scores(networks: dict[str, nn.Module], more: dict[str, Attack | None]) -> dict:
            return scores_of_networks(
                networks, images, {"target": self.setup.target, **more}, batch_size=batch_size,
                seed=step.seed, device=self.device,
            )  # fmt: skip

        return scores({"": self.network}, self.attacks(step)) | scores(self._begun(), {})

    def metrics(self, step: Step) -> dict:
        """Quantities besides learning rate and scores, for the metrics file: JSON values."""
        return {}

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Once, before the first step: the optimiser that will step."""

    def start_epoch(self, epoch: int) -> Kept:
        """Before an epoch's first batch; networks to keep on disk, by name."""
        return {}

    def backward(self, loss: Tensor) -> None:
        """Turn the loss into gradients."""
        loss.backward()

    def after_step(self, step: Step) -> None:
        """After every optimiser step."""

    def end_epoch(self, epoch: int) -> Kept:
        """After every epoch, before evaluation; networks to keep on disk, by name."""
        return {}

    def follow(self, name: str, decay: float | None, *, buffers: bool = True) -> Average:
        """A network that follows the trained one (`Average`); it begins with its `restart`."""
        self.followers[name] = Average(self.network, decay, buffers=buffers)
        self.followers[name].network.to(self.device)
        return self.followers[name]

    def _begun(self) -> dict[str, nn.Module]:
        return {name: average.network for name, average in self.followers.items() if average.seen}

    @property
    def copy_names(self) -> tuple[str, ...]:
        """All names that `copies` will ever give."""
        return tuple(self.followers)

    def copies(self) -> Kept:
        """State dicts of the networks that follow, once they have begun, by name."""
        return {name: network.state_dict() for name, network in self._begun().items()}

    def weights(self) -> dict[str, Tensor]:
        """The state dict that checkpoints hold, of the plain network that diagnostics load."""
        return self.network.state_dict()

    def beside(self) -> dict[str, Tensor]:
        """What checkpoints of the trained network hold beside it: what made its images, if learnt.

        Not the first one, before the first step.
        """
        return {}

    def state(self) -> dict[str, Any]:
        """What resuming needs besides the network: the networks that follow."""
        return {name: average.state() for name, average in self.followers.items()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore from `state()`."""
        for name, average in self.followers.items():
            average.load_state(state[name])
