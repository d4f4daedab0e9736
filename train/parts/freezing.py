"""Train only chosen stages of a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import nn

from ridgeline.models.errors import InputError, unknown
from ridgeline.models.stages import CLASSIFIER, STEM, stages
from ridgeline.train.data.noise import Purpose, generator_of
from ridgeline.train.options import Opt, Options


@dataclass(frozen=True)
class FreezeOptions(Options):
    """Which stages of a network train, and whether they are re-initialised."""

    blocks: Annotated[tuple[str, ...], Opt("freeze: the stages to train, e.g. 2,3")] = ()
    reinit: Annotated[bool, Opt("freeze: re-initialise these stages", only={"blocks": ()})] = True
    reinit_bn: Annotated[
        bool, Opt("freeze: their BatchNorm too", only={"blocks": (), "reinit": ()})
    ] = False
    freeze_stem: Annotated[bool, Opt("freeze: the stem too", only={"blocks": ()})] = False

    def check_beside(self, chosen: bool) -> None:
        """Raise InputError if --blocks and the variant freeze are not used together."""
        if chosen != bool(self.blocks):
            raise InputError("--blocks names the stages that --cure_variant freeze trains")


def check_stages(network: nn.Module, chosen: Sequence[str]) -> None:
    """Raise InputError for a stage that the network does not have."""
    found = stages(network)
    for name in chosen:
        if name not in found:
            raise unknown("stage to train", name, found)


def train_only(network: nn.Module, options: FreezeOptions, seed: int = 0) -> None:
    """Freeze all stages except the chosen `blocks` and the stem; optionally re-initialise `blocks`.

    Stages have the names of `models.stages`. Convolutions are drawn by Kaiming's uniform rule
    (fan-out, ReLU), the classifier from N(0, 0.01^2) with bias 0. BatchNorm is set to (1, 0) on
    request. The stem is never re-initialised. BatchNorm's running statistics of frozen stages still
    follow the data, as in Gowda et al. 2024 (figures 2b and 11). Raises InputError for an unknown
    stage.
    """
    chosen = options.blocks
    check_stages(network, chosen)
    found = stages(network)
    kept = {*chosen, *(() if options.freeze_stem else (STEM,))}
    for name, members in found.items():
        for member in members:
            network.get_parameter(member).requires_grad_(name in kept)
    if not options.reinit:
        return
    generator = generator_of(seed, Purpose.FREEZING)
    for name in chosen:
        for path in dict.fromkeys(m.rpartition(".")[0] for m in found[name] if name != STEM):
            _draw(network.get_submodule(path), generator, name == CLASSIFIER, options.reinit_bn)


def _draw(module: nn.Module, generator: torch.Generator, classifier: bool, bn: bool) -> None:
    """Draw on the CPU, so that every device has the same numbers."""
    with torch.no_grad():
        if isinstance(module, nn.BatchNorm2d):
            if bn:
                module.reset_parameters()
        elif isinstance(module, nn.Linear) and classifier:
            drawn = torch.empty(module.weight.shape).normal_(0, 0.01, generator=generator)
            module.weight.copy_(drawn)
            if module.bias is not None:
                module.bias.zero_()
        else:
            drawn = torch.empty(module.weight.shape)
            nn.init.kaiming_uniform_(
                drawn, mode="fan_out", nonlinearity="relu", generator=generator
            )
            module.weight.copy_(drawn)
