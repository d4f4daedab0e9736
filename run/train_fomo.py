"""Train adversarially with random forgetting (FOMO, a reconstruction)."""

from __future__ import annotations

import math
from functools import partial
from typing import Annotated

from ridgeline.models import InputError
from ridgeline.run.shared import networks
from ridgeline.run.shared import options as o
from ridgeline.run.shared.launch import launch
from ridgeline.run.shared.training import place, robust_parts, start
from ridgeline.train.methods import Fomo
from ridgeline.train.parts.phases import Cycles, PhaseRate
from ridgeline.train.schedules.shapes import Schedule

NETWORK = o.Fresh(dataset="cifar10", model_type="preact")
JUDGE = o.Robust(judge=o.PGD20)


def main(
    *,
    training: o.Training = o.LONG_RUN,
    fresh: o.Fresh = NETWORK,
    output: o.Output,
    robust: o.Robust = JUDGE,
    fomo_warmup: Annotated[int, "epochs of plain adversarial training"] = 105,
    fomo_relearn: Annotated[int, "epochs of relearning per cycle"] = 5,
    fomo_consolidate_epochs: Annotated[int, "epochs of consolidation per cycle"] = 1,
    fomo_rate: Annotated[float, "fraction of every tensor that is forgotten, 0..1"] = 0.035,
    fomo_scope: Annotated[str, "later, last_stage, first or all stages"] = "later",
    fomo_include_shortcut: Annotated[bool, "convolutions of shortcuts too"] = False,
    fomo_include_fc: Annotated[bool, "the classifier too"] = True,
    fomo_mask: Annotated[str, "tensor: exact fraction of each; global: Bernoulli"] = "tensor",
    fomo_select: Annotated[str, "random; lowest magnitude or snip as ablations"] = "random",
    fomo_init: Annotated[str, "fresh, rewind, zero or stable"] = "fresh",
    fomo_consolidate: Annotated[str, "iter_tail, phase_end or iter_all"] = "iter_tail",
    fomo_ema_decay: Annotated[float, "decay of the stable network"] = 0.999,
    fomo_lambda: Annotated[float, "weight of the consistency"] = 1.0,
    fomo_cr_on: Annotated[str, "adv: adversarial images; both: clean ones too"] = "adv",
    fomo_cr_loss: Annotated[str, "kl, or mse between logits"] = "kl",
    fomo_cr_in_consolidation: Annotated[bool, "keep the consistency in consolidation"] = False,
    fomo_reset_momentum: Annotated[str, "masked, none or all"] = "masked",
    fomo_lr: Annotated[
        str, "piecewise: --lr_schedule; hold:RATE or cyclic_per_phase:RATE from the first cycle on"
    ] = "piecewise",
    attack_mode: Annotated[str, "BatchNorm during the attack: eval or train"] = "eval",
) -> None:
    """Learn, then forget, relearn and consolidate in cycles; two networks come out.

    A reconstruction from what could be read of Ramkumar et al. 2024, never the published FOMO.
    NAME_stable.ckpt is the network to report, NAME.ckpt the one that forgets; of three cycles the
    networks before and after forgetting and after relearning are kept.
    """
    for name, value, allowed in (
        ("fomo_mask", fomo_mask, ("tensor", "global")), ("fomo_cr_on", fomo_cr_on, ("adv", "both")),
        ("fomo_cr_loss", fomo_cr_loss, ("kl", "mse")),
        ("attack_mode", attack_mode, ("eval", "train")),
    ):  # fmt: skip
        if value not in allowed:
            raise InputError(f"--{name} must be one of {', '.join(allowed)}, got {value!r}")
    cycles = Cycles(training.epoch_num, fomo_warmup, fomo_relearn, fomo_consolidate_epochs)
    trainer, model, network = start(fresh, training, output)
    parts = robust_parts(robust, trainer, network)
    options = {
        "fraction": fomo_rate, "scope": fomo_scope, "shortcut": fomo_include_shortcut,
        "classifier": fomo_include_fc, "exact": fomo_mask == "tensor", "select": fomo_select,
        "init": fomo_init, "consolidation": fomo_consolidate, "decay": fomo_ema_decay,
        "strength": fomo_lambda, "both": fomo_cr_on == "both", "squared": fomo_cr_loss == "mse",
        "always": fomo_cr_in_consolidation, "momentum": fomo_reset_momentum,
        "train_mode": attack_mode == "train",
    }  # fmt: skip
    method = Fomo(network, trainer.attack, cycles, partial(networks.fresh_network, model), **parts,
                  **options, images=trainer.images, seed=training.seed,
                  device=trainer.device)  # fmt: skip
    rate = rate_of(fomo_lr, trainer.rate, cycles)
    recipe = {
        "command": "train_fomo", "method": "fomo", "model": model, "cycles": repr(cycles),
        "fomo": options, "objective": repr(parts["objective"]), "awp": robust.awp_gamma,
        "judge": repr(parts["judge"]), "lr_schedule": repr(rate),
    }  # fmt: skip
    where = place(model, output, trainer.images, "fomo")
    trainer.run(method, *where, recipe, lr_schedule=rate, keep_epochs=output.epoch_ckpts)


def rate_of(text: str, base: Schedule, cycles: Cycles) -> Schedule | PhaseRate:
    """The learning-rate schedule behind --fomo_lr; InputError if it is none."""
    if text == "piecewise":
        return base
    kind, _, value = text.partition(":")
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if kind not in ("hold", "cyclic_per_phase") or not 0 < number < math.inf:
        raise InputError(
            f"--fomo_lr must be piecewise, hold:RATE or cyclic_per_phase:RATE, got {text!r}"
        )
    return PhaseRate(base, cycles, number, hold=kind == "hold")


if __name__ == "__main__":
    launch(main)
