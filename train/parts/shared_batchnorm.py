"""BatchNorm over a batch that the processes of torchrun share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ridgeline.train.exchange import summed

_KINDS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class _Sum(torch.autograd.Function):
    """The sum over processes. Its gradient is the sum of their gradients (losses are summed)."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        total = x.clone()
        summed([total])
        return total

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        summed([total])
        return total


class SharedBatchNorm(_BatchNorm):
    """BatchNorm that in train mode normalises by the examples of all processes.

    torch.nn.SyncBatchNorm works only on CUDA devices. Every process must make the same passes. A
    pass has two messages: first the mean, then the squares about the mean. This avoids
    cancellation.
    """

    def _check_input_dim(self, x: Tensor) -> None:
        """Accept any number of dimensions."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (N, C, ...) as one process with all examples would do."""
        if not self.training:
            return super().forward(x)
        over = [d for d in range(x.ndim) if d != 1]
        wide = [1, -1, *(1 for _ in over[1:])]
        values = x if x.dtype == torch.float64 else x.float()
        count = values.new_full((1,), x.numel() // x.shape[1])
        total = _Sum.apply(torch.cat([values.sum(over), count]))
        number = total[-1].detach()
        mean = total[:-1] / number
        centred = values - mean.view(wide)
        variance = _Sum.apply(centred.square().sum(over)) / number
        self._follow(mean.detach(), variance.detach() * number / (number - 1))
        y = centred * (variance + self.eps).rsqrt().view(wide)
        if self.affine:
            y = y * self.weight.view(wide) + self.bias.view(wide)
        return y.to(x.dtype)

    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        if not self.track_running_stats:
            return
        self.num_batches_tracked.add_(1)
        share = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean), share)
        self.running_var.lerp_(variance.to(self.running_var), share)


def share_batchnorm(network: nn.Module) -> None:
    """Replace every BatchNorm layer by a `SharedBatchNorm` with the same tensors."""
    for owner in list(network.modules()):
        for name, layer in list(owner.named_children()):
            if type(layer) in _KINDS:
                setattr(owner, name, _shared(layer))


def _shared(layer: _BatchNorm) -> SharedBatchNorm:
    own = SharedBatchNorm(layer.num_features, layer.eps, layer.momentum, layer.affine,
                          layer.track_running_stats)  # fmt: skip
    own._parameters, own._buffers = layer._parameters, layer._buffers
    return own.train(layer.training)
