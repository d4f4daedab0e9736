"""Natural training before another method, or a natural network to start from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from torch import nn

from ridgeline.models import InputError
from ridgeline.run.shared.training import Run, Trainer
from ridgeline.train.files.checkpoint import load_checkpoint
from ridgeline.train.methods import METHODS
from ridgeline.train.options import Opt, Options


@dataclass(frozen=True)
class NaturalOptions(Options):
    """The natural network from which a method starts."""

    natural: Annotated[str | None, Opt("checkpoint of the natural network to start from")] = None
    natural_epochs: Annotated[
        int | None,
        Opt("epochs of natural training first; None: --epoch_num, 0: none (or --natural)", low=0),
    ] = None

    def check(self) -> None:
        """Raise InputError for two natural networks."""
        if self.natural is not None and self.natural_epochs:
            raise InputError("--natural and --natural_epochs: name one")

    def check_beside(self, epochs_warmup: int) -> None:
        """Raise InputError if the run itself begins with natural epochs."""
        if epochs_warmup and (self.natural is not None or self.natural_epochs):
            raise InputError("--epochs_warmup is natural training of its own; leave --natural out")

    def start(
        self, trainer: Trainer, network: nn.Module, run: tuple[Path, str], extra: dict[str, Any],
        epochs_warmup: int = 0,
    ) -> tuple[list[Run], Any]:  # fmt: skip
        """The natural run before `run` (folder, name), if any, and its entry in recipes.

        A natural network from a checkpoint is loaded at once.
        """
        if self.natural is not None:
            first = load_checkpoint(self.natural)
            first.load_into(network)
            return [], first.sha256
        count = self.natural_epochs
        count = trainer.training.epoch_num if count is None else count
        if not count or epochs_warmup:
            return [], None
        clean, (folder, name) = trainer.clean(count), run
        plain = METHODS["standard"](network, clean.setup)
        return [Run(clean, plain, folder, f"{name}_natural", extra)], {"epochs": count}


def continue_from(run: Run, network: nn.Module, anew: bool) -> None:
    """Train a run (or use it if complete), and load its last weights into the network."""
    run.train(anew)
    load_checkpoint(run.folder / f"{run.name}.ckpt").load_into(network)  # also if it was there
