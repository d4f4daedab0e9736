"""The stages of a network from stem to classifier, and its later stages."""

from __future__ import annotations

import re

from torch import nn

from ridgeline.models.errors import InputError

_BLOCK = re.compile(r"(layer|block|stage)\d+$")
STEM, CLASSIFIER = "stem", "classifier"


def stages(network: nn.Module) -> dict[str, tuple[str, ...]]:
    """Names of the parameters of every stage, in order: `stem`, `1`, `2`, ..., `classifier`.

    - Blocks are top-level modules named layer1, block1, ... If there are none, every module with
      parameters is a stage (those in a `Sequential` one by one); the first one is the stem.
    - BatchNorm belongs to the module before it.
    - Parameters of the network itself (class token, positions) belong to the stem.
    - The classifier is the last linear layer.

    Raises InputError for a network without a linear layer or without a stage between stem and
    classifier.
    """
    linear = [n for n, m in network.named_modules() if isinstance(m, nn.Linear)]
    if not linear:
        raise InputError(f"{type(network).__name__} has no linear layer that could be a classifier")
    groups: list[tuple[str, list[str]]] = []
    for name, module in _children(network, linear[-1]):
        own = [f"{name}.{n}" for n, _ in module.named_parameters()]
        if own and isinstance(module, nn.BatchNorm2d) and groups:
            groups[-1][1].extend(own)
        elif own:
            groups.append((name, own))
    body = [(n, g) for n, g in groups if n != linear[-1]]
    named = [(n, g) for n, g in body if _BLOCK.search(n)]
    blocks = named or body[1:]
    if not blocks:
        raise InputError(f"{type(network).__name__} has no stage between stem and classifier")
    first = body.index(blocks[0])
    direct = [n for n, _ in network.named_parameters(recurse=False)]
    found = {STEM: direct + [n for _, group in body[:first] for n in group]}
    for group in body[first:]:
        if group in blocks:
            found[str(len(found))] = []
        found[str(len(found) - 1)] += group[1]  # a module after a block, not a block itself
    found[CLASSIFIER] = [f"{linear[-1]}.{n}" for n, _ in
                         network.get_submodule(linear[-1]).named_parameters()]  # fmt: skip
    return {name: tuple(group) for name, group in found.items()}


def later(network: nn.Module) -> tuple[str, ...]:
    """The later stages: the last two blocks of four, the last of three, and the classifier."""
    names = [n for n in stages(network) if n not in (STEM, CLASSIFIER)]
    return (*names[(len(names) + 1) // 2 :], CLASSIFIER)


def _children(network: nn.Module, classifier: str) -> list[tuple[str, nn.Module]]:
    """Top-level modules. If none is a block, the modules inside of Sequential containers."""
    top = list(network.named_children())
    flat = any(_BLOCK.search(n) for n, _ in top)
    found = []
    for name, module in top:
        inside = isinstance(module, nn.Sequential) and (
            not flat or classifier.startswith(name + ".")
        )
        if inside:
            found += [(f"{name}.{n}", m) for n, m in module.named_children()]
        else:
            found.append((name, module))
    return found
