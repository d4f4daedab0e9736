"""Targeted attacks: the target class of each example, and the losses towards it."""

from __future__ import annotations

import torch
from torch import Tensor

from ridgeline.train.attacks.base import Predict
from ridgeline.train.data.noise import Noise
from ridgeline.train.losses import Loss, cross_entropy, dlr_towards, margin

#: word -> the target class, chosen once at the clean image
TARGETS = {
    "least": "the least likely one",
    "next": "the likeliest one",
    "random": "any one, alike likely, drawn by example",
}
_DRAW = 1_000_003  # counter of the random stream of targets; restarts use counters from 0


def target_of(which: str, predict: Predict, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
    """The target class (N,) of every example, never its label y: see TARGETS."""
    with torch.no_grad():
        logits = predict(x)
    if which == "least":
        return logits.scatter(1, y[:, None], torch.inf).argmin(1)
    if which == "next":
        return logits.scatter(1, y[:, None], -torch.inf).argmax(1)
    wrong = logits.shape[1] - 1
    share = (noise.uniform(x[:, :1, :1, :1].double(), _DRAW).flatten() + 1) / 2
    drawn = (share * wrong).long().clamp_max(wrong - 1)
    return drawn + (drawn >= y)  # skips the label


def towards(target: Tensor, loss: str) -> Loss:
    """The targeted form of a loss: it grows as the class `target` (N,) becomes more likely."""
    if loss == "dlr":
        return dlr_towards(target)
    away = {"ce": cross_entropy, "cw": margin}[loss]
    return lambda logits, _: -away(logits, target)
