"""The base class of training methods."""

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

#: the argument of schedules: the whole epoch, or the fractional epoch of every batch
CLOCKS = ("epoch", "batch")
#: state dicts by name
Kept = dict[str, dict[str, Tensor]]


def joined(*parts: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics of several sources as one dict. Raises ValueError for a name that occurs twice."""
    line: dict[str, Any] = {}
    for part in parts:
        if taken := line.keys() & part.keys():
            raise ValueError(f"two metrics have the name {', '.join(sorted(taken))}")
        line |= part
    return line


@dataclass(frozen=True)
class Step:
    """The position in training: whole `epoch`, fractional `time` for schedules, step, seed."""

    epoch: int
    time: float
    number: int
    seed: int


@dataclass(frozen=True)
class Setup:
    """The settings of a run that a method can use.

    - `images`: the training images.
    - `attack`: the attack of training; `eval_attack`: that of the evaluation (None: the same).
    - `rate`, `momentum`: schedules of the optimiser (None: constant). Their argument is the whole
      epoch, or with clock "batch" the fractional one.
    - `fresh(seed)`: makes a newly initialised network of the same architecture.
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
        """The attack of training. Raises InputError if there is none."""
        if self.attack is None:
            raise InputError("adversarial training, its options and --eval_attack need --attack")
        return self.attack


class Method(ABC):
    """One training method: the trained network, its loss on a batch, and hooks of the loop.

    It is built from a network, the `Setup` of the run and its own options (`options_type`; None:
    the defaults). `network` contains all that is trained and saved. The hooks are `attach`,
    `start_epoch`, `backward`, `after_step` and `end_epoch`. Further state for resuming goes through
    `state` and `load_state`. `rate`, `momentum` and `clock` are for the run.

    `follow` makes a second network that follows the first. It is saved, resumed and evaluated
    (COPY_clean, COPY_target) automatically. `snapshot_names` are all names that `start_epoch` and
    `end_epoch` can return: their files are locked before training.
    """

    options_type: ClassVar[type[Options]] = Options
    network: nn.Module
    followers: Mapping[str, Average] = MappingProxyType({})
    snapshot_names: tuple[str, ...] = ()
    border: float = 0.0  # value of the padding of cropped images
    #: data set -> augmentation, if the method's own paper differs from the usual one
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
        """The method for these options: this one, or a baseline it is compared with."""
        return cls(network, setup, options)

    @property
    def rate(self) -> Schedule | Callable[[float], float] | None:
        """The learning rate over the run; None: the optimiser's own."""
        return self.setup.rate

    @property
    def momentum(self) -> Schedule | None:
        """The optimiser's momentum over the run; None: the optimiser's own."""
        return self.setup.momentum

    @property
    def divisible(self) -> bool:
        """Whether a batch's gradient is the mean of the gradients of its parts."""
        return type(self).backward is Method.backward

    @property
    def called(self) -> nn.Module:
        """The module that the method calls, with the layers."""
        return self.network

    @property
    def sums(self) -> list[Tensor]:
        """Running sums over an epoch for `metrics`; the parts of a batch are added."""
        return []

    @property
    def compilable(self) -> bool:
        """Whether the network is called as a whole, without hooks, so that it can be compiled."""
        return True

    @property
    def clock(self) -> str:
        """What schedules get: the whole "epoch", or with "batch" the fractional one."""
        return self.setup.clock

    @property
    def judged(self) -> nn.Module | None:
        """The network for further measures; None if the trained object is not one network."""
        return self.network

    def recipe(self) -> dict[str, Any]:
        """The options that change the numbers and are not the default."""
        return self.options.recipe()

    @abstractmethod
    def loss(self, batch: Batch, step: Step) -> tuple[Tensor, Tensor]:
        """Mean training loss (scalar) and logits (B, classes) of a batch."""

    def training_attack(self, step: Step) -> Attack | None:
        """The attack that makes the training images at this step; None for clean images."""
        return None

    def attacks(self, step: Step) -> dict[str, Attack | None]:
        """Attacks of the evaluation by name, besides the setup's `target`."""
        return {}

    def evaluate(self, images: Images, step: Step, batch_size: int) -> dict[str, Scores]:
        """Scores on held-out images by name: `clean`, `target`, and under `attacks`.

        Networks that follow are evaluated clean and under `target`.
        """

        def scores(networks: dict[str, nn.Module], more: dict[str, Attack | None]) -> dict:
            return scores_of_networks(
                networks, images, {"target": self.setup.target, **more}, batch_size=batch_size,
                seed=step.seed, device=self.device,
            )  # fmt: skip

        return scores({"": self.network}, self.attacks(step)) | scores(self._begun(), {})

    def metrics(self, step: Step) -> dict:
        """Further quantities for the metrics file, as JSON values."""
        return {}

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Called once before the first step, with the optimiser."""

    def start_epoch(self, epoch: int) -> Kept:
        """Called before an epoch's first batch. Returns networks to save, by name."""
        return {}

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients of the loss."""
        loss.backward()

    def after_step(self, step: Step) -> None:
        """Called after every optimiser step."""

    def end_epoch(self, epoch: int) -> Kept:
        """Called after every epoch, before evaluation. Returns networks to save, by name."""
        return {}

    def follow(self, name: str, decay: float | None, *, buffers: bool = True) -> Average:
        """A network that follows the trained one (`Average`), from its `restart` on."""
        self.followers[name] = Average(self.network, decay, buffers=buffers)
        self.followers[name].network.to(self.device)
        return self.followers[name]

    def _begun(self) -> dict[str, nn.Module]:
        return {name: average.network for name, average in self.followers.items() if average.seen}

    @property
    def copy_names(self) -> tuple[str, ...]:
        """All names that `copies` can return."""
        return tuple(self.followers)

    def copies(self) -> Kept:
        """State dicts, by name, of the networks that follow and have started."""
        return {name: network.state_dict() for name, network in self._begun().items()}

    def weights(self) -> dict[str, Tensor]:
        """The state dict for checkpoints: that of the plain network, which diagnostics load."""
        return self.network.state_dict()

    def beside(self) -> dict[str, Tensor]:
        """Further tensors for checkpoints of the trained network: a learnt image generator.

        The first checkpoint, before the first step, does not have them.
        """
        return {}

    def state(self) -> dict[str, Any]:
        """The state for resuming besides the network: the networks that follow."""
        return {name: average.state() for name, average in self.followers.items()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore from `state()`."""
        for name, average in self.followers.items():
            average.load_state(state[name])
