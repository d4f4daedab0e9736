"""Train with convolutions in the DCT basis and a penalty on their high frequencies (FFR)."""

from __future__ import annotations

from ridgeline.run.shared import options as o
from ridgeline.run.shared.launch import launch
from ridgeline.run.shared.training import train_method
from ridgeline.train.methods import METHODS
from ridgeline.train.methods.frequency import FrequencyOptions

DEFAULTS = o.Training(
    epoch_num=125, batch_size=256, optim="name=adamw,lr=0.01,weight_decay=0.01",
    lr_schedule="name=drops,power=0.1,at=0.24:0.48:0.72:0.96",  # every 30 of 125 epochs
)  # fmt: skip
NETWORK = o.Fresh(dataset="cifar10", model_type="resnet9")

SHARED = True  #: torchrun's processes share every batch


def main(
    *,
    training: o.Training = DEFAULTS,
    fresh: o.Fresh = NETWORK,
    output: o.Output,
    frequency: FrequencyOptions,
) -> None:
    """Filter-frequency regularisation on clean images. --attack is only for the evaluation.

    Checkpoints have plain convolutions, so all diagnostics compare methods in the same
    coordinates. The metrics have the penalty and the norm of every frequency of every layer.
    """
    train_method(METHODS["frequency"], training, fresh, output, frequency)


if __name__ == "__main__":
    launch(main)
