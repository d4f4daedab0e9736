"""Run a network in eval mode and restore its mode, buffers, gradients and random state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from ridgeline.train.parts.shared_batchnorm import SharedBatchNorm

#: modules whose buffers do not change in eval mode; this may not hold for subclasses
_UNCHANGED = {nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, SharedBatchNorm}


@contextmanager
def undisturbed(*networks: nn.Module, eval_only: bool = False) -> Iterator[None]:
    """Put networks in eval mode with frozen parameters inside; restore everything afterwards.

    Restored bit for bit, also after an exception: training flags of every module, requires_grad
    flags, gradients, buffers, and the global random state of CPU and CUDA. With `eval_only` the
    networks must stay in eval mode inside. BatchNorm then cannot change its buffers, and they are
    not copied.
    """
    modules = [m for network in networks for m in network.modules()]
    parameters = [p for network in networks for p in network.parameters()]
    owners = [m for m in modules if not (eval_only and type(m) in _UNCHANGED)]
    buffers = [b for m in owners for b in m.buffers(recurse=False)]
    training = [m.training for m in modules]
    flags = [p.requires_grad for p in parameters]
    gradients = [p.grad for p in parameters]
    gradient_values = [None if g is None else g.clone() for g in gradients]
    values = [b.detach().clone() for b in buffers]
    with ExitStack() as stack:
        cuda = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
        stack.enter_context(torch.random.fork_rng(devices=list(cuda)))
        try:
            for network in networks:
                network.eval()
            for p in parameters:
                p.requires_grad_(False)
            yield
        finally:
            for module, flag in zip(modules, training, strict=True):
                module.training = flag
            for p, flag, g, value in zip(
                parameters, flags, gradients, gradient_values, strict=True
            ):
                p.requires_grad_(flag)
                p.grad = g
                if g is not None:
                    g.copy_(value)
            with torch.no_grad():
                for b, value in zip(buffers, values, strict=True):
                    b.copy_(value)
