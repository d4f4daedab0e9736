"""The one training loop."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from models.errors import InputError
from train.augment import crop_and_flip
from train.checkpoint import save_checkpoint, stored_recipe
from train.data import Images
from train.integrity import check_torch_zip
from train.losses import predicted
from train.methods.base import Kept, Method, Step
from train.noise import Purpose, number_of
from train.optimizers import OptimizerSpec
from train.progress import progress
from train.recipe import Recipe, check_folder, check_same, write_atomically
from train.schedules import Constant, Schedule

CLOCKS = ("epoch", "batch")


@dataclass(frozen=True)
class RunFiles:
    """The files of one training run: NAME.ckpt, NAME_init.ckpt, NAME_EPOCH.ckpt, NAME.jsonl.

    With a validation set NAME_best.ckpt, and NAME_COPY... of every second network the method
    carries. NAME.state holds what resuming needs and disappears when the run is complete.
    """

    folder: Path
    name: str
    recipe: Recipe

    def path(self, suffix: str) -> Path:
        """FOLDER/NAME + suffix."""
        return self.folder / f"{self.name}{suffix}"

    def prepare(self, overwrite: bool) -> dict | None:
        """The state to resume from, or None for a fresh start; "done" marks a complete run.

        Raises InputError, with nothing touched, if files of another recipe are in the way.
        """
        final, state = self.path(".ckpt"), self.path(".state")
        check_folder(final)
        if overwrite:
            state.unlink(missing_ok=True)  # the other files stay until their successors are whole
            return None
        if state.exists():
            stored = read_state(state)
            check_same(state, stored.get("recipe"), self.recipe)
            return stored
        if final.exists():
            check_same(final, stored_recipe(final), self.recipe)
            return {"done": True}
        if self.path(".jsonl").exists():
            check_same(self.path(".jsonl"), None, self.recipe)
        return None

    def save(self, suffix: str, weights: Mapping[str, Tensor], epoch: int | None = None) -> None:
        """Write a checkpoint; `epoch` goes into its recipe."""
        recipe = self.recipe if epoch is None else {**self.recipe, "epoch": epoch}
        save_checkpoint(self.path(suffix), weights, recipe)

    def write_metrics(self, lines: list[dict]) -> None:
        """Rewrite the metrics file, one JSON object per epoch."""
        text = "".join(json.dumps(line) + "\n" for line in lines)
        write_atomically(self.path(".jsonl"), lambda p: p.write_text(text))


def read_state(path: Path) -> dict:
    """Load a training state; InputError if it cannot be read."""
    check_torch_zip(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        raise InputError(f"{path} cannot be read ({type(error).__name__}); remove it") from None


def fit(
    method: Method,
    images: Images,
    test_images: Images,
    *,
    epochs: int,
    batch_size: int,
    optimizer: OptimizerSpec,
    validation: Images | None = None,
    lr_schedule: Schedule | None = None,
    momentum_schedule: Schedule | None = None,
    clock: str = "epoch",
    augment: bool = False,
    seed: int = 0,
    device: torch.device | str = "cpu",
    files: RunFiles | None = None,
    resume: dict | None = None,
    keep_epochs: Collection[int] = (),
    eval_batch_size: int = 500,
    state_seconds: float = 60.0,
) -> list[dict]:
    """Train and return the metrics of every epoch.

    Schedules see the whole epoch, or with clock="batch" the fractional one. Order, augmentation
    and attack noise are functions of seed, epoch and example, and the state is written between
    batches every `state_seconds` and after every epoch: a run killed at any moment resumes (with
    `resume`, from `RunFiles.prepare`) to bit-identical weights on the CPU. With `validation` the
    network (and every copy) of the best robust, else clean, accuracy there is kept.
    """
    lr_schedule = lr_schedule or Constant(start_v=optimizer.lr)
    method.network.to(device)
    trained = [p for p in method.network.parameters() if p.requires_grad]
    optim = optimizer.build(trained)
    method.attach(optim)
    start = _Position()
    if resume is not None:
        start = _restore(resume, method, optim)
    else:
        torch.manual_seed(number_of(seed, Purpose.TRAINING))  # dropout
        if files is not None:
            files.save("_init.ckpt", method.weights(), 0)
    metrics, steps_per_epoch = start.metrics, -(-len(images) // batch_size)
    saved = time.monotonic()
    bar = progress(
        epochs * len(images), f"train {files.name if files else ''}".rstrip(), "image",
        initial=start.epoch * len(images) + start.done,
    )  # fmt: skip
    with bar:
        for epoch in range(start.epoch, epochs):
            position = start if epoch == start.epoch else _Position(epoch, metrics=metrics)
            if not position.done:
                _keep(files, method.start_epoch(epoch), epoch)
            order = images.shuffled(seed, epoch)[position.done :]
            method.network.train()
            began = time.monotonic()
            for batch in images.batches(batch_size, order=order, device=device):
                if augment:
                    batch = crop_and_flip(batch, seed, epoch, method.border)
                number = epoch * steps_per_epoch + position.done // batch_size
                now = number / steps_per_epoch if clock == "batch" else float(epoch)
                step = Step(epoch, now, number, seed)
                for group in optim.param_groups:
                    group["lr"] = lr_schedule(now)
                    if momentum_schedule is not None:
                        group["momentum"] = momentum_schedule(now)
                optim.zero_grad(set_to_none=True)
                loss, logits = method.loss(batch, step)
                method.backward(loss)
                optim.step()
                method.after_step(step)
                position.add(loss.item(), (predicted(logits) == batch.y).sum().item(), len(batch.y))
                bar.update(len(batch.y))
                bar.set_postfix(epoch=epoch + 1, loss=f"{position.loss:.3f}", refresh=False)
                if files is not None and time.monotonic() - saved > state_seconds:
                    _save_state(files, method, optim, position)
                    saved = time.monotonic()
            _keep(files, method.end_epoch(epoch), epoch + 1)
            step = Step(epoch, float(epoch) if clock == "epoch" else epoch + 1.0, 0, seed)
            line = {
                "epoch": epoch + 1,
                "lr": lr_schedule(step.time),
                **method.settings(step),
                "train_loss": position.loss,
                "train_accuracy": position.correct / position.done,
            }
            for part, held_out in (("val", validation), ("test", test_images)):
                if held_out is not None:
                    for name, score in method.evaluate(held_out, step, eval_batch_size).items():
                        line |= score.summary(f"{part}_{name}")
            line["seconds"] = time.monotonic() - began
            metrics.append(line)
            if files is not None:
                if epoch + 1 in keep_epochs:
                    _save_all(files, method, f"_{epoch + 1}", epoch + 1)
                if validation is not None:
                    _save_best(files, method, metrics)
                # the state before the metrics: a run killed between them must still resume
                _save_state(files, method, optim, _Position(epoch + 1, metrics=metrics))
                files.write_metrics(metrics)
    if files is not None:
        files.write_metrics(metrics)
        for name, weights in method.copies().items():
            files.save(f"_{name}.ckpt", weights)
        files.save(".ckpt", method.weights())
        files.path(".state").unlink(missing_ok=True)
    return metrics


def _save_all(files: RunFiles, method: Method, suffix: str, epoch: int) -> None:
    files.save(f"{suffix}.ckpt", method.weights(), epoch)
    for name, weights in method.copies().items():
        files.save(f"_{name}{suffix}.ckpt", weights, epoch)


def _save_best(files: RunFiles, method: Method, metrics: list[dict]) -> None:
    """Keep every network whose accuracy on the validation set is the best so far."""
    for prefix, weights in {"": method.weights(), **method.copies()}.items():
        stem = f"{prefix}_" if prefix else ""
        key = next(
            k for w in ("target", "clean") if (k := f"val_{stem}{w}_accuracy") in metrics[-1]
        )
        if all(line.get(key, -1) < metrics[-1][key] for line in metrics[:-1]):
            suffix = f"_{prefix}_best.ckpt" if prefix else "_best.ckpt"
            files.save(suffix, weights, metrics[-1]["epoch"])


def _keep(files: RunFiles | None, kept: Kept, epoch: int) -> None:
    if files is not None:
        for name, weights in kept.items():
            files.save(f"_{name}.ckpt", weights, epoch)


class _Position:
    """How far the current epoch is: examples done and running sums over them."""

    def __init__(self, epoch: int = 0, *, metrics: list[dict] | None = None):
        self.epoch, self.metrics = epoch, metrics if metrics is not None else []
        self.done, self.correct, self.loss_sum = 0, 0, 0.0

    def add(self, loss: float, correct: int, count: int) -> None:
        self.loss_sum += loss * count
        self.correct += correct
        self.done += count

    @property
    def loss(self) -> float:
        return self.loss_sum / self.done


def _save_state(
    files: RunFiles, method: Method, optim: torch.optim.Optimizer, position: _Position
) -> None:
    state = {
        "recipe": files.recipe,
        "position": vars(position),
        "network": method.network.state_dict(),
        "method": method.state(),
        "optimizer": optim.state_dict(),
        "rng": torch.get_rng_state(),
    }
    if torch.cuda.is_initialized():
        state["cuda_rng"] = torch.cuda.get_rng_state_all()
    write_atomically(files.path(".state"), lambda p: torch.save(state, p))


def _restore(state: dict, method: Method, optim: torch.optim.Optimizer) -> _Position:
    method.network.load_state_dict(state["network"])
    method.load_state(state["method"])
    optim.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["rng"])
    if "cuda_rng" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda_rng"])
    position = _Position(state["position"]["epoch"], metrics=state["position"]["metrics"])
    vars(position).update(state["position"])
    return position
