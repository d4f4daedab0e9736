"""Train with one attack step that starts from perturbations of the labels (LIET)."""

from __future__ import annotations

from ridgeline.run.shared import options as o
from ridgeline.run.shared.launch import launch
from ridgeline.run.shared.training import train_method
from ridgeline.train.methods import METHODS
from ridgeline.train.methods.liet import LietOptions

DEFAULTS = o.Training(
    epoch_num=100, optim="name=sgd,lr=0.1,momentum=0.9,weight_decay=5e-4",
    lr_schedule="name=warmup_cosine,warmup=0.3", attack=o.PGD20,
)  # fmt: skip
NETWORK = o.Fresh(dataset="cifar10", model_type="resnet18")


def main(
    *,
    training: o.Training = DEFAULTS,
    fresh: o.Fresh = NETWORK,
    output: o.Output,
    liet: LietOptions,
) -> None:
    """Train with two passes per step. --attack is only for the evaluation.

    Writes the network and its running average, both evaluated and saved at their best epoch.
    """
    train_method(METHODS["liet"], training, fresh, output, liet)


if __name__ == "__main__":
    launch(main)
