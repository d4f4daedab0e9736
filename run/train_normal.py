"""Train a network plainly or adversarially, with constant or scheduled budget (PAS)."""

from __future__ import annotations

from typing import Annotated

from ridgeline.models import InputError, unknown
from ridgeline.run.shared import networks
from ridgeline.run.shared import options as o
from ridgeline.run.shared.budgets import attack_of, eps_schedule_of
from ridgeline.run.shared.launch import launch
from ridgeline.run.shared.training import place, robust_parts, start
from ridgeline.train.files.checkpoint import load_checkpoint
from ridgeline.train.loop import CLOCKS
from ridgeline.train.methods import Adversarial, Standard
from ridgeline.train.parts.weight_average import Average

EpsSchedule = Annotated[str | None, "budget per epoch, e.g. name=cycle_cos,...; None: constant"]
AVERAGES = ("ema", "swa")
WarmStart = Annotated[str | None, "start from this checkpoint instead of a random network"]


def main(
    *,
    training: o.Training,
    fresh: o.Fresh,
    output: o.Output,
    robust: o.Robust,
    model2load: WarmStart = None,
    attack_threshold_schedule: EpsSchedule = None,
    schedule_update_mode: Annotated[str, "schedules see the epoch, or the batch"] = "epoch",
    average: Annotated[
        str | None,
        "ema or swa: average the weights beside training (swa: its BatchNorm "
        "statistics are computed anew after every epoch, which takes time)",
    ] = None,
    average_decay: Annotated[float, "decay of ema per step"] = 0.999,
    average_from: Annotated[int, "epochs before the average begins"] = 0,
) -> None:
    """Train a network; writes checkpoints, the initial network and metrics per epoch (.jsonl)."""
    if schedule_update_mode not in CLOCKS:
        raise unknown("--schedule_update_mode", schedule_update_mode, CLOCKS)
    eps = None
    if attack_threshold_schedule is not None:
        if training.attack is None:
            raise InputError("--attack_threshold_schedule needs --attack")
        eps = eps_schedule_of(
            attack_threshold_schedule, attack_of(training.attack), training.epoch_num
        )
    if average not in (None, *AVERAGES):
        raise unknown("--average", average, AVERAGES)
    if average and training.epoch_num and average_from >= training.epoch_num:
        raise InputError(
            f"--average_from {average_from} leaves no epoch of {training.epoch_num} to average"
        )
    if not 0 <= average_decay <= 1 or average_from < 0:
        raise InputError("--average_decay must lie in 0..1, --average_from must not be negative")
    trainer, model, network = start(fresh, training, output)
    warm = None if model2load is None else load_checkpoint(model2load)
    if warm:
        warm.load_into(network)
    recipe = {
        "command": "train_normal", "model": model, "eps_schedule": repr(eps),
        "clock": schedule_update_mode, "warm_start": warm and warm.sha256,
    }  # fmt: skip
    if trainer.attack is None and not average and robust == o.Robust():
        name, method = "standard", Standard(network, trainer.device)
    else:
        parts = robust_parts(robust, trainer, network)
        name = "adversarial" if robust.objective == "at" else robust.objective
        if average:
            parts["average"] = Average(network, average_decay if average == "ema" else None)
            parts |= {"average_from": average_from, "images": trainer.images}
            recipe["average"] = [average, average_decay, average_from]
        method = Adversarial(network, trainer.attack, eps, trainer.device, **parts)
        recipe |= {"objective": repr(parts["objective"]), "awp": robust.awp_gamma,
                   "judge": repr(parts["judge"])}  # fmt: skip
    where = place(model, output, trainer.images, name)
    networks.apart(where[0] / f"{where[1]}.ckpt", model2load)
    recipe["method"] = name
    trainer.run(method, *where, recipe, clock=schedule_update_mode, keep_epochs=output.epoch_ckpts)


if __name__ == "__main__":
    launch(main)
