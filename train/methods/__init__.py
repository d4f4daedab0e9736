"""Training methods by name."""

from __future__ import annotations

from ridgeline.train.methods.adversarial import Adversarial
from ridgeline.train.methods.apart import Apart
from ridgeline.train.methods.base import Method, Step
from ridgeline.train.methods.cure import Cure
from ridgeline.train.methods.fomo import Fomo
from ridgeline.train.methods.frequency import Frequency
from ridgeline.train.methods.standard import Standard

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
