"""Losses of one example, by name."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy in nats, (N,), of logits (N, C) and labels y (N,)."""
    return F.cross_entropy(logits, y, reduction="none")


def squared_error(outputs: Tensor, y: Tensor) -> Tensor:
    """Squared distance (N,) of outputs (N, C) to the one-hot labels."""
    return (outputs - F.one_hot(y, outputs.shape[1]).to(outputs)).square().sum(1)


def divergence(target: Tensor, logits: Tensor) -> Tensor:
    """KL(softmax(target) || softmax(logits)) in nats, (N,), of logits (N, C)."""
    p, q = (F.log_softmax(z, dim=1) for z in (target, logits))
    return (p.exp() * (p - q)).sum(1)


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Largest wrong logit less the right one, (N,), of logits (N, C): positive where y is missed.

    Its gradient does not fade where the network is confident, as that of the cross-entropy does.

    >>> margin(torch.tensor([[3.0, 1.0], [3.0, 1.0]]), torch.tensor([0, 1])).tolist()
    [-2.0, 2.0]
    """
    right = logits.gather(1, y[:, None])
    wrong = logits.scatter(1, y[:, None], -torch.inf)
    return wrong.amax(1) - right[:, 0]


def predicted(logits: Tensor) -> Tensor:
    """The predicted class (N,) of logits (N, C), -1 where one is NaN or infinite.

    argmax calls a row of NaN class 0, which would count as right for every example of class 0.
    """
    return logits.argmax(1).where(logits.isfinite().all(1), -1)


def sample_labels(logits: Tensor, uniform: Tensor) -> Tensor:
    """Labels (N,) drawn from softmax(logits) by inversion of uniform numbers (N,) in [0,1)."""
    below = logits.softmax(1).cumsum(1) <= uniform[:, None].to(logits)
    return below.sum(1).clamp_max(logits.shape[1] - 1)


#: what a Problem can minimise
LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy, "squared_error": squared_error}
