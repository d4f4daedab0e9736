"""Check by a forward pass on two examples that a network fits its data and can be measured."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from ridgeline.models.errors import InputError, is_out_of_memory, reason_of
from ridgeline.train.data.examples import Data, Images, Inputs, arguments_of, leaves, map_tensors
from ridgeline.train.losses import Loss, cross_entropy, name_of
from ridgeline.train.precision import exact
from ridgeline.train.undisturbed import undisturbed

#: allowed difference of logits, in units of rounding: for the same pass, and for another batch size
#: (whose kernels may add in another order)
_AGAIN, _OTHER_BATCH = 16, 2000
_REMEDY = "check --model_type, --dataset and --normalize"


def check_network(
    network: nn.Module, data: Data, loss: Loss | None = None, randomised: bool = False
) -> None:
    """Raise InputError unless the network maps each example to outputs independently of others.

    The network runs in eval mode on two examples, again on both, and on one of them alone. It is
    refused if

    - it fails, or its output is not one finite tensor (N, ...);
    - its outputs are random, or depend on the other examples of a batch (this cannot be checked for
      a `randomised` network, which may draw random numbers);
    - there is no user's `loss` and the outputs are not logits (N, C) for at least all classes;
    - the user's `loss` does not give one finite number per example.

    The network and the global random state are not changed.
    """
    if not any(True for _ in network.parameters()):
        raise InputError("the network has no parameters: there is nothing to train or to measure")
    like = next((p for p in network.parameters() if p.is_floating_point()), torch.zeros(()))
    batch = data.batch(torch.arange(2) % len(data), like.device, like.dtype)
    x = batch.x
    if isinstance(x, Tensor) and x.is_floating_point() and torch.equal(x[0], x[1]):
        x = torch.stack(
            [x[0], 1 - x[0]]
        )  # with equal images a mean over the batch would not be noticed
    one = map_tensors(lambda t: t[:1], x)
    check = partial(_outputs, network, data=data, logits=loss is None)
    with undisturbed(network), torch.no_grad(), exact():
        outputs = check(x)
        if not randomised:
            _check_repeatable(network, data, check, outputs, x, one)
        if loss is not None:
            _check_loss(loss, outputs, batch.y)
            _check_uncoupled(loss, outputs, batch.y)
            if loss is cross_entropy:
                _check_classes(outputs, data.tensors()[-2])


def _check_repeatable(
    network: nn.Module, data: Data, check: Callable[[Inputs], Tensor], outputs: Tensor,
    x: Inputs, one: Inputs,
) -> None:  # fmt: skip
    """Raise InputError for outputs that are random or depend on other examples of the batch."""
    kind = "images" if isinstance(data, Images) else "examples"
    _compare(network, outputs, lambda: check(x), x, x, _AGAIN, (
        f"its outputs depend on chance: two passes over the same {kind} differ", "makes random "
        "numbers in eval mode; use nn.Dropout, or F.dropout(..., training=self.training); only "
        "test_ensemble --randomised True judges networks that are meant to draw them"
    ))  # fmt: skip
    _compare(network, outputs, lambda: check(one), x, one, _OTHER_BATCH, (
        f"its outputs depend on the other {kind} of a batch", "mixes them; BatchNorm needs "
        "track_running_stats=True, or use GroupNorm"
    ))  # fmt: skip


def draws_numbers(network: nn.Module, data: Data) -> bool:
    """Whether two passes over the same two examples differ, in eval mode."""
    like = next(p for p in network.parameters())
    x = data.batch(torch.arange(2) % len(data), like.device, like.dtype).x
    check = partial(_outputs, network, x, data=data, logits=False)
    with undisturbed(network), torch.no_grad(), exact():
        return not _near(check(), check(), _AGAIN)


def overwrites(network: nn.Module, data: Data) -> bool:
    """Whether a network changes its input tensors, as a first ReLU(inplace=True) does."""
    like = next(p for p in network.parameters())
    x = map_tensors(torch.clone, data.batch(torch.arange(1), like.device, like.dtype).x)
    before = [t._version for t in leaves(x)]
    positional, named = arguments_of(x)
    with undisturbed(network), torch.no_grad(), exact():
        network(*positional, **named)
    return before != [t._version for t in leaves(x)]


def _outputs(network: nn.Module, x: Inputs, *, data: Data, logits: bool) -> Tensor:
    """The network's output for x (N, ...); InputError unless it is one finite tensor."""
    images = isinstance(data, Images)
    shapes = ", ".join("x".join(map(str, t.shape[1:])) or "1" for t in leaves(x))
    what = f"{'images' if images else 'examples'} of shape {shapes}"
    positional, named = arguments_of(map_tensors(torch.clone, x))
    try:
        out = network(*positional, **named)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        remedy = f"; {_REMEDY}" if images else ""
        raise InputError(f"the network does not take {what} ({reason_of(error)}){remedy}") from None
    wanted = "logits" if logits else "outputs"
    if not isinstance(out, Tensor):
        raise InputError(
            f"the network returns a {type(out).__name__}, not a tensor of {wanted}; wrap it so "
            f"that its forward returns the {wanted} alone"
        )
    count = len(leaves(x)[0])
    if logits:
        _check_logits(out, count, data, what)
    elif out.ndim == 0 or len(out) != count:
        raise InputError(
            f"the network returns {tuple(out.shape)} for {count} {what}; the first axis of its "
            "output must be that of the examples"
        )
    if not out.isfinite().all():
        remedy = f"; {_REMEDY}" if images else ""
        raise InputError(f"the network's {wanted} are not finite{remedy}")
    return out


