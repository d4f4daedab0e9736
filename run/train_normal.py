"""Train a network plainly or adversarially, with constant or scheduled budget (PAS)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import build
import options as o
from launch import launch

from models import InputError, check_model_type, unknown
from train.checkpoint import load_checkpoint
from train.loop import CLOCKS
from train.methods import Adversarial, Standard
from train.schedules import check_not_negative, parse_schedule

Epochs = Annotated[tuple[int, ...], "epochs (from 1) after which to keep a checkpoint, e.g. 50,75"]
EpsSchedule = Annotated[str | None, "budget per epoch, e.g. name=cycle_cos,...; None: constant"]
WarmStart = Annotated[str | None, "start from this checkpoint instead of a random network"]
Name = Annotated[str | None, "stem of the output files; None: made of data set, model and method"]


def main(
    *,
    training: o.Training,
    dataset: Annotated[str, "mnist5k, mnist, cifar10, cifar100, svhn or FILE.npz"] = "mnist5k",
    model_type: Annotated[str, "lenet, vgg, resnet or package.module:factory"] = "lenet",
    width: Annotated[int, "width factor w"] = 8,
    bias: Annotated[bool, "biases of LeNet and VGG"] = True,
    normalize: Annotated[str | None, "normalise inputs in the network, mean=..,std=.."] = None,
    model2load: WarmStart = None,
    epoch_ckpts: Epochs = (),
    attack_threshold_schedule: EpsSchedule = None,
    schedule_update_mode: Annotated[str, "schedules see the epoch, or the batch"] = "epoch",
    out_folder: Annotated[str | None, "folder of the run; None: runs/MODEL_NAME"] = None,
    model_name: Name = None,
) -> None:
    """Train a network; writes checkpoints, the initial network and metrics per epoch (.jsonl)."""
    if any(not 1 <= epoch <= training.epoch_num for epoch in epoch_ckpts):
        raise InputError(f"--epoch_ckpts must lie in 1..{training.epoch_num} (--epoch_num)")
    if schedule_update_mode not in CLOCKS:
        raise unknown("--schedule_update_mode", schedule_update_mode, CLOCKS)
    eps = None
    if attack_threshold_schedule is not None:
        if training.attack is None:
            raise InputError("--attack_threshold_schedule needs --attack")
        eps = parse_schedule(attack_threshold_schedule, "--attack_threshold_schedule", budget=True)
        check_not_negative(eps, training.epoch_num, "--attack_threshold_schedule")
    trainer = build.trainer_of(training, dataset)
    check_model_type(model_type, trainer.images.image_shape)
    model = {
        "model_type": model_type,
        "width": width,
        "bias": bias,
        "num_classes": trainer.images.num_classes,
        "image_shape": trainer.images.image_shape,
        "normalize": build.normalization_of(normalize),
    }
    network = build.fresh_network(model, training.seed)
    warm = load_checkpoint(model2load) if model2load else None
    if warm:
        warm.load_into(network)
    method = "adversarial" if trainer.attack else "standard"
    kind = model_type.replace(":", ".")
    name = model_name or f"{trainer.images.name}_{kind}_w{width}_{method}"
    recipe = {
        "command": "train_normal",
        "method": method,
        "model": model,
        "eps_schedule": repr(eps),
        "clock": schedule_update_mode,
        "warm_start": warm and warm.sha256,
    }
    trainer.run(
        Adversarial(network, trainer.attack, eps, trainer.device)
        if trainer.attack
        else Standard(network, trainer.device),
        Path(out_folder or f"runs/{name}"),
        name,
        recipe,
        clock=schedule_update_mode,
        keep_epochs=epoch_ckpts,
    )


if __name__ == "__main__":
    launch(main)
