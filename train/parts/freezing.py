"""Train only chosen stages of a network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ridgeline.models.errors import unknown
from ridgeline.models.stages import CLASSIFIER, STEM, stages
from ridgeline.train.data.noise import Purpose, generator_of


def check_stages(network: nn.Module, chosen: Sequence[str]) -> None:
    """Raise InputError for a stage that the network does not have."""
    found = stages(network)
    for name in chosen:
        if name not in found:
            raise unknown("stage to train", name, found)


def train_only(
    network: nn.Module,
    chosen: Sequence[str],
    *,
    stem: bool = True,
    reinitialise: bool = True,
    reinitialise_bn: bool = False,
    seed: int = 0,
) -> None:
    """Freeze all stages but the chosen ones (and the stem), optionally drawing those anew.

    Stages are named as in `models.stages`. Convolutions are drawn by Kaiming's uniform rule
    (fan-out, ReLU), the classifier from N(0, 0.01^2) with bias 0, BatchNorm set to (1, 0) if
    asked; the stem is never drawn anew. BatchNorm's running statistics of frozen stages still
    follow the data, as in the study of Gowda et al. 2024 (figures 2b and 11). Raises InputError
    for an unknown stage.
    """
    check_stages(network, chosen)
    found = stages(network)
    kept = {*chosen, *((STEM,) if stem else ())}
    for name, members in found.items():
        for member in members:
            network.get_parameter(member).requires_grad_(name in kept)
    if not reinitialise:
        return
    generator = generator_of(seed, Purpose.FREEZING)
    for name in chosen:
        for path in dict.fromkeys(m.rpartition(".")[0] for m in found[name] if name != STEM):
            _draw(network.get_submodule(path), generator, name == CLASSIFIER, reinitialise_bn)


def _draw(module: nn.Module, generator: torch.Generator, classifier: bool, bn: bool) -> None:
    """Draw on the CPU, whatever the device: the same numbers everywhere."""
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
