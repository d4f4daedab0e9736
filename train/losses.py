"""Losses of one example, by name."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ridgeline.models.errors import unknown

#: (outputs, targets), first axis N each -> the loss of every example (N,)
Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy in nats, (N,), of logits (N, C) and labels y (N,)."""
    return F.cross_entropy(logits, y, reduction="none")


def squared_error(outputs: Tensor, y: Tensor) -> Tensor:
    """Squared distance (N,) of outputs (N, ...), or (N,), to targets alike or one-hot labels."""
    if not y.is_floating_point():
        y = F.one_hot(y, outputs.shape[1]).to(outputs)
    return (outputs - y.view_as(outputs)).square().reshape(len(outputs), -1).sum(1)


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


def correctness(outputs: Tensor, y: Tensor) -> Tensor:
    """Whether each example is classified correctly (N,), NaN where outputs are no logits (N, C)."""
    if not _classifies(outputs, y):
        return torch.full((len(outputs),), torch.nan, dtype=torch.float64)
    return predicted(outputs) == y


def margins_of(outputs: Tensor, y: Tensor) -> Tensor:
    """The true logit less the largest other (N,), NaN where outputs are no logits (N, C)."""
    if not _classifies(outputs, y) or outputs.shape[1] < 2:
        return torch.full((len(outputs),), torch.nan, dtype=torch.float64)
    return -margin(outputs, y)


def _classifies(outputs: Tensor, y: Tensor) -> bool:
    whole = not y.is_floating_point() and y.dtype != torch.bool
    return outputs.ndim == 2 and y.ndim == 1 and whole


def sample_labels(logits: Tensor, uniform: Tensor) -> Tensor:
    """Labels (N,) drawn from softmax(logits) by inversion of uniform numbers (N,) in [0,1)."""
    below = logits.softmax(1).cumsum(1) <= uniform[:, None].to(logits)
    return below.sum(1).clamp_max(logits.shape[1] - 1)


#: what a Problem can minimise
LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy, "squared_error": squared_error}


def loss_of(loss: str | Loss) -> Loss:
    """The loss of that name, or the callable itself; InputError for an unknown name."""
    if callable(loss):
        return loss
    if loss not in LOSSES:
        raise unknown("loss", loss, LOSSES)
    return LOSSES[loss]


def unit_of(loss: str | Loss) -> str:
    """The unit of a loss: nat for the cross-entropy, none for others."""
    return "nat" if loss in ("cross_entropy", cross_entropy) else ""


def name_of(loss: str | Loss) -> str:
    """What recipes and figures call a loss."""
    if isinstance(loss, str):
        return loss
    return getattr(loss, "__qualname__", None) or type(loss).__name__
