"""Recalibrate the BatchNorm statistics of a network at weights that training never had."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from ridgeline.train.data.examples import Images, Inputs, map_tensors
from ridgeline.train.parts.layer_inputs import hooked
from ridgeline.train.precision import exact
from ridgeline.train.statistics import merged_moments
from ridgeline.train.undisturbed import undisturbed

Buffers = Mapping[str, Tensor]


def tracks(module: nn.Module) -> bool:
    """Whether a module is a BatchNorm layer with running statistics."""
    return isinstance(module, _BatchNorm) and module.track_running_stats


class _Reached(Exception):
    """The wanted layer has its input: the rest of the forward pass is not needed."""


def recalibrated(
    network: nn.Module,
    buffers: Buffers,
    predict: Callable[[Buffers, Inputs], object],
    batches: Callable[[], Iterable[Inputs]],
) -> dict[str, Tensor]:
    """Exact mean and (biased) variance of every BatchNorm input over all images: new buffers.

    `predict(buffers, x)` runs `network`, in eval mode, with these buffers on a batch. `batches()`
    yields all images at every call. Layers are treated in the order of execution: each pass uses
    the final statistics of all earlier layers. The result equals one train-mode pass over all
    images as a single batch, for any batch size. It includes the variance between batch means.
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
    layers = {name: module for name, module in network.named_modules() if tracks(module)}
    with hooked(layers, lambda name, _: order.append(name)), torch.no_grad():
        predict(buffers, x)
    return list(dict.fromkeys(order))


def _moments(
    layer: nn.Module,
    buffers: Buffers,
    predict: Callable[[Buffers, Inputs], object],
    batches: Iterable[Inputs],
) -> tuple[Tensor, Tensor]:
    """Per-channel mean and variance of one layer's input, merged over batches in float64."""
    seen: list[tuple[int, Tensor, Tensor]] = []

    def look(_name: str, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0]
        over = [d for d in range(x.ndim) if d != 1]
        variance, mean = torch.var_mean(x.double(), over, correction=0)
        seen.append((x.numel() // x.shape[1], mean, variance))
        raise _Reached

    with hooked({"": layer}, look), torch.no_grad():
        for x in batches:
            with contextlib.suppress(_Reached):
                predict(buffers, x)
    return merged_moments(seen)
