"""Several networks as one: the mixture of their predictive distributions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ridgeline.train.attacks.base import Predict


def mixture(predicts: Sequence[Predict]) -> Predict:
    """Log of the mean predictive probability of all members, shape (N, classes).

    It is the logsumexp of log-softmaxes, which stays finite if every member's probability
    underflows. Used as logits, its cross-entropy is the mixture's negative log-likelihood. So every
    attack works on an ensemble as on one network. A single member is returned unchanged.
    """
    if len(predicts) == 1:
        return predicts[0]

    def predict(x: Tensor) -> Tensor:
        logs = torch.stack([member(x).log_softmax(1) for member in predicts])
        return logs.logsumexp(0) - math.log(len(predicts))

    return predict
