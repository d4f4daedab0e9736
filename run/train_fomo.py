"""Train adversarially with random forgetting (FOMO, a reconstruction)."""

from __future__ import annotations

from ridgeline.run.shared import options as o
from ridgeline.run.shared.launch import launch
from ridgeline.run.shared.training import train_method
from ridgeline.train.methods import METHODS
from ridgeline.train.methods.fomo_options import FomoOptions

NETWORK = o.Fresh(dataset="cifar10", model_type="preact")

SHARED = True  #: torchrun's processes share every batch


def main(
    *,
    training: o.Training = o.LONG_RUN,
    fresh: o.Fresh = NETWORK,
    output: o.Output,
    fomo: FomoOptions,
    eval_attack: o.EvalAttack = o.PGD20,
) -> None:
    """Learn, then forget, relearn and consolidate in cycles. The result has two networks.

    This is a reconstruction of Ramkumar et al. 2024, not the published FOMO. NAME_stable.ckpt is
    the network to report; NAME.ckpt is the network that forgets. In three cycles the networks
    before and after forgetting and after relearning are saved.
    """
    train_method(METHODS["fomo"], training, fresh, output, fomo, eval_attack=eval_attack)


if __name__ == "__main__":
    launch(main)
