"""Training methods by name."""

from __future__ import annotations

from train.methods.adversarial import Adversarial
from train.methods.apart import Apart
from train.methods.base import Method, Step
from train.methods.cure import Cure
from train.methods.fomo import Fomo
from train.methods.frequency import Frequency
from train.methods.standard import Standard

#: name in recipes -> method
METHODS: dict[str, type[Method]] = {
    "standard": Standard,
    "adversarial": Adversarial,
    "apart": Apart,
    "cure": Cure,
    "fomo": Fomo,
    "frequency": Frequency,
}

__all__ = [
    "METHODS", "Adversarial", "Apart", "Cure", "Fomo", "Frequency", "Method", "Standard", "Step",
]  # fmt: skip
