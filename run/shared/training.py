"""Common code of training commands: checked options, a new network, runs and their files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import nn

from ridgeline.models import InputError, code_of, is_external, published_width
from ridgeline.run.shared import networks
from ridgeline.run.shared import options as o
from ridgeline.run.shared.trainer import Trainer, trainer_of
from ridgeline.run.shared.watching import closing_lines, watch_of, watch_recipe
from ridgeline.train.batches import check_batches
from ridgeline.train.data.examples import Images
from ridgeline.train.data.network_check import check_network
from ridgeline.train.data.noise import STREAMS
from ridgeline.train.exchange import connect, leader, meet, processes
from ridgeline.train.files.checkpoint import load_checkpoint
from ridgeline.train.files.recipe import Recipe, normal_form
from ridgeline.train.files.run_files import DONE, RunFiles
from ridgeline.train.files.tensorboard import Board, draw_complete
from ridgeline.train.loop import fit
from ridgeline.train.methods import Method
from ridgeline.train.options import Options
from ridgeline.train.parts.batchnorm_statistics import tracks


@dataclass(frozen=True)
class Run:
    """One run of a command: its method, its files, and its own settings.

    `extra` is the part of the recipe that is not in the trainer or the method's options.
    """

    trainer: Trainer
    method: Method
    folder: Path
    name: str
    extra: Recipe
    keep_epochs: tuple[int, ...] = ()

    def train(self, anew: bool | None = None) -> None:
        """Train, or finish what was cut off.

        `anew` False: a complete run stays also with --overwrite (`claim_all`).
        """
        files, resume = self.claim(anew)
        connect(self.trainer.setup.device)
        meet()  # all processes have checked the files before the first one writes
        if resume == DONE:
            if leader():
                self._deliver(files)
            return
        training, setup, method = self.trainer.training, self.trainer.setup, self.method
        drawn = training.tensorboard and leader()
        board = Board(files.path(".tensorboard")) if drawn else None
        rate = method.rate or setup.rate
        lr, spec = setup.optimizer.lr, training.lr_schedule or ""
        if rate is setup.rate and rate(0) != lr and ("start_v" in spec or "up_v" in spec):
            print(f"learning rate {rate(0):g} from --lr_schedule, not {lr:g} from --optim")
        if not self.trainer.acceleration.sync_batchnorm:
            print(split_line(method.called, training.batch_size), end="")
        metrics = fit(
            method,
            setup.images,
            self.trainer.test_images,
            epochs=setup.epochs,
            batch_size=training.batch_size,
            optimizer=setup.optimizer,
            augment=setup.augment,
            seed=setup.seed,
            device=setup.device,
            files=replace(files, board=board),
            resume=resume,
            validation=self.trainer.validation,
            keep_epochs=self.keep_epochs,
            lr_schedule=rate,
            acceleration=self.trainer.acceleration,
            state_seconds=60 * training.save_minutes,
            watch=watch_of(training, method, setup.images),
        )
        if board is not None:
            board.close()
        if training.overwrite and leader():
            files.tidy()
        if metrics:
            print(summary(metrics[-1]))
            print(closing_lines(metrics[-1]), end="")
        print(f"wrote {files.checkpoint('')}")

    def claim(self, anew: bool | None = None) -> tuple[RunFiles, dict | None]:
        """The files of the run, and the result of `RunFiles.prepare`.

        Raises InputError, before any change, if files of another recipe are there, or if the run
        has passed an epoch whose checkpoint is wanted but missing.
        """
        self.trainer.acceleration.check_method(self.method)
        watch_of(self.trainer.training, self.method, self.trainer.images)
        files = RunFiles(self.folder, self.name, normal_form(self.recipe()))
        best = self.trainer.validation is not None
        files = files.holding(self.method, self.keep_epochs, best=best)
        last, overwrite = self.trainer.setup.epochs, self.trainer.training.overwrite
        resume = files.prepare(overwrite, anew=anew)
        if resume is None:
            return files, None
        lacking = files.lacking(last if resume == DONE else resume["position"]["epoch"])
        if resume == DONE:  # the last network exists
            lacking = [e for e in lacking if e != last]
        if lacking and not overwrite:
            raise InputError(
                f"{files.path('')} is beyond epoch {lacking[0]} and kept no checkpoint of it; "
                "train it again with --overwrite, or under another --model_name"
            )
        return files, None if lacking else resume

    def _deliver(self, files: RunFiles) -> None:
        """Print that the run is complete. Write the checkpoint of the last epoch if missing."""
        last = self.trainer.setup.epochs
        if last and not files.path(".jsonl").exists():
            raise InputError(
                f"{files.path('.ckpt')} is already trained by this recipe, but its metrics "
                f"{files.path('.jsonl')} are gone; train it again with --overwrite"
            )
        if last in files.lacking(last):
            for part in ("", *files.copies):
                if files.checkpoint(part).exists():
                    held = load_checkpoint(files.checkpoint(part))
                    name = f"{part}_{last}".lstrip("_")
                    files.save(name, held.tensors, last, held.beside())
        if last and self.trainer.training.tensorboard:
            draw_complete(files.path(".jsonl"), files.path(".tensorboard"))
        print(f"{files.checkpoint('')} is already trained by this recipe")

    def recipe(self) -> Recipe:
        """The recipe, with parsed values, so that 8/255 and its synonyms are equal."""
        trainer, setup, method = self.trainer, self.trainer.setup, self.method
        held_out = trainer.validation and networks.data_recipe(trainer.validation, trainer.dataset)
        return {
            "method": method.label,
            "options": method.recipe(),
            "data": networks.data_recipe(setup.images, trainer.dataset),
            "validation": held_out,
            "test": networks.data_recipe(trainer.test_images, trainer.dataset),
            "epochs": setup.epochs,
            "batch_size": trainer.training.batch_size,
            "optim": repr(setup.optimizer),
            "lr_schedule": repr(method.rate or setup.rate),
            "momentum_schedule": repr(method.momentum),
            "clock": method.clock,
            "attack": repr(method.setup.attack),
            "eval_attack": repr(method.setup.target),
            "augment": setup.augment and str(setup.augment),
            "seed": setup.seed,
            "streams": STREAMS,
            **trainer.acceleration.recipe(),
            **watch_recipe(trainer.training),
            **self.extra,
        }


def split_line(network: nn.Module, batch_size: int) -> str:
    """A note on BatchNorm if processes share a batch; empty for one process or no BatchNorm."""
    count = processes()[1]
    if count == 1 or not any(tracks(m) for m in network.modules()):
        return ""
    return (f"BatchNorm normalises by each process's share of a batch, {batch_size // count} of "
            f"{batch_size} images; --sync_batchnorm True: by all of it\n")  # fmt: skip


def claim_all(runs: Iterable[Run]) -> bool:
    """Lock the files of a command with several runs.

    Returns `anew` for them: whether --overwrite trains complete runs again. It does not if one of
    the runs is unfinished, because the complete ones then belong to the same call.
    """
    overwrite = cut_off = False
    for run in runs:
        overwrite = run.trainer.training.overwrite
        cut_off |= run.claim()[0].interrupted()
    return overwrite and not cut_off


def train_method(
    kind: type[Method],
    training: o.Training,
    fresh: o.Fresh,
    output: o.Output,
    options: Options | None = None,
    *,
    eval_attack: str | None = None,
    model2load: str | None = None,
    clock: str = "epoch",
) -> None:
    """A whole training command: check everything, build network and method, train.

    `model2load`: a checkpoint to start from, instead of a random network.
    """
    trainer, model, network = start(fresh, training, output, eval_attack=eval_attack, kind=kind)
    trainer = replace(trainer, setup=replace(trainer.setup, clock=clock))
    warm = None if model2load is None else load_checkpoint(model2load)
    if warm is not None:
        warm.load_into(network)
    method = kind.build(network, trainer.setup, options)
    folder, name = place(model, output, trainer.images, method.label)
    networks.apart(folder / f"{name}.ckpt", model2load)
    extra = {"model": model, "warm_start": warm and warm.sha256}
    Run(trainer, method, folder, name, extra, output.epoch_ckpts).train()


def summary(line: dict[str, Any]) -> str:
    """The metrics of an epoch that are single numbers or words, as one line."""
    words = (
        f"{k} {v:.4g}" if isinstance(v, int | float) else f"{k} {v}"
        for k, v in line.items()
        if not isinstance(v, dict | bool)
    )
    return ", ".join(words)


def start(
    fresh: o.Fresh,
    training: o.Training,
    output: o.Output,
    widths: Mapping[str, int] = MappingProxyType({}),
    eval_attack: str | None = None,
    kind: type[Method] = Method,
) -> tuple[Trainer, dict, nn.Module]:
    """The trainer of a command, the `model` part of its recipe, and a newly initialised network.

    `widths`: the widths in the method's own paper, used without --width. `kind`: the method, whose
    paper may have its own augmentation.
    """
    if any(epoch > training.epoch_num for epoch in output.epoch_ckpts):
        raise InputError(f"--epoch_ckpts must lie in 1..{training.epoch_num} (--epoch_num)")
    trainer = trainer_of(training, fresh.dataset, eval_attack, kind.augmentations)
    shape = trainer.images.image_shape
    width = widths.get(fresh.model_type, published_width(fresh.model_type, shape))
    model: dict[str, Any] = {
        "model_type": fresh.model_type,
        "width": width if fresh.width is None else fresh.width,
        "bias": fresh.bias,
        "num_classes": trainer.images.num_classes,
        "image_shape": shape,
        "normalize": networks.normalization_of(fresh.normalize),
    }
    network = networks.fresh_network(model, training.seed)
    check_network(network, trainer.images)
    if is_external(fresh.model_type):
        model["code"] = code_of(network)
    check_batches(network, trainer.images, training.batch_size)
    again = partial(networks.fresh_network, model)
    return replace(trainer, setup=replace(trainer.setup, fresh=again)), model, network


def place(model: dict[str, Any], output: o.Output, images: Images, method: str) -> tuple[Path, str]:
    """Folder and name of a run: as given, or from data set, network and method."""
    kind = re.sub(r"[^\w.]+", ".", model["model_type"]).strip(".")  # may be a path with options
    wide = "" if model["width"] is None else f"_w{model['width']}"
    name = output.model_name or f"{images.name}_{kind}{wide}_{method}"
    return Path(output.out_folder or f"runs/{name}"), name
