"""A second network that follows the trained one: weight averages and momentum teachers."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ridgeline.models.copying import copy_of

#: name -> the networks that the average is taken over
AVERAGES = {
    "ema": "after every step",
    "swa": "after every epoch; its BatchNorm statistics are computed anew then, which takes time",
}


def move_towards(target: Iterable[Tensor], source: Iterable[Tensor], share: float) -> None:
    """Target <- (1 - share) target + share source, in place; integer tensors are copied.

    >>> target = torch.zeros(2)
    >>> move_towards([target], [torch.ones(2)], 0.25)
    >>> target.tolist()
    [0.25, 0.25]
    """
    pairs = [(t, s.detach()) for t, s in zip(target, source, strict=True)]
    real = [(t, s) for t, s in pairs if t.is_floating_point()]
    with torch.no_grad():
        if real:
            torch._foreach_lerp_([t for t, _ in real], [s for _, s in real], share)
        for t, s in pairs:
            if not t.is_floating_point():
                t.copy_(s)


class Average:
    """An average of a network's weights, as a second network without gradients.

    - `decay` d: average <- d average + (1 - d) network (EMA; 0: always the network itself). None:
      the plain mean of all networks so far (SWA, Izmailov et al. 2018).
    - `buffers`: average BatchNorm's statistics too. This is right for an EMA, whose networks are
      close to each other. For a plain mean recalibrate them instead
      (`train.parts.batchnorm_statistics.recalibrate`).
    """

    def __init__(self, network: nn.Module, decay: float | None = 0.999, *, buffers: bool = True):
        self.source, self.decay, self.buffers = network, decay, buffers
        self.network = copy_of(network).requires_grad_(False)
        self.seen = 0

    def restart(self) -> None:
        """Become a copy of the current network."""
        self.network.load_state_dict(self.source.state_dict())
        self.seen = 1

    def update(self, share: float | None = None) -> None:
        """Move towards the network by `share` (default: from `decay`)."""
        if share is None:
            share = 1 / (self.seen + 1) if self.decay is None else 1 - self.decay
        self.seen += 1
        move_towards(self.network.parameters(), self.source.parameters(), share)
        if self.buffers:
            move_towards(self.network.buffers(), self.source.buffers(), share)

    def state(self) -> dict:
        """The state for resuming."""
        return {"network": self.network.state_dict(), "seen": self.seen}

    def load_state(self, state: dict) -> None:
        """Restore from `state()`."""
        self.network.load_state_dict(state["network"])
        self.seen = state["seen"]
