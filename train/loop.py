"""The one training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from ridgeline.models.errors import InputError
from ridgeline.train.acceleration import Acceleration
from ridgeline.train.attacks.base import known_range
from ridgeline.train.data.augmentation import Augmentation
from ridgeline.train.data.examples import Batch, Data, Images, map_tensors
from ridgeline.train.data.noise import Purpose, number_of
from ridgeline.train.files.run_files import RunFiles
from ridgeline.train.finite import finite
from ridgeline.train.losses import correctness
from ridgeline.train.methods.base import Kept, Method, Step, joined
from ridgeline.train.optimizers import OptimizerSpec
from ridgeline.train.position import Failure, Guard, Position, restore, save_state
from ridgeline.train.precision import exact
from ridgeline.train.progress import progress
from ridgeline.train.schedules.shapes import Constant, Schedule
from ridgeline.train.stopping import Stopped, asked, deferred
from ridgeline.train.undisturbed import undisturbed
from ridgeline.train.watching import EVERY_EPOCH, Watch, warn_of_constant

_PLAIN = Acceleration()
#: seconds after which an epoch's steps are saved before it is scored
_SCORING = 5.0


class Diverged(InputError):
    """The loss or a weight became NaN or infinite; the run's files hold the last finite state."""


@dataclass(frozen=True)
class Clock:
    """The steps of a run: schedules see whole epochs, or with `fractional` the place in one."""

    steps_per_epoch: int
    fractional: bool
    seed: int

    def step(self, epoch: int, number: int) -> Step:
        """Step `number` of an epoch, both from 0."""
        count = epoch * self.steps_per_epoch + number
        time = count / self.steps_per_epoch if self.fractional else float(epoch)
        return Step(epoch, time, count, self.seed)

    def last(self, epoch: int) -> Step:
        """The last step of an epoch."""
        return self.step(epoch, self.steps_per_epoch - 1)


def batches_of(order: Tensor, batch_size: int) -> list[Tensor]:
    """Training batches (positions) of an epoch, or of what is left of it.

    A last batch of a single example joins the one before: BatchNorm cannot normalise it, and its
    gradient would be one example's at full weight.
    """
    parts = list(order.split(batch_size)) if len(order) else []
    if batch_size > 1 and len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def check_batches(network: torch.nn.Module, images: Images, batch_size: int) -> None:
    """InputError if there are training batches of one example that the network cannot take."""
    if min(map(len, batches_of(torch.arange(len(images)), batch_size))) > 1:
        return
    x = next(images.batches(1)).x.to(next(network.parameters()))
    with undisturbed(network), torch.no_grad():
        network.train()
        try:
            network(x)
        except ValueError as error:
            raise InputError(
                f"--batch_size {batch_size} with {len(images)} training images makes batches of "
                f"one example, which this network's BatchNorm cannot normalise ({error})"
            ) from None


