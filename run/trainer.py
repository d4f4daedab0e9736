"""What the training commands share: checked options, a fresh network, the run and its files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import build
import options as o
import torch
from torch import nn

from models import InputError, check_model_type, unknown
from train.attacks import Attack, parse_attack
from train.data import Images
from train.datasets import load_images
from train.loop import RunFiles, fit
from train.methods import Method
from train.noise import STREAMS, check_seed
from train.objectives import OBJECTIVES, Trades
from train.optimizers import OptimizerSpec, parse_optimizer
from train.recipe import Recipe, normal_form
from train.schedules import Schedule, check_not_negative, parse_schedule
from train.weight_perturbation import WeightPerturbation


@dataclass(frozen=True)
class Trainer:
    """The checked options of a training command, ready to run a Method through the one loop."""

    options: o.Training
    optimizer: OptimizerSpec
    lr_schedule: Schedule | None
    attack: Attack | None
    device: torch.device
    dataset: str
    images: Images
    test_images: Images
    augment: bool
    validation: Images | None = None

    def run(self, method: Method, folder: Path, name: str, recipe: Recipe, **fit_options) -> None:
        """Train, or finish what was cut off; `recipe` adds what is particular to the command."""
        files = self.files(folder, name, recipe)
        resume = files.prepare(self.options.overwrite)
        if resume == {"done": True}:
            print(f"{files.path('.ckpt')} is already trained by this recipe")
            return
        first = self.lr_schedule(0) if self.lr_schedule else self.optimizer.lr
        if first != self.optimizer.lr:
            lr = self.optimizer.lr
            print(f"learning rate {first:g} from --lr_schedule, not {lr:g} from --optim")
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
            **{"lr_schedule": self.lr_schedule, **fit_options},
        )
        if metrics:
            print(summary(metrics[-1]))
        print(f"wrote {files.path('.ckpt')}")

    def files(self, folder: Path, name: str, recipe: Recipe) -> RunFiles:
        """The files of the run; raises InputError, nothing touched, if others are in the way."""
        files = RunFiles(folder, name, normal_form({**self._recipe(), **recipe}))
        if not self.options.overwrite:
            files.prepare(False)
        return files

    def _recipe(self) -> Recipe:
        held_out = self.validation and build.data_recipe(self.validation, self.dataset)
        return {
            "data": build.data_recipe(self.images, self.dataset),
            "validation": held_out,
            "test": build.data_recipe(self.test_images, self.dataset),
            "epochs": self.options.epoch_num,
            "batch_size": self.options.batch_size,
            "optim": repr(self.optimizer),
            "lr_schedule": repr(self.lr_schedule),
            "attack": repr(self.attack),
            "augment": self.augment,
            "seed": self.options.seed,
            "streams": STREAMS,
        }


def trainer_of(options: o.Training, dataset: str) -> Trainer:
    """Check the options of a training command and load its images; raises InputError."""
    build.positive(batch_size=options.batch_size, subset_size=options.subset_size)
    build.positive(eval_size=options.eval_size)
    check_seed(options.seed)
    if options.epoch_num < 0:
        raise InputError(f"--epoch_num must be 0 or more, got {options.epoch_num}")
    optimizer, attack = parse_optimizer(options.optim), build.attack_of(options.attack)
    lr = parse_schedule(options.lr_schedule, "--lr_schedule") if options.lr_schedule else None
    if lr is not None:
        check_not_negative(lr, options.epoch_num, "--lr_schedule")
    device = build.device_of(options.gpu)
    test = load_images(dataset, "test", options.data_dir).subset(options.eval_size)
    images = load_images(dataset, "train", options.data_dir)
    images = images.subset(options.subset_size)
    images.check_beside(test)
    augment = dataset.startswith("cifar") if options.augment is None else options.augment
    validation = None
    if options.val_fraction:
        images, validation = images.split(options.val_fraction)
    return Trainer(
        options, optimizer, lr, attack, device, dataset, images, test, augment, validation
    )


def robust_parts(robust: o.Robust, trainer: Trainer, network: nn.Module) -> dict[str, Any]:
    """Objective, weight perturbation and judge of an adversarial Method; raises InputError."""
    if trainer.attack is None:
        raise InputError("--objective, --awp_gamma, --average and --judge need --attack")
    if robust.objective not in OBJECTIVES:
        raise unknown("--objective", robust.objective, OBJECTIVES)
    if robust.awp_gamma < 0:
        raise InputError(f"--awp_gamma must not be negative, got {robust.awp_gamma:g}")
    kind = OBJECTIVES[robust.objective]
    return {
        "objective": kind(robust.trades_beta) if kind is Trades else kind(),
        "awp": WeightPerturbation(network, robust.awp_gamma) if robust.awp_gamma else None,
        "judge": parse_attack(robust.judge, "--judge") if robust.judge else trainer.attack,
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
    fresh: o.Fresh, training: o.Training, output: o.Output
) -> tuple[Trainer, dict, nn.Module]:
    """The trainer of a command, the `model` part of its recipe, and a newly initialised network."""
    if any(not 1 <= epoch <= training.epoch_num for epoch in output.epoch_ckpts):
        raise InputError(f"--epoch_ckpts must lie in 1..{training.epoch_num} (--epoch_num)")
    trainer = trainer_of(training, fresh.dataset)
    check_model_type(fresh.model_type, trainer.images.image_shape)
    model: dict[str, Any] = {
        "model_type": fresh.model_type,
        "width": fresh.width,
        "bias": fresh.bias,
        "num_classes": trainer.images.num_classes,
        "image_shape": trainer.images.image_shape,
        "normalize": build.normalization_of(fresh.normalize),
    }
    return trainer, model, build.fresh_network(model, training.seed)


def place(fresh: o.Fresh, output: o.Output, images: Images, method: str) -> tuple[Path, str]:
    """Folder and name of a run: as given, or made of data set, network and method."""
    kind = re.sub(r"[^\w.]+", ".", fresh.model_type).strip(".")  # may be a path with options
    name = output.model_name or f"{images.name}_{kind}_w{fresh.width}_{method}"
    return Path(output.out_folder or f"runs/{name}"), name
