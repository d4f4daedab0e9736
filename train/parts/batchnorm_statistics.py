"""BatchNorm's statistics of a network that was never trained where it stands."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from ridgeline.train.data.examples import Images, Inputs, map_tensors
from ridgeline.train.precision import exact
from ridgeline.train.undisturbed import undisturbed

Buffers = Mapping[str, Tensor]


def tracks(module: nn.Module) -> bool:
    """Whether a module is a BatchNorm layer with running statistics."""
    return isinstance(module, _BatchNorm) and module.track_running_stats


class _Reached(Exception):
    """The layer whose input is wanted has seen it: the rest of the pass is not needed."""


def recalibrated(
    network: nn.Module,
    buffers: Buffers,
    predict: Callable[[Buffers, Inputs], object],
    batches: Callable[[], Iterable[Inputs]],
) -> dict[str, Tensor]:
    """Exact mean and (biased) variance of every BatchNorm input over all images: new buffers.

    `predict(buffers, x)` runs `network`, in eval mode, with these buffers on a batch;
    `batches()` yields the images anew at every call. Layer by layer in the order of execution: each
    pass uses the final statistics of all layers before. The result is that of one train-mode pass
    over all images as a single batch, whatever the physical batch size, including the variance of
    means between batches.
    """
    found = {k: b.clone() for k, b in buffers.items()}
    for name in _order_of_execution(
        network, found, predict, map_tensors(lambda t: t[:1], next(iter(batches())))
    ):
        mean, variance = _moments(network.get_submodule(name), found, predict, batches())
        found[f"{name}.running_mean"] = mean.to(found[f"{name}.running_mean"])
        found[f"{name}.running_var"] = variance.to(found[f"{name}.running_var"])
    return found


def recalibrate(
    network: nn.Module, images: Images, *, device: torch.device | str = "cpu", batch_size: int = 500
) -> None:
    """Set a network's BatchNorm statistics to those of clean `images`, in place."""
    if not any(tracks(m) for m in network.modules()):
        return
    dtype = next(network.parameters()).dtype
    buffers = dict(network.named_buffers())
    with undisturbed(network), exact():
        found = recalibrated(
            network,
            buffers,
            lambda buffers, x: functional_call(network, dict(buffers), (x,)),
            lambda: (b.x for b in images.batches(batch_size, device=device, dtype=dtype)),
        )
    with torch.no_grad():
        for name, buffer in buffers.items():
            buffer.copy_(found[name])


def _order_of_execution(
    network: nn.Module, buffers: Buffers, predict: Callable[[Buffers, Inputs], object], x: Inputs
) -> list[str]:
    order: list[str] = []
    hooks = [
        module.register_forward_pre_hook(lambda _m, _i, name=name: order.append(name))
        for name, module in network.named_modules()
        if tracks(module)
    ]
    try:
        with torch.no_grad():
            predict(buffers, x)
    finally:
        for hook in hooks:
            hook.remove()
    return list(dict.fromkeys(order))


def _moments(
    layer: nn.Module,
    buffers: Buffers,
    predict: Callable[[Buffers, Inputs], object],
    batches: Iterable[Inputs],
) -> tuple[Tensor, Tensor]:
    """Per-channel mean and variance of one layer's input, merged over batches in float64."""
    seen: list[tuple[int, Tensor, Tensor]] = []

    def look(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0]
        over = [d for d in range(x.ndim) if d != 1]
        variance, mean = torch.var_mean(x.double(), over, correction=0)
        seen.append((x.numel() // x.shape[1], mean, variance))
        raise _Reached

    hook = layer.register_forward_pre_hook(look)
    try:
        for x in batches:
            with torch.no_grad():
                try:
                    predict(buffers, x)
                except _Reached:
                    continue
    finally:
        hook.remove()
    counts = torch.tensor([n for n, _, _ in seen], dtype=torch.float64)
    shares = (counts / counts.sum())[:, None].to(seen[0][1].device)
    means = torch.stack([m for _, m, _ in seen])
    variances = torch.stack([v for _, _, v in seen])
    mean = (shares * means).sum(0)
    return mean, (shares * (variances + (means - mean).square())).sum(0)
