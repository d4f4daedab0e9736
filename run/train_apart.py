"""Train against a learnable perturbation generator (APART), or by its baselines."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from ridgeline.models import InputError, unknown
from ridgeline.run.shared import networks
from ridgeline.run.shared import options as o
from ridgeline.run.shared.launch import launch
from ridgeline.run.shared.training import place, start
from ridgeline.train.attacks import PGD
from ridgeline.train.attacks.norms import INF
from ridgeline.train.loop import CLOCKS
from ridgeline.train.methods import Adversarial, Apart
from ridgeline.train.schedules.shapes import Triangle
from ridgeline.train.specs import Unit, resolve_budgets

METHODS = ("apart", "fgsm", "fgsm_plus", "pgd")
DEFAULTS = o.Training(
    epoch_num=30, optim="name=sgd,lr=0.2,momentum=0.9,weight_decay=2e-4",
    lr_schedule="name=triangle", attack=o.PGD20,
)  # fmt: skip
NETWORK = o.Fresh(dataset="cifar10", model_type="preact")
Method = Annotated[str, "apart; or fgsm, fgsm_plus (learnable step), pgd as baselines"]
Step = Annotated[str | None, "fix the generator's step at this radius; None: learnable (fgsm: eps)"]


def main(
    *,
    training: o.Training = DEFAULTS,
    fresh: o.Fresh = NETWORK,
    output: o.Output,
    method: Method = "apart",
    epsilon: Annotated[str | None, "radius in training; None: the threshold of --attack"] = None,
    memory: Annotated[bool, "apart: remember a perturbation per training image"] = True,
    layerwise: Annotated[bool, "apart: noise at the input of every block"] = True,
    step: Step = None,
    iter_num: Annotated[int, "pgd: steps of eps/4"] = 10,
    max_lr_alpha: Annotated[float, "apart, fgsm_plus: peak learning rate of the scalars"] = 5e-8,
    weight_decay_alpha: Annotated[float, "L2 coefficient of the scalars (the paper's code: "
                                  "1200 in effect, 400 by its text)"] = 1200.0,
    cycle_epochs: Annotated[float | None, "epochs of a triangular cycle; None: the run"] = None,
    cycle_momentum: Annotated[bool, "momentum falls by 0.1 while the learning rate rises"] = True,
) -> None:  # fmt: skip
    """Train with the triangular schedule of APART; --attack is the attack of the evaluation.

    Writes checkpoints of the plain network and, per epoch, accuracies and the generator's trace.
    """
    if method not in METHODS:
        raise unknown("--method", method, METHODS)
    networks.positive(iter_num=iter_num)
    numbers = (max_lr_alpha, weight_decay_alpha, 1 if cycle_epochs is None else cycle_epochs)
    if min(numbers) < 0 or cycle_epochs == 0:
        raise InputError("--max_lr_alpha, --weight_decay_alpha, --cycle_epochs must be positive")
    if step is not None and method not in ("apart", "fgsm"):
        raise InputError(f"--step fixes the step of apart and fgsm; --method {method} has its own")
    if training.attack is None:
        raise InputError("--attack names the attack of the evaluation and must not be None")
    cycle = float(max(training.epoch_num, 1) if cycle_epochs is None else cycle_epochs)
    if training.lr_schedule == DEFAULTS.lr_schedule:
        training = replace(training, lr_schedule=f"{DEFAULTS.lr_schedule},cycle_freq={cycle!r}")
    trainer, model, network = start(fresh, training, output)
    if trainer.attack.order != INF:
        raise InputError("--attack: the generator lives in an l_inf ball; use order=-1")
    eps = trainer.attack.eps if epsilon is None else radius(epsilon, "epsilon", trainer.attack.unit)
    if not 0 < eps <= 1:
        raise InputError(f"--epsilon must be positive and at most 1, the pixel range, got {eps:g}")
    fixed = None if step is None else radius(step, "step", trainer.attack.unit)
    momentum = None
    if cycle_momentum:
        highest = trainer.optimizer.options.get("momentum")
        if not highest or highest < 0.1:
            raise InputError(
                "--cycle_momentum needs an --optim with momentum=0.1 or more; or --nocycle_momentum"
            )
        momentum = Triangle(low_v=highest, up_v=highest - 0.1, cycle_freq=cycle)
    generator = {
        "eps": eps, "weight_decay": weight_decay_alpha,
        "memory": memory and method == "apart", "block_noise": layerwise and method == "apart",
        "step": eps if method == "fgsm" and fixed is None else fixed,
        "rate": Triangle(up_v=max_lr_alpha, cycle_freq=cycle),
        "momentum": momentum or Triangle(low_v=0.9, up_v=0.9, cycle_freq=cycle),
    }  # fmt: skip
    if method == "pgd":
        attack = PGD(eps=eps, step_size=eps / 4, iterations=iter_num, keep_best=False)
        subject = Adversarial(network, attack, device=trainer.device, judge=trainer.attack)
        subject.border = Apart.border
    else:
        subject = Apart(network, trainer.images, trainer.attack, augment=trainer.augment,
                        seed=training.seed, device=trainer.device, **generator)  # fmt: skip
    recipe = {
        "command": "train_apart", "method": method, "model": model,
        "generator": {k: repr(v) for k, v in generator.items()}, "iterations": iter_num,
        "momentum_schedule": repr(momentum), "clock": CLOCKS[1],
    }  # fmt: skip
    trainer.run(
        subject, *place(model, output, trainer.images, method), recipe,
        momentum_schedule=momentum, clock=CLOCKS[1], keep_epochs=output.epoch_ckpts,
    )  # fmt: skip


def radius(text: str, name: str, beside: Unit) -> float:
    """A radius in [0,1] units, bare numbers in the unit of --attack."""
    return resolve_budgets({name: text}, {name}, f"--{name}", beside=beside)[name]


if __name__ == "__main__":
    launch(main)
