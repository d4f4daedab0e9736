"""What the training commands share: checked options, a fresh network, the run and its files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from ridgeline.models import InputError, code_of, is_external, published_width, unknown
from ridgeline.run.shared import networks
from ridgeline.run.shared import options as o
from ridgeline.run.shared.budgets import attack_of
from ridgeline.train.attacks import Attack, parse_attack
from ridgeline.train.data.datasets import load_images
from ridgeline.train.data.examples import Images
from ridgeline.train.data.network_check import check_network
from ridgeline.train.data.noise import STREAMS, check_seed
from ridgeline.train.files.checkpoint import load_checkpoint
from ridgeline.train.files.recipe import Recipe, normal_form
from ridgeline.train.files.run_files import DONE, RunFiles
from ridgeline.train.loop import check_batches, fit
from ridgeline.train.methods import Method
from ridgeline.train.objectives import OBJECTIVES, Trades
from ridgeline.train.optimizers import OptimizerSpec, parse_optimizer
from ridgeline.train.parts.weight_perturbation import WeightPerturbation
from ridgeline.train.schedules import parse_rate
from ridgeline.train.schedules.shapes import Schedule

#: data sets, by their registered names, whose images are cropped and flipped unless told otherwise
AUGMENTED = ("cifar10", "cifar100")


@dataclass(frozen=True)
class Trainer:
    """The checked options of a training command, ready to run a Method through the one loop.

    `anew` False: complete runs of the same recipe stay also with --overwrite (`claim_all`).
    """

    options: o.Training
    optimizer: OptimizerSpec
    attack: Attack | None
    device: torch.device
    dataset: str
    images: Images
    test_images: Images
    augment: bool
    validation: Images | None = None
    anew: bool | None = None

    @property
    def rate(self) -> Schedule:
        """The learning rate over the run."""
        return parse_rate(self.options.lr_schedule, self.optimizer.lr, self.options.epoch_num)

    def run(
        self,
        method: Method,
        folder: Path,
        name: str,
        recipe: Recipe,
        keep_epochs: tuple[int, ...] = (),
        *,
        lr_schedule: Schedule | None = None,
        **fit_options,
    ) -> None:
        """Train, or finish what was cut off; `recipe` adds what is particular to the command."""
        files, resume = self.claim(method, folder, name, recipe, keep_epochs)
        if resume == DONE:
            self._deliver(files)
            return
        rate = lr_schedule or self.rate
        lr, spec = self.optimizer.lr, self.options.lr_schedule or ""
        if rate(0) != lr and lr_schedule is None and ("start_v" in spec or "up_v" in spec):
            print(f"learning rate {rate(0):g} from --lr_schedule, not {lr:g} from --optim")
        metrics = fit(
            method,
            self.images,
            self.test_images,
            epochs=self.options.epoch_num,
            batch_size=self.options.batch_size,
            optimizer=self.optimizer,
            augment=self.augment,
            seed=self.options.seed,
            device=self.device,
            files=files,
            resume=resume,
            validation=self.validation,
            keep_epochs=keep_epochs,
            lr_schedule=rate,
            **fit_options,
        )
        if self.options.overwrite:
            files.tidy()
        if metrics:
            print(summary(metrics[-1]))
        print(f"wrote {files.checkpoint('')}")

    def claim(
        self,
        method: Method,
        folder: Path,
        name: str,
        recipe: Recipe,
        keep_epochs: tuple[int, ...] = (),
    ) -> tuple[RunFiles, dict | None]:
        """The files of a run, and what `RunFiles.prepare` says of them.

        Raises InputError, with nothing touched, if others are in the way, or if the run is beyond
        an epoch whose checkpoint is wanted and was not kept.
        """
        files = RunFiles(folder, name, normal_form({**self._recipe(), **recipe}))
        files = files.holding(method, keep_epochs, best=self.validation is not None)
        last, overwrite = self.options.epoch_num, self.options.overwrite
        resume = files.prepare(overwrite, anew=self.anew)
        if resume is None:
            return files, None
        lacking = files.lacking(last if resume == DONE else resume["position"]["epoch"])
        if resume == DONE:  # whose last network is there
            lacking = [e for e in lacking if e != last]
        if lacking and not overwrite:
            raise InputError(
                f"{files.path('')} is beyond epoch {lacking[0]} and kept no checkpoint of it; "
                "train it again with --overwrite, or under another --model_name"
            )
        return files, None if lacking else resume

    def _deliver(self, files: RunFiles) -> None:
        """Say that a run is complete; give its last epoch the checkpoint it may lack."""
        last = self.options.epoch_num
        if last and not files.path(".jsonl").exists():
            raise InputError(
                f"{files.path('.ckpt')} is already trained by this recipe, but its metrics "
                f"{files.path('.jsonl')} are gone; train it again with --overwrite"
            )
        if last in files.lacking(last):
            for part in ("", *files.copies):
                if files.checkpoint(part).exists():
                    weights = load_checkpoint(files.checkpoint(part)).tensors
                    files.save(f"{part}_{last}".lstrip("_"), weights, last)
        print(f"{files.checkpoint('')} is already trained by this recipe")

    def _recipe(self) -> Recipe:
        held_out = self.validation and networks.data_recipe(self.validation, self.dataset)
        return {
            "data": networks.data_recipe(self.images, self.dataset),
            "validation": held_out,
            "test": networks.data_recipe(self.test_images, self.dataset),
            "epochs": self.options.epoch_num,
            "batch_size": self.options.batch_size,
            "optim": repr(self.optimizer),
            "lr_schedule": repr(self.rate),
            "attack": repr(self.attack),
            "augment": self.augment,
            "seed": self.options.seed,
            "streams": STREAMS,
        }


def trainer_of(options: o.Training, dataset: str) -> Trainer:
    """Check the options of a training command and load its images; raises InputError."""
    networks.positive(batch_size=options.batch_size, subset_size=options.subset_size)
    if options.epoch_num < 0:
        raise InputError(f"--epoch_num must be 0 or more, got {options.epoch_num}")
    networks.positive(eval_size=options.eval_size, epoch_num=options.epoch_num or None)
    check_seed(options.seed)
    optimizer, attack = parse_optimizer(options.optim), attack_of(options.attack)
    parse_rate(options.lr_schedule, optimizer.lr, options.epoch_num)
    device = networks.device_of(options.gpu)
    test = load_images(dataset, "test", options.data_dir).subset(options.eval_size)
    images = load_images(dataset, "train", options.data_dir)
    images = images.subset(options.subset_size)
    images.check_beside(test)
    augment = dataset in AUGMENTED if options.augment is None else options.augment
    validation = None
    if options.val_fraction:
        images, validation = images.split(options.val_fraction)
    return Trainer(options, optimizer, attack, device, dataset, images, test, augment, validation)


def claim_all(runs: Iterable[tuple[Trainer, tuple]]) -> bool:
    """Claim the files of a command of several runs, each with its arguments for `Trainer.run`.

    Returns `Trainer.anew` for them: whether --overwrite trains complete runs again. It does not if
    one of the runs was cut off: then the complete ones are those of the same call.
    """
    overwrite = cut_off = False
    for trainer, run in runs:
        overwrite = trainer.options.overwrite
        cut_off |= trainer.claim(*run)[0].interrupted()
    return overwrite and not cut_off


def robust_parts(robust: o.Robust, trainer: Trainer, network: nn.Module) -> dict[str, Any]:
    """Objective, weight perturbation and judge of an adversarial Method; raises InputError."""
    if trainer.attack is None:
        raise InputError("--objective, --awp_gamma, --average and --judge need --attack")
    if robust.objective not in OBJECTIVES:
        raise unknown("--objective", robust.objective, OBJECTIVES)
    if robust.awp_gamma < 0:
        raise InputError(f"--awp_gamma must not be negative, got {robust.awp_gamma:g}")
    if robust.trades_beta < 0:
        raise InputError(f"--trades_beta must not be negative, got {robust.trades_beta:g}")
    kind, judge = OBJECTIVES[robust.objective], trainer.attack
    if robust.judge is not None:
        judge = parse_attack(robust.judge, "--judge", beside=trainer.attack.unit)
    return {
        "objective": kind(robust.trades_beta) if kind is Trades else kind(),
        "awp": WeightPerturbation(network, robust.awp_gamma) if robust.awp_gamma else None,
        "judge": judge,
    }


def summary(line: dict[str, Any]) -> str:
    """The metrics of an epoch that are single numbers or words, in one line."""
    words = (
        f"{k} {v:.4g}" if isinstance(v, int | float) else f"{k} {v}"
        for k, v in line.items()
        if not isinstance(v, dict)
    )
    return ", ".join(words)


def start(
    fresh: o.Fresh,
    training: o.Training,
    output: o.Output,
    widths: Mapping[str, int] = MappingProxyType({}),
) -> tuple[Trainer, dict, nn.Module]:
    """The trainer of a command, the `model` part of its recipe, and a newly initialised network.

    `widths`: what a command's own paper means by a network, where --width leaves it open.
    """
    if any(not 1 <= epoch <= training.epoch_num for epoch in output.epoch_ckpts):
        raise InputError(f"--epoch_ckpts must lie in 1..{training.epoch_num} (--epoch_num)")
    if output.model_name == "" or output.out_folder == "":
        raise InputError("--model_name and --out_folder must not be empty")
    trainer = trainer_of(training, fresh.dataset)
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
    return trainer, model, network


def place(model: dict[str, Any], output: o.Output, images: Images, method: str) -> tuple[Path, str]:
    """Folder and name of a run: as given, or made of data set, network and method."""
    kind = re.sub(r"[^\w.]+", ".", model["model_type"]).strip(".")  # may be a path with options
    wide = "" if model["width"] is None else f"_w{model['width']}"
    name = output.model_name or f"{images.name}_{kind}{wide}_{method}"
    return Path(output.out_folder or f"runs/{name}"), name
