"""The batches and the steps of a training run."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ridgeline.models.errors import InputError
from ridgeline.train.data.examples import Images
from ridgeline.train.exchange import processes
from ridgeline.train.methods.base import Step
from ridgeline.train.undisturbed import undisturbed


@dataclass(frozen=True)
class Clock:
    """The steps of a run. Schedules get the whole epoch, or with `fractional` the exact time."""

    steps_per_epoch: int
    fractional: bool
    seed: int

    def step(self, epoch: int, number: int) -> Step:
        """Step `number` of an epoch, both from 0."""
        count = epoch * self.steps_per_epoch + number
        time = count / self.steps_per_epoch if self.fractional else float(epoch)
        return Step(epoch, time, count, self.seed)

    def last(self, epoch: int) -> Step:
        """The last step of an epoch."""
        return self.step(epoch, self.steps_per_epoch - 1)


def batches_of(order: Tensor, batch_size: int) -> list[Tensor]:
    """Training batches (positions) of an epoch, or of the rest of it.

    A last batch of a single example joins the batch before. BatchNorm cannot normalise one example,
    and this example would get the weight of a whole batch.
    """
    parts = list(order.split(batch_size)) if len(order) else []
    if batch_size > 1 and len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def check_batches(network: torch.nn.Module, images: Images, batch_size: int) -> None:
    """Raise InputError for training batches of one example, if the network cannot process them.

    If processes of torchrun share a batch, the smallest share counts.
    """
    count = processes()[1]
    smallest = min(map(len, batches_of(torch.arange(len(images)), batch_size)))
    if smallest < count:
        raise InputError(
            f"--batch_size {batch_size} with {len(images)} training images makes a batch of "
            f"{smallest}, too few for {count} processes; take another batch size or fewer processes"
        )
    if smallest // count > 1:
        return
    x = next(images.batches(1)).x.to(next(network.parameters()))
    with undisturbed(network), torch.no_grad():
        network.train()
        try:
            network(x)
        except ValueError as error:
            raise InputError(
                f"--batch_size {batch_size} with {len(images)} training images makes batches of "
                f"one example{' in a process' if count > 1 else ''}, which this network's "
                f"BatchNorm cannot normalise ({error})"
            ) from None
