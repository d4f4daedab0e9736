"""The training loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from ridgeline.train.acceleration import Acceleration
from ridgeline.train.attacks.base import known_range
from ridgeline.train.batches import Clock, batches_of
from ridgeline.train.data.augmentation import Augmentation
from ridgeline.train.data.examples import Batch, Data, Images, map_tensors
from ridgeline.train.data.noise import Purpose, number_of
from ridgeline.train.exchange import processes
from ridgeline.train.files.run_files import RunFiles
from ridgeline.train.finite import finite
from ridgeline.train.keeping import Keeper
from ridgeline.train.losses import correctness
from ridgeline.train.methods.base import Method, Step, joined
from ridgeline.train.optimizers import OptimizerSpec
from ridgeline.train.parts.shared_batchnorm import share_batchnorm
from ridgeline.train.position import Guard, Position, restore
from ridgeline.train.precision import exact
from ridgeline.train.progress import progress
from ridgeline.train.ranks import Crew
from ridgeline.train.schedules.shapes import Constant, Schedule
from ridgeline.train.stopping import Stopped, asked, deferred
from ridgeline.train.watching import EVERY_EPOCH, Watch, warn_of_constant

_PLAIN = Acceleration()


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
    """Train, and return the metrics of every epoch. Rate, budget etc. are those of its last step.

    - Schedules get the whole epoch, or with clock="batch" the fractional one. Schedules and a clock
      that are None are those of the method.
    - Order, augmentation and attack noise depend only on seed, epoch and example.
    - The state is written at the start, between batches every `state_seconds`, and after every
      epoch. A run killed at any moment resumes (`resume` comes from `RunFiles.prepare`) to equal
      bits on the CPU. On SIGTERM the state is written and `stopping.Stopped` raised.
    - With `validation` the network (and every copy) with the best robust accuracy there is saved;
      without an attack the best clean accuracy counts.
    - `watch` selects the epochs that are evaluated (default: all; the last one always) and the
      further measures. Only evaluated epochs can be the best.
    - Small image sets stay on the device as bytes.
    - Processes of torchrun share every batch and evaluation (`train.ranks`). The first one writes
      the files; all return the same metrics.

    Raises `Diverged` for the first step whose loss or weights are not finite: on a CPU at once, on
    an accelerator within 50 steps and before a state is written.
    """
    device = torch.device(device)
    rate = lr_schedule or method.rate or Constant(start_v=optimizer.lr)
    method.network.to(device)
    acceleration.prepare(method.network)
    if processes()[1] > 1 and acceleration.sync_batchnorm:
        share_batchnorm(method.called)
    crew = Crew(method.network, device)
    files = files if crew.number == 0 else None
    images = images.on(device)
    optim = optimizer.build([p for p in method.network.parameters() if p.requires_grad])
    method.attach(optim)
    steps = len(batches_of(torch.arange(len(images)), batch_size))
    ticks = Clock(steps, (clock or method.clock) == "batch", seed)
    if files is not None:
        files = files.holding(method, keep_epochs, best=validation is not None)
    # buffers that are infinite from the start, such as attention masks, are not checked
    begun = None if resume is None else restore(resume, method, optim)
    guard = Guard([t for t in method.network.state_dict().values() if finite([t])], device)
    keeper = Keeper(files, method, optim, guard, ticks, rate, state_seconds)
    start = Position() if begun is None else begun
    if begun is None:
        torch.manual_seed(number_of(seed, Purpose.TRAINING))  # dropout
        keeper.begin(start)
    crew.draw_apart(seed, start.epoch * len(images) + start.done)
    momentum = momentum_schedule or method.momentum
    run = _Run(method, images, optim, rate, momentum, ticks, augment, acceleration, crew)
    bar = progress(
        epochs * len(images), f"train {files.name if files else ''}".rstrip(), "image",
        initial=start.epoch * len(images) + start.done,
    )  # fmt: skip
    metrics, held_out = start.metrics, {"val": validation, "test": test_images}
    with bar, acceleration.kernels(device), known_range(images):
        for epoch in range(start.epoch, epochs):
            position = start if epoch == start.epoch else Position(epoch, metrics=metrics)
            if not position.done:
                keeper.networks(method.start_epoch(epoch), epoch)
            began = time.monotonic()
            run.epoch(position, batch_size, keeper, bar)
            keeper.networks(method.end_epoch(epoch), epoch + 1)
            seen, due = {}, watch.due(epoch, epochs)
            if due:
                looking = time.monotonic()
                seen = watch.look(
                    method, images, held_out, ticks.last(epoch), eval_batch_size, crew
                )
                seen["eval_seconds"] = time.monotonic() - looking
            keeper.check()
            metrics.append(run.line(position, seen, began))
            if crew.number == 0:
                warn_of_constant(metrics)
            chosen = validation is not None and due
            keeper.epoch(Position(epoch + 1, metrics=metrics), chosen=chosen)
    keeper.end(metrics)
    crew.meet()  # after this every process may read the files of the first one
    return metrics


@dataclass(frozen=True)
class _Run:
    """The objects that every step of a run uses."""

    method: Method
    images: Data
    optimizer: torch.optim.Optimizer
    rate: Schedule | Callable[[float], float]
    momentum: Schedule | None
    ticks: Clock
    augment: Augmentation | None
    acceleration: Acceleration
    crew: Crew

    def epoch(self, position: Position, batch_size: int, keeper: Keeper, bar) -> None:
        """Run the remaining steps of an epoch.

        SIGTERM waits for the end of a step. Then the state is written and `Stopped` raised.
        """
        self.crew.begin_epoch()
        self.method.network.train()
        order = self.images.shuffled(self.ticks.seed, position.epoch)[position.done :]
        with deferred():
            for places in self.images.ahead(batches_of(order, batch_size)):
                step = self.ticks.step(position.epoch, position.done // batch_size)
                loss = self.step(places, step, position)
                keeper.guard.note(loss, step.number)
                if due := keeper.guard.due():
                    keeper.check()
                    keeper.guard.pace(self.crew.any)
                self.method.after_step(step)
                bar.update(len(places))
                if due:
                    shown = {"epoch": position.epoch + 1, "loss": f"{position.loss:.3f}"}
                    bar.set_postfix(shown, refresh=False)
                if keeper.overdue():
                    keeper.state(position)
                if (due or self.crew.alone) and self.crew.any(asked()):
                    keeper.state(position)
                    raise Stopped
            if keeper.overdue(scoring=True):  # SIGTERM would stop the evaluation at once
                keeper.state(position)

    def step(self, places: Tensor, step: Step, position: Position) -> Tensor:
        """One optimiser step, added to `position`. Returns the mean loss () of its batch."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(step.time)
            if self.momentum is not None:
                group["momentum"] = self.momentum(step.time)
        self.optimizer.zero_grad(set_to_none=True)
        crew, dtype, total = self.crew, next(self.method.network.parameters()).dtype, None
        before, mine = [t.clone() for t in self.method.sums], 0
        tally = position if crew.alone else Position()
        for whole in self.acceleration.parts(places, crew.count):
            part = crew.share(whole)  # so BatchNorm over all processes sees the parts of one
            mine += len(part)
            batch = self.images.batch(part, crew.device, dtype)
            if self.augment is not None:
                batch = self.augment(batch, step.seed, step.epoch, self.method.border)
            loss, hits = _gradients(self.method, batch, step, self.acceleration, len(places))
            tally.add(loss, hits, len(part))
            share = loss if len(part) == len(places) else loss * len(part) / len(places)
            total = share if total is None else total + share
        if not crew.alone:
            total, sums = total.double(), tally.sums(crew.device)
            crew.exchange(mine / len(places), [total, *sums], self.method.sums, before)
            position.include(*sums, len(places))
        self.optimizer.step()
        return total

    def line(self, position: Position, seen: dict, began: float) -> dict:
        """The metrics of the epoch that has just ended: of its last step, sums, and `seen`."""
        step = self.ticks.last(position.epoch)
        classes = getattr(self.images, "num_classes", None)
        return joined(
            {"epoch": position.epoch + 1, "lr": self.rate(step.time), "classes": classes},
            self.method.metrics(step),
            {"train_loss": position.loss, "train_accuracy": position.accuracy},
            seen,
            {"seconds": time.monotonic() - began},
            {} if self.crew.alone else {"processes": self.crew.count},
        )


def _gradients(
    method: Method, batch: Batch, step: Step, acceleration: Acceleration, whole: int
) -> tuple[Tensor, Tensor]:
    """Add the gradients of a part of a batch of `whole` examples; return mean loss and hits."""
    batch = batch._replace(x=map_tensors(acceleration.laid_out, batch.x))
    with acceleration.rounding():
        with acceleration.autocast(batch.y.device):
            loss, logits = method.loss(batch, step)
        share = len(batch.y) / whole
        method.backward(loss if share == 1 else loss * share)
    return loss.detach(), correctness(logits, batch.y).sum()
