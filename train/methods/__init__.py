"""Training methods by name, for commands and tests."""

from __future__ import annotations

from ridgeline.train.methods.adversarial import Adversarial
from ridgeline.train.methods.apart import Apart
from ridgeline.train.methods.base import Method, Setup, Step
from ridgeline.train.methods.cure import Cure
from ridgeline.train.methods.fomo import Fomo
from ridgeline.train.methods.frequency import Frequency
from ridgeline.train.methods.liet import Liet
from ridgeline.train.methods.standard import Standard

#: name -> method, with its options in `options_type`
METHODS: dict[str, type[Method]] = {
    "standard": Standard,
    "adversarial": Adversarial,
    "apart": Apart,
    "cure": Cure,
    "fomo": Fomo,
    "frequency": Frequency,
    "liet": Liet,
}

__all__ = [
    "METHODS", "Adversarial", "Apart", "Cure", "Fomo", "Frequency", "Liet", "Method",
    "Setup", "Standard", "Step",
]  # fmt: skip
