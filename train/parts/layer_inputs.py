"""Read or change the inputs of chosen modules during a forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

from torch import Tensor, nn

Inputs = tuple[Tensor, ...]


@contextmanager
def hooked(
    sites: Mapping[str, nn.Module], hook: Callable[[str, Inputs], Inputs | None]
) -> Iterator[None]:
    """Call `hook(name, inputs)` before every site. Its result (if not None) replaces the inputs."""
    handles = [
        module.register_forward_pre_hook(lambda _, inputs, name=name: hook(name, inputs))
        for name, module in sites.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def reading_inputs(
    sites: Mapping[str, nn.Module], inputs_of: dict[str, Tensor]
) -> AbstractContextManager[None]:
    """Collect the input of every site."""

    def read(name: str, inputs: Inputs) -> None:
        inputs_of[name] = inputs[0]

    return hooked(sites, read)


def disturbed(
    sites: Mapping[str, nn.Module], noise: Mapping[str, Tensor], sizes: dict[str, Tensor]
) -> AbstractContextManager[None]:
    """Add noise to the input of every site. `sizes` receives the inputs' root mean squares."""

    def disturb(name: str, inputs: Inputs) -> Inputs:
        sizes[name] = inputs[0].detach().square().mean().sqrt()
        return (inputs[0] + noise[name], *inputs[1:])

    return hooked(sites, disturb)
