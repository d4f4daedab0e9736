"""Train against a learnable perturbation generator (APART), or with its baselines."""

from __future__ import annotations

from dataclasses import replace

from ridgeline.run.shared import options as o
from ridgeline.run.shared.launch import launch
from ridgeline.run.shared.training import train_method
from ridgeline.train.methods import METHODS
from ridgeline.train.methods.apart_options import ApartOptions

DEFAULTS = o.Training(
    epoch_num=30, optim="name=sgd,lr=0.2,momentum=0.9,weight_decay=2e-4",
    lr_schedule="name=triangle", attack=o.PGD20,
)  # fmt: skip
NETWORK = o.Fresh(dataset="cifar10", model_type="preact")

SHARED = True  #: torchrun's processes share every batch


def main(
    *,
    training: o.Training = DEFAULTS,
    fresh: o.Fresh = NETWORK,
    output: o.Output,
    apart: ApartOptions,
) -> None:
    """Train with the triangular schedule of APART. --attack is only for the evaluation.

    Writes checkpoints of the plain network and, per epoch, accuracies and the generator's metrics.
    """
    if apart.cycle_epochs is not None and training.lr_schedule == DEFAULTS.lr_schedule:
        cycle = f"{DEFAULTS.lr_schedule},cycle_freq={apart.cycle_epochs!r}"
        training = replace(training, lr_schedule=cycle)
    train_method(METHODS["apart"], training, fresh, output, apart)


if __name__ == "__main__":
    launch(main)
