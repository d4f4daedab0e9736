"""A forward pass on two images: do a network and its data fit, and can it be measured?"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ridgeline.models.errors import InputError, reason_of
from ridgeline.train.data.examples import Images
from ridgeline.train.precision import exact
from ridgeline.train.undisturbed import undisturbed

#: how far logits may be apart, in units of rounding: for the same pass, and for kernels that add
#: up in another order for another batch size
_AGAIN, _OTHER_BATCH = 16, 2000
_REMEDY = "check --model_type, --dataset and --normalize"


def check_network(network: nn.Module, images: Images) -> None:
    """Raise InputError unless the network maps these images to logits, each by itself.

    Two images pass through in eval mode, again, and one of them alone. Refused are networks that
    fail, that give anything but finite logits (N, C) for at least the images' classes, and whose
    logits change with chance or with the other images of a batch. Nothing of the network and of
    the global random state is changed.
    """
    if not any(True for _ in network.parameters()):
        raise InputError("the network has no parameters: there is nothing to train or to measure")
    like = next((p for p in network.parameters() if p.is_floating_point()), torch.zeros(()))
    positions = torch.arange(2) % len(images)
    batch = next(images.take(positions).batches(2, device=like.device, dtype=like.dtype))
    x = batch.x
    if torch.equal(x[0], x[1]):  # the mean over two equal images would hide that it is a mean
        x = torch.stack([x[0], 1 - x[0]])
    with undisturbed(network), torch.no_grad(), exact():
        logits = _logits(network, x, images)
        _compare(network, logits, lambda: _logits(network, x, images), x, x, _AGAIN, (
            "its outputs depend on chance: two passes over the same images differ", "makes random "
            "numbers in eval mode; use nn.Dropout, or F.dropout(..., training=self.training)"
        ))  # fmt: skip
        _compare(network, logits, lambda: _logits(network, x[:1], images), x, x[:1], _OTHER_BATCH, (
            "its outputs depend on the other images of a batch", "mixes them; BatchNorm needs "
            "track_running_stats=True, or use GroupNorm"
        ))  # fmt: skip


def _logits(network: nn.Module, x: Tensor, images: Images) -> Tensor:
    """The network's output for x (N, C, H, W); InputError unless it is logits."""
    shape = "x".join(map(str, x.shape[1:]))
    try:
        out = network(x.clone())
    except Exception as error:
        raise InputError(
            f"the network does not take images of shape {shape} ({reason_of(error)}); {_REMEDY}"
        ) from None
    if not isinstance(out, Tensor):
        raise InputError(
            f"the network returns a {type(out).__name__}, not a tensor of logits; wrap it so that "
            "its forward returns the logits alone"
        )
    if out.shape in ((len(x),), (len(x), 1)):
        raise InputError(
            "the network returns one number per image; give it one logit per class, two for a "
            "binary problem (for z: 0 and z)"
        )
    if out.ndim != 2 or len(out) != len(x):
        raise InputError(
            f"the network returns {tuple(out.shape)} for {len(x)} images of shape {shape}, "
            f"needed are logits ({len(x)}, classes)"
        )
    if out.shape[1] < images.num_classes:
        raise InputError(
            f"the network has {out.shape[1]} classes, {images.name} has labels up to "
            f"{images.num_classes - 1}; {_REMEDY}"
        )
    if not out.isfinite().all():
        raise InputError(f"the network's logits are not finite; {_REMEDY}")
    return out


def _compare(
    network: nn.Module, first: Tensor, again: Callable[[], Tensor], x: Tensor, x2: Tensor,
    tolerance: float, messages: tuple[str, str],
) -> None:  # fmt: skip
    """Raise InputError if a second pass differs from the first; names the module that does it."""
    second = again()
    if _near(first[: len(second)], second, tolerance):
        return
    what, remedy = messages
    name, kind = _culprit(network, x, x2, tolerance)
    where = f"module {name} ({kind})" if name else f"{kind}.forward itself"
    raise InputError(f"the network cannot be measured: {what}; {where} {remedy}")


def _near(a: Tensor, b: Tensor, tolerance: float) -> bool:
    if a.shape != b.shape:
        return False
    scale = max(a.abs().max().item(), torch.finfo(a.dtype).tiny) if a.numel() else 0.0
    return (a - b).abs().max().item() <= tolerance * torch.finfo(a.dtype).eps * scale


def _culprit(network: nn.Module, x: Tensor, x2: Tensor, tolerance: float) -> tuple[str, str]:
    """Name and kind of the innermost module whose output differs though its input does not."""
    passes: list[list[tuple[str, nn.Module, Tensor, Tensor]]] = [[], []]
    seen = passes[0]

    def hook(name: str):
        def look(module: nn.Module, inputs: tuple, out) -> None:
            if inputs and isinstance(inputs[0], Tensor) and isinstance(out, Tensor):
                seen.append((name, module, inputs[0].clone(), out.clone()))

        return look

    hooks = [m.register_forward_hook(hook(name)) for name, m in network.named_modules()]
    try:
        network(x.clone())
        seen = passes[1]
        network(x2.clone())
    finally:
        for each in hooks:
            each.remove()
    for (name, module, inputs, out), (_, _, inputs2, out2) in zip(*passes, strict=False):
        same = _near(inputs[: len(inputs2)], inputs2, tolerance)
        if same and not _near(out[: len(out2)], out2, tolerance):
            return name, type(module).__name__
    return "", type(network).__name__
