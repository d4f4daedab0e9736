"""Anytime learning on clean data that comes in chunks, with selective forgetting (LURE)."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from typing import Annotated

from ridgeline.models import InputError
from ridgeline.run.shared import networks
from ridgeline.run.shared import options as o
from ridgeline.run.shared.launch import launch
from ridgeline.run.shared.training import Trainer, claim_all, place, start
from ridgeline.train.files.checkpoint import load_checkpoint
from ridgeline.train.methods import Standard
from ridgeline.train.parts.chunks import FORGETTING, chunks, forget_between, replayed

DEFAULTS = o.Training(
    epoch_num=50, batch_size=64, optim="name=sgd,lr=0.1,momentum=0.9,weight_decay=1e-4",
    lr_schedule="name=drops,power=0.1,at=0.4:0.8",
)  # fmt: skip
NETWORK = o.Fresh(dataset="cifar10", model_type="resnet")
WIDTHS = {"resnet": 16}  # the paper's ResNet18


def main(
    *,
    training: o.Training = DEFAULTS,
    fresh: o.Fresh = NETWORK,
    output: o.Output,
    meta_batch_size: Annotated[int, "examples of a chunk, a tenth of them validation"] = 6250,
    meta_batch_number: Annotated[int, "chunks"] = 8,
    replay: Annotated[str, "full: all chunks so far; none, one (the last two) or buffer"] = "full",
    buffer_size_train: Annotated[int, "examples kept of each earlier chunk, for buffer"] = 182,
    use_snip: Annotated[bool, "forget the weights of lowest saliency before every chunk"] = True,
    snip_size: Annotated[float, "share of the weights forgotten, of the chunk scored, 0..1"] = 0.2,
    forget: Annotated[
        str | None, "another rule: llf, fc, shrink_perturb, randinit or none; None: --use_snip"
    ] = None,
    shrink: Annotated[float, "factor of shrink_perturb"] = 0.3,
    perturb: Annotated[float, "standard deviation of shrink_perturb"] = 0.001,
) -> None:
    """Train --epoch_num epochs per chunk from the best network of the one before.

    The flags are those of FOMO's public README, which belong to its sister LURE (Ramkumar et al.
    2023): clean data, no attack. Every chunk is a run NAME_chunkN of its own. The published width
    of resnet is here the paper's, 16.
    """
    if forget is not None and forget not in FORGETTING:
        raise InputError(f"--forget must be one of {', '.join(FORGETTING)}, got {forget!r}")
    if not 0 <= shrink <= 1 or not perturb >= 0:
        raise InputError("--shrink must lie in 0..1, --perturb must not be negative")
    if not 0 < snip_size <= 1:
        raise InputError(f"--snip_size must lie in 0..1, got {snip_size:g}")
    if training.attack is not None or training.val_fraction:
        raise InputError("train_lure is for clean data: leave --attack and --val_fraction out")
    networks.positive(buffer_size_train=buffer_size_train, epoch_num=training.epoch_num)
    rule = forget or ("snip" if use_snip else "none")
    trainer, model, network = start(fresh, training, output, WIDTHS)
    parts = chunks(trainer.images, meta_batch_size, meta_batch_number, training.seed)
    replayed(parts, replay, buffer_size_train, training.seed)  # refuses before anything is trained
    split = [part.split(0.1) for part in parts]
    folder, name = place(model, output, trainer.images, "lure")
    recipe = {
        "command": "train_lure", "method": "lure", "model": model, "replay": replay,
        "chunks": [meta_batch_size, meta_batch_number], "buffer": buffer_size_train,
        "forget": [rule, snip_size, shrink, perturb],
    }  # fmt: skip

    def run(number: int) -> tuple[Trainer, tuple]:
        seen = [[s[part] for s in split[: number + 1]] for part in (0, 1)]
        images, validation = (replayed(s, replay, buffer_size_train, training.seed) for s in seen)
        return replace(trainer, images=images, validation=validation), (
            Standard(network, trainer.device), folder, f"{name}_chunk{number + 1}",
            {**recipe, "chunk": number + 1}, output.epoch_ckpts,
        )  # fmt: skip

    anew = claim_all(run(number) for number in range(meta_batch_number))
    accuracies = []
    for number in range(meta_batch_number):
        if number:
            before = load_checkpoint(folder / f"{name}_chunk{number}_best.ckpt")
            before.load_into(network)
            scored = split[number][0]
            count = max(1, round(snip_size * len(scored)))
            forgotten = forget_between(
                network.to(trainer.device), rule, images=scored.subset(count, training.seed),
                fraction=snip_size, fresh=partial(networks.fresh_network, model),
                seed=training.seed, chunk=number, shrink=shrink, perturb=perturb,
                device=trainer.device,
            )  # fmt: skip
            print(f"chunk {number + 1}: {forgotten} weights forgotten by {rule}")
        chosen, arguments = run(number)
        replace(chosen, anew=anew).run(*arguments)
        lines = (folder / f"{name}_chunk{number + 1}.jsonl").read_text().splitlines()
        best = max(map(json.loads, lines), key=lambda line: line["val_clean_accuracy"])
        accuracies.append(best["test_clean_accuracy"])
    shown = ", ".join(f"{100 * a:.1f}" for a in accuracies)
    print(f"test accuracy in % after each chunk: {shown}; "
          f"mean {100 * sum(accuracies) / len(accuracies):.1f}")  # fmt: skip


if __name__ == "__main__":
    launch(main)
