"""Training methods by name."""

from __future__ import annotations

from train.methods.adversarial import Adversarial
from train.methods.base import Method, Step
from train.methods.standard import Standard

#: name in recipes -> method
METHODS: dict[str, type[Method]] = {"standard": Standard, "adversarial": Adversarial}

__all__ = ["METHODS", "Adversarial", "Method", "Standard", "Step"]
