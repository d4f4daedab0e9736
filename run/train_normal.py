"""Train a network plainly or adversarially, with constant or scheduled budget (PAS)."""

from __future__ import annotations

from typing import Annotated

import options as o
from launch import launch
from trainer import place, start

from models import InputError, unknown
from train.checkpoint import load_checkpoint
from train.loop import CLOCKS
from train.methods import Adversarial, Standard
from train.schedules import check_not_negative, parse_schedule

EpsSchedule = Annotated[str | None, "budget per epoch, e.g. name=cycle_cos,...; None: constant"]
WarmStart = Annotated[str | None, "start from this checkpoint instead of a random network"]


def main(
    *,
    training: o.Training,
    fresh: o.Fresh,
    output: o.Output,
    model2load: WarmStart = None,
    attack_threshold_schedule: EpsSchedule = None,
    schedule_update_mode: Annotated[str, "schedules see the epoch, or the batch"] = "epoch",
) -> None:
    """Train a network; writes checkpoints, the initial network and metrics per epoch (.jsonl)."""
    if schedule_update_mode not in CLOCKS:
        raise unknown("--schedule_update_mode", schedule_update_mode, CLOCKS)
    eps = None
    if attack_threshold_schedule is not None:
        if training.attack is None:
            raise InputError("--attack_threshold_schedule needs --attack")
        eps = parse_schedule(attack_threshold_schedule, "--attack_threshold_schedule", budget=True)
        check_not_negative(eps, training.epoch_num, "--attack_threshold_schedule")
    trainer, model, network = start(fresh, training, output)
    warm = load_checkpoint(model2load) if model2load else None
    if warm:
        warm.load_into(network)
    method = "adversarial" if trainer.attack else "standard"
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
        *place(fresh, output, trainer.images, method),
        recipe,
        clock=schedule_update_mode,
        keep_epochs=output.epoch_ckpts,
    )


if __name__ == "__main__":
    launch(main)
