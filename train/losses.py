"""Losses of one example, by name."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ridgeline.models.errors import InputError, unknown

#: (outputs, targets), first axis N each -> the loss of every example (N,)
Loss = Callable[[Tensor, Tensor], Tensor]
_NO_GAP = 1e-12  # from the authors' code: avoids division by 0 for equal logits


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy in nats, (N,), of logits (N, C) and labels y (N,).

    >>> round(cross_entropy(torch.zeros(1, 10), torch.tensor([3])).item(), 4)  # chance: ln 10
    2.3026
    """
    return F.cross_entropy(logits, y, reduction="none")


def squared_error(outputs: Tensor, y: Tensor) -> Tensor:
    """Squared distance (N,) of outputs (N, ...) to targets of equal shape or one-hot labels.

    >>> squared_error(torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2)).tolist()
    [25.0]
    """
    if not y.is_floating_point():
        y = F.one_hot(y, outputs.shape[1]).to(outputs)
    return (outputs - y.view_as(outputs)).square().reshape(len(outputs), -1).sum(1)


def divergence(target: Tensor, logits: Tensor) -> Tensor:
    """KL(softmax(target) || softmax(logits)) in nats, (N,), of logits (N, C).

    >>> logits = torch.tensor([[1.0, 2.0, 4.0]])
    >>> divergence(logits, logits + 1).abs().round(decimals=6).tolist()  # softmax ignores a shift
    [0.0]
    """
    p, q = (F.log_softmax(z, dim=1) for z in (target, logits))
    return (p.exp() * (p - q)).sum(1)


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Largest wrong logit minus the right one, (N,), of logits (N, C). Positive if y is wrong.

    Unlike that of the cross-entropy, its gradient does not vanish for a confident network.

    >>> margin(torch.tensor([[3.0, 1.0], [3.0, 1.0]]), torch.tensor([0, 1])).tolist()
    [-2.0, 2.0]
    """
    right = logits.gather(1, y[:, None])
    wrong = logits.scatter(1, y[:, None], -torch.inf)
    return wrong.amax(1) - right[:, 0]


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Difference of logits ratio, (N,), of logits (N, C): Croce and Hein 2020, eq. 6.

    It is the margin divided by the difference of the largest and the third largest logit. It does
    not change when all logits are scaled or shifted. Raises InputError for fewer than 3 classes.

    >>> dlr(torch.tensor([[3.0, 1.0, -1.0]]), torch.tensor([0])).tolist()
    [-0.5]
    """
    if logits.shape[1] < 3:
        raise InputError(f"the DLR loss needs at least 3 classes, the network has "
                         f"{logits.shape[1]}; use loss_type=ce or cw")  # fmt: skip
    top = logits.topk(3, dim=1).values
    return margin(logits, y) / (top[:, 0] - top[:, 2] + _NO_GAP)


def dlr_towards(target: Tensor) -> Loss:
    """The targeted ratio (z_t - z_y) / (z_1 - (z_3 + z_4) / 2): Croce and Hein 2020, eq. 7.

    z_1 >= z_2 >= ... are the sorted logits, and `target` (N,) are the classes t. Raises InputError
    for fewer than 4 classes.
    """

    def loss(logits: Tensor, y: Tensor) -> Tensor:
        if logits.shape[1] < 4:
            raise InputError(f"the targeted DLR loss needs at least 4 classes, the network has "
                             f"{logits.shape[1]}; use loss_type=ce or cw")  # fmt: skip
        top = logits.topk(4, dim=1).values
        towards = logits.gather(1, torch.stack([target, y], 1))
        gap = top[:, 0] - (top[:, 2] + top[:, 3]) / 2
        return (towards[:, 0] - towards[:, 1]) / (gap + _NO_GAP)

    return loss


def predicted(logits: Tensor) -> Tensor:
    """The predicted class (N,) of logits (N, C); -1 if a logit is NaN or infinite.

    argmax returns class 0 for a row of NaN. This would count as correct for examples of class 0.
    """
    return logits.argmax(1).where(logits.isfinite().all(1), -1)


def correctness(outputs: Tensor, y: Tensor) -> Tensor:
    """Whether each example is classified correctly (N,); NaN if outputs are not logits (N, C)."""
    if not _classifies(outputs, y):
        return torch.full((len(outputs),), torch.nan, dtype=torch.float64)
    return predicted(outputs) == y


def margins_of(outputs: Tensor, y: Tensor) -> Tensor:
    """The true logit minus the largest other (N,); NaN if outputs are not logits (N, C)."""
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


#: the losses of a Problem by name
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
    """The name of a loss in recipes and figures."""
    if isinstance(loss, str):
        return loss
    return getattr(loss, "__qualname__", None) or type(loss).__name__