@exact()
def fit(
    method: Method,
    images: Data,
    test_images: Data | None,
    *,
    epochs: int,
    batch_size: int,
    optimizer: OptimizerSpec,
    validation: Images | None = None,
    lr_schedule: Schedule | None = None,
    momentum_schedule: Schedule | None = None,
    clock: str | None = None,
    augment: Augmentation | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    files: RunFiles | None = None,
    resume: dict | None = None,
    keep_epochs: Collection[int] = (),
    eval_batch_size: int = 500,
    state_seconds: float = 60.0,
    acceleration: Acceleration = _PLAIN,
    watch: Watch = EVERY_EPOCH,
) -> list[dict]:
    """Train and return the metrics of every epoch: its rate, budget and so on at its last step.

    Schedules see the whole epoch, or with clock="batch" the fractional one; what is None of them
    and of the clock is what the method asks for. Order, augmentation
    and attack noise are functions of seed, epoch and example, and the state is written at the
    start, between batches every `state_seconds` and after every epoch: a run killed at any moment
    resumes (with `resume`, from `RunFiles.prepare`) to bit-identical weights on the CPU. With
    `validation` the network (and every copy) of the best robust, else clean, accuracy there is
    kept. `watch` says which epochs are evaluated, all unless told otherwise and always the last,
    and what is looked at then; only they can be the best. Small image sets stay on the device as
    bytes. Raises `Diverged` for the first step whose loss or weights are not finite: on a CPU at
    once, on an accelerator within 50 steps and before a state is written. On SIGTERM the state is
    written and `stopping.Stopped` raised.
    """
    device = torch.device(device)
    rate = lr_schedule or method.rate or Constant(start_v=optimizer.lr)
    momentum = momentum_schedule or method.momentum
    method.network.to(device)
    acceleration.prepare(method.network)
    images = images.on(device)
    optim = optimizer.build([p for p in method.network.parameters() if p.requires_grad])
    method.attach(optim)
    steps = len(batches_of(torch.arange(len(images)), batch_size))
    ticks = Clock(steps, (clock or method.clock) == "batch", seed)
    if files is not None:
        files = files.holding(method, keep_epochs, best=validation is not None)
    if resume is not None:
        start = restore(resume, method, optim)
    else:
        start = Position()
        torch.manual_seed(number_of(seed, Purpose.TRAINING))  # dropout
        if files is not None:
            files.save("init", method.weights(), 0)
            save_state(files, method, optim, start)
    # buffers that are infinite from the start, such as attention masks, tell nothing
    guard = Guard([t for t in method.network.state_dict().values() if finite([t])], device)
    metrics, classes = start.metrics, getattr(images, "num_classes", None)
    dtype = next(method.network.parameters()).dtype
    saved = time.monotonic()

    def save(position: Position) -> None:
        """The state, unless it is not finite: then the one before is the last good one."""
        nonlocal saved
        if (failure := guard.failure()) is not None:
            raise _diverged(failure, ticks, rate, files)
        if files is not None:
            save_state(files, method, optim, position)
        saved = time.monotonic()

    bar = progress(
        epochs * len(images), f"train {files.name if files else ''}".rstrip(), "image",
        initial=start.epoch * len(images) + start.done,
    )  # fmt: skip
    with bar, acceleration.kernels(device), known_range(images):
        for epoch in range(start.epoch, epochs):
            position = start if epoch == start.epoch else Position(epoch, metrics=metrics)
            if not position.done:
                _keep(files, method.start_epoch(epoch), epoch)
            order = images.shuffled(seed, epoch)[position.done :]
            method.network.train()
            began = time.monotonic()
            with deferred():
                for places in images.ahead(batches_of(order, batch_size)):
                    step = ticks.step(epoch, position.done // batch_size)
                    for group in optim.param_groups:
                        group["lr"] = rate(step.time)
                        if momentum is not None:
                            group["momentum"] = momentum(step.time)
                    optim.zero_grad(set_to_none=True)
                    total = None
                    for part in acceleration.parts(places):
                        batch = images.batch(part, device, dtype)
                        if augment is not None:
                            batch = augment(batch, seed, epoch, method.border)
                        loss, hits = _gradients(method, batch, step, acceleration, len(places))
                        position.add(loss, hits, len(part))
                        share = loss if len(part) == len(places) else loss * len(part) / len(places)
                        total = share if total is None else total + share
                    optim.step()
                    guard.note(total, step.number)
                    if guard.due(step.number) and (failure := guard.failure()) is not None:
                        raise _diverged(failure, ticks, rate, files)
                    method.after_step(step)
                    bar.update(len(places))
                    if guard.due(step.number):
                        bar.set_postfix(epoch=epoch + 1, loss=f"{position.loss:.3f}", refresh=False)
                    if files is not None and time.monotonic() - saved > state_seconds:
                        save(position)
                    if asked():
                        save(position)
                        raise Stopped
                # scoring may take long, and SIGTERM ends it at once
                if files is not None and time.monotonic() - saved > min(state_seconds, _SCORING):
                    save(position)
            _keep(files, method.end_epoch(epoch), epoch + 1)
            step = ticks.last(epoch)
            seen, held_out = {}, {"val": validation, "test": test_images}
            if due := watch.due(epoch, epochs):
                looking = time.monotonic()
                seen = watch.look(method, images, held_out, step, eval_batch_size)
                seen["eval_seconds"] = time.monotonic() - looking
            line = joined(
                {
                    "epoch": epoch + 1,
                    "lr": rate(step.time),
                    "classes": classes,
                },
                method.metrics(step),
                {"train_loss": position.loss, "train_accuracy": position.accuracy},
                seen,
                {"seconds": time.monotonic() - began},
            )
            if (failure := guard.failure()) is not None:
                raise _diverged(failure, ticks, rate, files)
            metrics.append(line)
            warn_of_constant(metrics)
            if files is not None:
                if epoch + 1 in keep_epochs:
                    _save_all(files, method, epoch + 1)
                if validation is not None and due:
                    _save_best(files, method, metrics)
                # the state before the metrics: a run killed between them must still resume
                save(Position(epoch + 1, metrics=metrics))
                files.write_metrics(metrics)
    if files is not None:
        files.write_metrics(metrics)
        for name, weights in method.copies().items():
            files.save(name, weights)
        files.save("", method.weights(), beside=method.beside())
        files.path(".state").unlink(missing_ok=True)
    return metrics


def _gradients(
    method: Method, batch: Batch, step: Step, acceleration: Acceleration, whole: int
) -> tuple[Tensor, Tensor]:
    """Add the gradients of a part of a batch of `whole` examples; its mean loss and its hits."""
    batch = batch._replace(x=map_tensors(acceleration.laid_out, batch.x))
    with acceleration.rounding():
        with acceleration.autocast(batch.y.device):
            loss, logits = method.loss(batch, step)
        share = len(batch.y) / whole
        method.backward(loss if share == 1 else loss * share)
    return loss.detach(), correctness(logits, batch.y).sum()


def _diverged(failure: Failure, ticks: Clock, rate: Schedule, files: RunFiles | None) -> Diverged:
    epoch, number = divmod(failure.number, ticks.steps_per_epoch)
    at = rate(ticks.step(epoch, number).time)
    weights = " and weights that are not finite" if math.isfinite(failure.loss) else ""
    kept = f"{files.path('.state')} holds" if files else "no file holds"
    return Diverged(
        f"training diverged in epoch {epoch + 1}, step {number + 1} of {ticks.steps_per_epoch}, "
        f"with loss {failure.loss:g}{weights} at learning rate {at:g}; {kept} the last finite "
        "state; other options need --overwrite or another --model_name"
    )


def _save_all(files: RunFiles, method: Method, epoch: int) -> None:
    files.save(f"{epoch}", method.weights(), epoch, method.beside())
    for name, weights in method.copies().items():
        files.save(f"{name}_{epoch}", weights, epoch)


def _save_best(files: RunFiles, method: Method, metrics: list[dict]) -> None:
    """Keep every network whose accuracy on the validation set is the best so far."""
    for prefix, weights in {"": method.weights(), **method.copies()}.items():
        stem = f"{prefix}_" if prefix else ""
        key = next(
            k for w in ("target", "clean") if (k := f"val_{stem}{w}_accuracy") in metrics[-1]
        )
        if all(line.get(key, -1) < metrics[-1][key] for line in metrics[:-1]):
            beside = None if prefix else method.beside()
            files.save(f"{stem}best", weights, metrics[-1]["epoch"], beside)


def _keep(files: RunFiles | None, kept: Kept, epoch: int) -> None:
    if files is not None:
        for name, weights in kept.items():
            files.save(name, weights, epoch)