def _check_logits(out: Tensor, count: int, data: Data, what: str) -> None:
    """Raise InputError unless an output is logits for the classes of images."""
    if out.shape in ((count,), (count, 1)):
        raise InputError(
            "the network returns one number per image; give it one logit per class, two for a "
            "binary problem (for z: 0 and z)"
        )
    if out.ndim != 2 or len(out) != count:
        raise InputError(
            f"the network returns {tuple(out.shape)} for {count} {what}, "
            f"needed are logits ({count}, classes)"
        )
    if isinstance(data, Images) and out.shape[1] < data.num_classes:
        raise InputError(
            f"the network has {out.shape[1]} classes, {data.name} has labels up to "
            f"{data.num_classes - 1}; {_REMEDY}"
        )


def _check_loss(loss: Loss, outputs: Tensor, y: Tensor) -> None:
    """Raise InputError unless a loss gives one finite number per example."""
    shapes = f"outputs {tuple(outputs.shape)} and targets {tuple(y.shape)} of {y.dtype}"
    try:
        losses = loss(outputs, y)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise InputError(
            f"the loss {name_of(loss)} does not take {shapes} ({reason_of(error)}); pass another "
            "as loss=..., a callable (outputs, targets) -> (N,)"
        ) from None
    if not isinstance(losses, Tensor) or losses.shape != (len(outputs),):
        got = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
        raise InputError(
            f"the loss {name_of(loss)} returns {got} for {len(outputs)} examples, needed is one "
            f"number per example ({len(outputs)},): use reduction='none' and add up or average "
            "all other axes, e.g. F.mse_loss(out, y, reduction='none').flatten(1).mean(1)"
        )
    with torch.enable_grad():
        if not loss(outputs.detach().requires_grad_(), y).requires_grad:
            raise InputError(f"the loss {name_of(loss)} has no gradient by the network's outputs")
    if not losses.isfinite().all():
        raise InputError(f"the loss {name_of(loss)} is NaN or infinite on the first examples")


def _check_uncoupled(loss: Loss, outputs: Tensor, y: Tensor) -> None:
    """Raise InputError if an example's loss changes with the other examples of its batch."""
    both, alone = loss(outputs, y), loss(outputs[:1], y[:1])
    if not _near(both[:1], alone, _OTHER_BATCH):
        raise InputError(
            f"the loss {name_of(loss)} of an example depends on the other examples of its batch "
            f"({both[0]:.6g} beside another, {alone[0]:.6g} alone); it must be a function of its "
            "own output and target"
        )


def _check_classes(outputs: Tensor, targets: Tensor) -> None:
    """Raise InputError unless all targets are classes of the outputs (N, C), or shares of them."""
    classes = outputs.shape[1]
    if targets.is_floating_point():
        sums = targets.sum(1) if targets.ndim == 2 else targets
        if int((targets < 0).sum()) or not torch.allclose(sums, torch.ones_like(sums), atol=1e-4):
            raise InputError(
                "the loss cross_entropy needs class numbers (N,), or probabilities (N, classes); "
                "for regression pass loss='squared_error', or a callable (outputs, targets) -> (N,)"
            )
    elif int(targets.min()) < 0 or int(targets.max()) >= classes:
        raise InputError(
            f"the network has {classes} classes, the targets run from {int(targets.min())} to "
            f"{int(targets.max())}"
        )


def _compare(
    network: nn.Module, first: Tensor, again: Callable[[], Tensor], x: Inputs, x2: Inputs,
    tolerance: float, messages: tuple[str, str],
) -> None:  # fmt: skip
    """Raise InputError, naming the responsible module, if a second pass differs from the first."""
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


def _culprit(network: nn.Module, x: Inputs, x2: Inputs, tolerance: float) -> tuple[str, str]:
    """Name and type of the innermost module whose output differs although its input does not."""
    passes: list[list[tuple[str, nn.Module, Tensor, Tensor]]] = [[], []]
    seen: list = passes[0]

    def hook(name: str):
        def look(module: nn.Module, inputs: tuple, out) -> None:
            if inputs and isinstance(inputs[0], Tensor) and isinstance(out, Tensor):
                seen.append((name, module, inputs[0].clone(), out.clone()))

        return look

    hooks = [m.register_forward_hook(hook(name)) for name, m in network.named_modules()]
    try:
        for number, given in enumerate((x, x2)):
            seen = passes[number]
            positional, named = arguments_of(map_tensors(torch.clone, given))
            network(*positional, **named)
    finally:
        for each in hooks:
            each.remove()
    for (name, module, inputs, out), (_, _, inputs2, out2) in zip(*passes, strict=False):
        same = _near(inputs[: len(inputs2)], inputs2, tolerance)
        if same and not _near(out[: len(out2)], out2, tolerance):
            return name, type(module).__name__
    return "", type(network).__name__
