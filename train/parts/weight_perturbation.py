"""Adversarial weight perturbation: training at the worst weights in a neighbourhood."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ridgeline.models.errors import InputError


class WeightPerturbation:
    """One step of ascent in weight space before every descent (Wu et al. 2020, eqs. 8 to 10).

    Every tensor of two or more dimensions moves by gamma ||w|| along its own gradient. BatchNorm
    and biases do not move. The first pass does not change BatchNorm's running statistics. Use:
    `perturb` with the loss of the gradient pass, backward at the moved weights, `restore`.
    """

    def __init__(self, network: nn.Module, gamma: float):
        if not gamma > 0:
            raise InputError(f"the radius of a weight perturbation must be positive, got {gamma:g}")
        self.network, self.gamma = network, gamma
        self._kept: list[tuple[Tensor, Tensor]] = []

    def perturb(self, loss_of: Callable[[], Tensor]) -> None:
        """Move the weights along the gradient of the loss `loss_of()`."""
        weights = [p for p in self.network.parameters() if p.requires_grad and p.ndim > 1]
        statistics = [(b, b.detach().clone()) for b in self.network.buffers()]
        gradients = torch.autograd.grad(loss_of(), weights)
        self._kept = [(w, w.detach().clone()) for w in weights]
        with torch.no_grad():
            for buffer, value in statistics:
                buffer.copy_(value)
            for w, g in zip(weights, gradients, strict=True):
                w += g * (self.gamma * w.norm() / g.norm().clamp_min(1e-20))

    def restore(self) -> None:
        """Restore the weights, bit for bit, after the backward pass."""
        with torch.no_grad():
            for w, value in self._kept:
                w.copy_(value)
        self._kept = []
