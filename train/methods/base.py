"""What a training method is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ridgeline.train.data.examples import Batch, Images
from ridgeline.train.evaluation import Scores

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


class Method(ABC):
    """One training method: what is trained, its loss on a batch, and hooks around the one loop.

    `network` holds everything that is trained and saved. Hooks: `attach`, `start_epoch`,
    `backward`, `after_step`, `end_epoch`; extra state for resuming goes through `state` and
    `load_state`. A second network that follows the first stands in `copies`, its scores are named
    COPY_clean, COPY_target. `copy_names` and `snapshot_names` are all names that `copies`, and that
    `start_epoch` and `end_epoch`, will ever give: their files are claimed before training.
    """

    network: nn.Module
    copy_names: tuple[str, ...] = ()
    snapshot_names: tuple[str, ...] = ()
    border: float = 0.0  # value around images that are cropped

    @abstractmethod
    def loss(self, batch: Batch, step: Step) -> tuple[Tensor, Tensor]:
        """Mean training loss (scalar) and logits (B, classes) of a batch."""

    @abstractmethod
    def evaluate(self, images: Images, step: Step, batch_size: int) -> dict[str, Scores]:
        """Scores on held-out images by name: `clean`, and what else the method is judged by."""

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

    def copies(self) -> Kept:
        """State dicts of networks besides `network` that checkpoints hold too, by name."""
        return {}

    def weights(self) -> dict[str, Tensor]:
        """The state dict that checkpoints hold, of the plain network that diagnostics load."""
        return self.network.state_dict()

    def state(self) -> dict[str, Tensor]:
        """Tensors besides the network that resuming needs."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Restore from `state()`."""
