"""Train by conserving, updating and revising weights (CURE), or only chosen stages."""

from __future__ import annotations

from ridgeline.run.shared import options as o
from ridgeline.run.shared.launch import launch
from ridgeline.run.shared.natural_start import NaturalOptions, continue_from
from ridgeline.run.shared.training import Run, claim_all, place, start
from ridgeline.train.methods import METHODS
from ridgeline.train.methods.cure_options import FREEZE, CureOptions
from ridgeline.train.parts.freezing import FreezeOptions, check_stages, train_only

NETWORK = o.Fresh(dataset="cifar10", model_type="resnet")
WIDTHS = {"resnet": 16}  # the paper's ResNet18

SHARED = True  #: torchrun's processes share every batch


def main(
    *,
    training: o.Training = o.LONG_RUN,
    fresh: o.Fresh = NETWORK,
    output: o.Output,
    natural: NaturalOptions,
    cure: CureOptions,
    freeze: FreezeOptions,
    eval_attack: o.EvalAttack = o.PGD20,
) -> None:
    """Natural training, then CURE from its weights. NAME_revision.ckpt is the revision model.

    --cure_variant freeze is the block study of the paper: adversarial training of --blocks only.
    The default width of resnet is the paper's, 16.
    """
    freeze.check_beside(cure.cure_variant == FREEZE)
    natural.check_beside(cure.epochs_warmup)
    kind = METHODS["cure"]
    trainer, model, network = start(fresh, training, output, WIDTHS, eval_attack, kind)
    if freeze.blocks:
        check_stages(network, freeze.blocks)
    method = kind.build(network, trainer.setup, cure)
    folder, name = place(model, output, trainer.images, method.label)
    before, first = natural.start(
        trainer, network, (folder, name), {"model": model}, cure.epochs_warmup
    )
    extra = {"model": model, "freeze": freeze.recipe(), "natural": first}
    run = Run(trainer, method, folder, name, extra, output.epoch_ckpts)
    anew = claim_all([run, *before])
    for stage in before:
        continue_from(stage, network, anew)
    if freeze.blocks:
        train_only(network, freeze, training.seed)
    run.train(anew)


if __name__ == "__main__":
    launch(main)
