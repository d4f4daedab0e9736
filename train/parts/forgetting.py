"""Forgetting: re-initialise a chosen fraction of the entries of chosen weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from ridgeline.models.errors import InputError, unknown
from ridgeline.models.stages import CLASSIFIER, STEM, later, stages
from ridgeline.train.data.noise import Purpose, number_of, stream

SCOPES = ("later", "last_stage", "first", "all")
INITS = ("fresh", "rewind", "zero", "stable")


def forgettable(
    network: nn.Module, scope: str = "later", *, shortcut: bool = False, classifier: bool = True
) -> dict[str, Tensor]:
    """Weights of two or more dimensions in the named stages; never BatchNorm or a bias.

    `later`: the last two of four blocks (`models.stages.later`). `last_stage`: the last block.
    `first`: all stages not in `later`. `all`: all stages. Convolutions of shortcuts are included
    only with `shortcut`. Raises InputError for an unknown scope and for an empty result.
    """
    if scope not in SCOPES:
        raise unknown("scope of forgetting", scope, SCOPES)
    found = stages(network)
    blocks = [n for n in found if n not in (STEM, CLASSIFIER)]
    chosen = {
        "later": later(network),
        "last_stage": (blocks[-1], CLASSIFIER),
        "first": tuple(n for n in found if n not in later(network)),
        "all": tuple(found),
    }[scope]
    names = {n for stage in chosen if classifier or stage != CLASSIFIER for n in found[stage]}
    weights = {
        n: p for n, p in network.named_parameters()
        if n in names and p.ndim > 1 and (shortcut or not _is_shortcut(n))
    }  # fmt: skip
    if not weights:
        raise InputError(f"scope {scope!r} holds no weights to forget in this network")
    return weights


def _is_shortcut(name: str) -> bool:
    return any(word in name.lower() for word in ("shortcut", "downsample"))


def draw_masks(
    weights: Mapping[str, Tensor], fraction: float, seed: int, cycle: int, *, exact: bool = True
) -> dict[str, Tensor]:
    """Random masks of entries to forget (bool, True: forget), determined by seed and cycle.

    `exact`: round(fraction * entries) of every tensor. Else each entry with this probability.
    """
    generator = stream(seed, Purpose.FORGETTING_MASK, cycle)
    masks = {}
    for name, w in weights.items():
        if exact:
            mask = torch.zeros(w.numel(), dtype=torch.bool)
            chosen = generator.permutation(w.numel())[: round(fraction * w.numel())]
            mask[torch.from_numpy(chosen)] = True
        else:
            mask = torch.from_numpy(generator.random(w.numel()) < fraction)
        masks[name] = mask.view_as(w).to(w.device)
    return masks


def lowest(
    scores: Mapping[str, Tensor], fraction: float, *, together: bool = False
) -> dict[str, Tensor]:
    """The round(fraction * entries) entries of lowest score in every tensor (bool).

    `together`: the lowest of all tensors together.
    """
    if together:
        flat = {"": torch.cat([s.flatten() for s in scores.values()])}
        parts = lowest(flat, fraction)[""].split([s.numel() for s in scores.values()])
        return {n: p.view_as(s) for (n, s), p in zip(scores.items(), parts, strict=True)}
    masks = {}
    for name, score in scores.items():
        mask = torch.zeros(score.numel(), dtype=torch.bool, device=score.device)
        count = round(fraction * score.numel())
        mask[score.flatten().argsort(stable=True)[:count]] = True
        masks[name] = mask.view_as(score)
    return masks


def new_values(
    weights: Mapping[str, Tensor],
    init: str,
    *,
    fresh: Callable[[int], nn.Module],
    seed: int,
    cycle: int,
    stable: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """The new values of forgotten entries, by tensor.

    `fresh`: a new draw of the network's initialiser in each cycle. `rewind`: the initial network's
    values. `zero`: 0. `stable`: the stable network's values.
    """
    if init == "zero":
        return {name: torch.zeros_like(w) for name, w in weights.items()}
    if init == "stable":
        return {name: stable[name].to(w) for name, w in weights.items()}
    number = seed if init == "rewind" else number_of(seed, Purpose.FORGETTING_VALUES, cycle)
    source = fresh(number).state_dict()
    return {name: source[name].to(w) for name, w in weights.items()}


def forget(
    weights: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    values: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer | None = None,
    momentum: str = "masked",
) -> None:
    """Set the entries in `masks` to `values`, and reset the optimiser's averages.

    `momentum`: reset the averages of the `masked` entries, of `all` entries of these tensors, or
    of `none`.
    """
    with torch.no_grad():
        for name, w in weights.items():
            w.copy_(torch.where(masks[name], values[name], w))
            kept = {} if optimizer is None else optimizer.state.get(w, {})
            for value in kept.values():
                if torch.is_tensor(value) and value.shape == w.shape and momentum != "none":
                    value[masks[name] if momentum == "masked" else ...] = 0
