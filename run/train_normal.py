"""Train a network on clean or adversarial images, with constant or scheduled budget (PAS)."""

from __future__ import annotations

from typing import Annotated

from ridgeline.run.shared import options as o
from ridgeline.run.shared.launch import launch
from ridgeline.run.shared.training import train_method
from ridgeline.train.methods import METHODS
from ridgeline.train.methods.adversarial import AdversarialOptions
from ridgeline.train.methods.base import CLOCKS
from ridgeline.train.options import Opt

WarmStart = Annotated[str | None, Opt("start from this checkpoint instead of a random network")]
Mode = Annotated[
    str, Opt("schedules get the whole epoch, or the fractional one of the batch", choices=CLOCKS)
]

SHARED = True  #: torchrun's processes share every batch


def main(
    *,
    training: o.Training,
    fresh: o.Fresh,
    output: o.Output,
    adversarial: AdversarialOptions,
    eval_attack: o.EvalAttack = None,
    model2load: WarmStart = None,
    schedule_update_mode: Mode = "epoch",
) -> None:
    """Train a network. Writes checkpoints, the initial network and metrics per epoch (.jsonl)."""
    plain = training.attack is None and eval_attack is None and adversarial == AdversarialOptions()
    train_method(
        METHODS["standard" if plain else "adversarial"], training, fresh, output,
        None if plain else adversarial, eval_attack=eval_attack, model2load=model2load,
        clock=schedule_update_mode,
    )  # fmt: skip


if __name__ == "__main__":
    launch(main)
