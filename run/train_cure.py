"""Train by conserving, updating and revising weights (CURE), or only chosen stages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from ridgeline.models import InputError, unknown
from ridgeline.run.shared import options as o
from ridgeline.run.shared.launch import launch
from ridgeline.run.shared.training import Trainer, claim_all, place, robust_parts, start
from ridgeline.train.files.checkpoint import load_checkpoint
from ridgeline.train.methods import Adversarial, Cure, Standard
from ridgeline.train.methods.cure import VARIANTS
from ridgeline.train.parts.freezing import check_stages, train_only

if TYPE_CHECKING:
    from torch import nn

NETWORK = o.Fresh(dataset="cifar10", model_type="resnet")
WIDTHS = {"resnet": 16}  # the paper's ResNet18
Natural = Annotated[str | None, "checkpoint of the natural network to start from"]


def main(
    *,
    training: o.Training = o.LONG_RUN,
    fresh: o.Fresh = NETWORK,
    output: o.Output,
    natural: Natural = None,
    natural_epochs: Annotated[
        int | None, "epochs of natural training first; None: as many, 0: none (or --natural)"
    ] = None,
    cure_variant: Annotated[
        str, "paper, code_rgp, code_rgp_old, code_rgp_soft, code_rgp_soft_all, none, or freeze"
    ] = "paper",
    percentile: Annotated[float, "percent of the weights conserved at every step, 0..100"] = 30.0,
    alpha: Annotated[float, "share of the clean gradient in the prominence"] = 0.1,
    trades_beta: Annotated[float, "weight of the divergence in the base loss"] = 5.0,
    gamma: Annotated[float, "weight of the revision"] = 1.0,
    rgp_scope: Annotated[str, "percentile per layer, or global"] = "layer",
    mask_bn: Annotated[bool, "conserve BatchNorm's weights too"] = True,
    conserve: Annotated[str, "gradient: zero it; strict: restore weight and momentum"] = "gradient",
    ema_update_freq: Annotated[float, "probability r of a revision step"] = 0.2,
    ema_alpha: Annotated[float, "decay d of the revision"] = 0.999,
    rev_bn: Annotated[str, "the revision normalises by its batch, or by running statistics"] = (
        "batch"
    ),
    aux_loss_type: Annotated[str, "revision by kl, or l2 between logits"] = "kl",
    epochs_warmup: Annotated[int, "CURE_Eff: natural epochs inside the run (80 of 200)"] = 0,
    blocks: Annotated[tuple[str, ...], "freeze: the stages to train, e.g. 2,3"] = (),
    reinit: Annotated[bool, "freeze: draw these stages anew"] = True,
    reinit_bn: Annotated[bool, "freeze: their BatchNorm too"] = False,
    freeze_stem: Annotated[bool, "freeze: the stem too"] = False,
    judge: Annotated[str | None, "attack of the evaluation; None: --attack"] = o.PGD20,
) -> None:
    """Natural training, then CURE from its weights; NAME_revision.ckpt is the revision model.

    --cure_variant freeze is the paper's block study instead: adversarial training of --blocks.
    The published width of resnet is here the paper's, 16.
    """
    if cure_variant not in (*VARIANTS, "freeze"):
        raise unknown("--cure_variant", cure_variant, (*VARIANTS, "freeze"))
    if conserve not in ("gradient", "strict") or aux_loss_type not in ("kl", "l2"):
        raise InputError("--conserve is gradient or strict, --aux_loss_type is kl or l2")
    if (cure_variant == "freeze") != bool(blocks):
        raise InputError("--blocks names the stages that --cure_variant freeze trains")
    if natural is not None and natural_epochs:
        raise InputError("--natural and --natural_epochs: name one")
    if epochs_warmup and (natural is not None or natural_epochs):
        raise InputError("--epochs_warmup is natural training of its own; leave --natural out")
    if natural_epochs is not None and natural_epochs < 0:
        raise InputError(f"--natural_epochs must be 0 or more, got {natural_epochs}")
    if not 0 <= epochs_warmup <= training.epoch_num:
        raise InputError(f"--epochs_warmup must lie in 0..{training.epoch_num} (--epoch_num)")
    trainer, model, network = start(fresh, training, output, WIDTHS)
    judge_attack = robust_parts(o.Robust(judge=judge), trainer, network)["judge"]
    recipe = {
        "command": "train_cure", "method": "cure", "variant": cure_variant, "model": model,
        "judge": repr(judge_attack),
    }  # fmt: skip
    if cure_variant == "freeze":
        options = {"stem": not freeze_stem, "reinitialise": reinit, "reinitialise_bn": reinit_bn}
        check_stages(network, blocks)
        method = Adversarial(network, trainer.attack, device=trainer.device, judge=judge_attack)
        recipe["freeze"] = [list(blocks), options]
    else:
        options = {
            "variant": cure_variant, "alpha": alpha, "beta": trades_beta, "gamma": gamma,
            "percent": percentile, "scope": rgp_scope, "mask_bn": mask_bn,
            "strict": conserve == "strict", "rate": ema_update_freq, "decay": ema_alpha,
            "revision_bn": rev_bn, "squared": aux_loss_type == "l2", "warmup": epochs_warmup,
        }  # fmt: skip
        method = Cure(network, trainer.attack, judge=judge_attack, device=trainer.device, **options)
        recipe["cure"] = options
    folder, name = place(model, output, trainer.images, f"cure_{cure_variant}")
    count = training.epoch_num if natural_epochs is None else natural_epochs
    first = None
    if natural is not None:
        first = load_checkpoint(natural)
        first.load_into(network)
    pretrained = natural is None and count > 0 and not epochs_warmup
    recipe["natural"] = {"epochs": count} if pretrained else first and first.sha256
    stage = natural_stage(trainer, network, folder, f"{name}_natural", count, model)
    run = (method, folder, name, recipe, output.epoch_ckpts)
    anew = claim_all([(trainer, run), stage] if pretrained else [(trainer, run)])
    if pretrained:
        before, first_run = stage
        replace(before, anew=anew).run(*first_run)
        load_checkpoint(folder / f"{name}_natural.ckpt").load_into(network)  # also if it was there
    if cure_variant == "freeze":
        train_only(network, blocks, seed=training.seed, **options)
    replace(trainer, anew=anew).run(*run)


def natural_stage(
    trainer: Trainer, network: nn.Module, folder: Path, name: str, epochs: int, model: dict
) -> tuple[Trainer, tuple]:
    """The natural stage, a run of its own that is resumed or reused like any other."""
    stage = replace(
        trainer, options=replace(trainer.options, epoch_num=epochs), attack=None, validation=None
    )
    recipe = {"command": "train_cure", "method": "standard", "model": model}
    return stage, (Standard(network, trainer.device), folder, name, recipe)


if __name__ == "__main__":
    launch(main)
