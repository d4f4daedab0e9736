"""Read or disturb what enters chosen modules during a forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn


@contextmanager
def tapped(sites: Mapping[str, nn.Module], taps: dict[str, Tensor]) -> Iterator[None]:
    """Collect the input of every site during a forward pass."""

    def hook(name: str):
        return lambda module, inputs: taps.__setitem__(name, inputs[0])

    handles = [m.register_forward_pre_hook(hook(n)) for n, m in sites.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def disturbed(
    sites: Mapping[str, nn.Module], noise: Mapping[str, Tensor], sizes: dict[str, Tensor]
) -> Iterator[None]:
    """Add noise to the input of every site during a forward pass; `sizes` get the inputs' RMS."""

    def hook(name: str):
        def disturb(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            sizes[name] = inputs[0].detach().square().mean().sqrt()
            return (inputs[0] + noise[name], *inputs[1:])

        return disturb

    handles = [m.register_forward_pre_hook(hook(n)) for n, m in sites.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
