"""Train by conserving, updating and revising weights (CURE), or only chosen stages."""

from __future__ import annotations

from typing import Annotated

from ridgeline.models import InputError
from ridgeline.run.shared import options as o
from ridgeline.run.shared.launch import launch
from ridgeline.run.shared.training import Run, claim_all, place, start
from ridgeline.train.files.checkpoint import load_checkpoint
from ridgeline.train.methods import METHODS
from ridgeline.train.methods.cure import FREEZE, CureOptions
from ridgeline.train.options import Opt
from ridgeline.train.parts.freezing import FreezeOptions, check_stages, train_only

NETWORK = o.Fresh(dataset="cifar10", model_type="resnet")
WIDTHS = {"resnet": 16}  # the paper's ResNet18
Natural = Annotated[str | None, Opt("checkpoint of the natural network to start from")]
Before = Annotated[int | None, Opt("epochs of natural training first; None: as many, 0: none (or "
                                   "--natural)", low=0)]  # fmt: skip


def main(
    *,
    training: o.Training = o.LONG_RUN,
    fresh: o.Fresh = NETWORK,
    output: o.Output,
    natural: Natural = None,
    natural_epochs: Before = None,
    cure: CureOptions,
    freeze: FreezeOptions,
    eval_attack: o.EvalAttack = o.PGD20,
) -> None:
    """Natural training, then CURE from its weights; NAME_revision.ckpt is the revision model.

    --cure_variant freeze is the paper's block study instead: adversarial training of --blocks.
    The published width of resnet is here the paper's, 16.
    """
    if (cure.cure_variant == FREEZE) != bool(freeze.blocks):
        raise InputError("--blocks names the stages that --cure_variant freeze trains")
    if natural is not None and natural_epochs:
        raise InputError("--natural and --natural_epochs: name one")
    if cure.epochs_warmup and (natural is not None or natural_epochs):
        raise InputError("--epochs_warmup is natural training of its own; leave --natural out")
    trainer, model, network = start(fresh, training, output, WIDTHS, eval_attack)
    if freeze.blocks:
        check_stages(network, freeze.blocks)
    method = METHODS["cure"].build(network, trainer.setup, cure)
    folder, name = place(model, output, trainer.images, method.label)
    count = training.epoch_num if natural_epochs is None else natural_epochs
    first, before = None, []
    if natural is not None:
        first = load_checkpoint(natural)
        first.load_into(network)
    elif count and not cure.epochs_warmup:
        clean = trainer.clean(count)
        plain = METHODS["standard"](network, clean.setup)
        before = [Run(clean, plain, folder, f"{name}_natural", {"model": model})]
    extra = {"model": model, "freeze": freeze.recipe(),
             "natural": {"epochs": count} if before else first and first.sha256}  # fmt: skip
    run = Run(trainer, method, folder, name, extra, output.epoch_ckpts)
    anew = claim_all([run, *before])
    for stage in before:
        stage.train(anew)
        load_checkpoint(folder / f"{stage.name}.ckpt").load_into(network)  # also if it was there
    if freeze.blocks:
        train_only(network, freeze, training.seed)
    run.train(anew)


if __name__ == "__main__":
    launch(main)
