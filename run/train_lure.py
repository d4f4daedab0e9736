"""Anytime learning on clean data that comes in chunks, with selective forgetting (LURE)."""

from __future__ import annotations

import json
from dataclasses import replace

from ridgeline.models import InputError
from ridgeline.run.shared import options as o
from ridgeline.run.shared.launch import launch
from ridgeline.run.shared.training import Run, claim_all, place, start
from ridgeline.train.files.checkpoint import load_checkpoint
from ridgeline.train.methods import METHODS
from ridgeline.train.parts.chunks import LureOptions, chunks, forget_between, replayed

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
    lure: LureOptions,
) -> None:
    """Train --epoch_num epochs per chunk from the best network of the one before.

    The flags are those of FOMO's public README, which belong to its sister LURE (Ramkumar et al.
    2023): clean data, no attack. Every chunk is a run NAME_chunkN of its own. The published width
    of resnet is here the paper's, 16.
    """
    if training.attack is not None or training.val_fraction:
        raise InputError("train_lure is for clean data: leave --attack and --val_fraction out")
    if training.epoch_num < 1:
        raise InputError(f"--epoch_num must be at least 1, got {training.epoch_num}")
    trainer, model, network = start(fresh, training, output, WIDTHS)
    setup, seed = trainer.setup, training.seed
    parts = chunks(trainer.images, lure.meta_batch_size, lure.meta_batch_number, seed)
    split = [part.split(0.1) for part in parts]
    folder, name = place(model, output, trainer.images, "lure")

    def run(number: int) -> Run:
        images, validation = (
            replayed(seen, lure.replay, lure.buffer_size_train, seed)
            for seen in zip(*split[: number + 1], strict=True)
        )
        here = replace(trainer, setup=replace(setup, images=images), validation=validation)
        extra = {"model": model, "lure": lure.recipe(), "chunk": number + 1}
        method = METHODS["standard"](network, here.setup)
        return Run(here, method, folder, f"{name}_chunk{number + 1}", extra, output.epoch_ckpts)

    anew = claim_all(run(number) for number in range(len(parts)))
    accuracies = []
    for number in range(len(parts)):
        if number:
            load_checkpoint(folder / f"{name}_chunk{number}_best.ckpt").load_into(network)
            forgotten = forget_between(
                network.to(setup.device), lure, images=split[number][0], fresh=setup.fresh,
                seed=seed, chunk=number, device=setup.device,
            )  # fmt: skip
            print(f"chunk {number + 1}: {forgotten} weights forgotten by {lure.rule}")
        run(number).train(anew)
        lines = (folder / f"{name}_chunk{number + 1}.jsonl").read_text().splitlines()
        best = max(map(json.loads, lines), key=lambda line: line["val_clean_accuracy"])
        accuracies.append(best["test_clean_accuracy"])
    shown = ", ".join(f"{100 * a:.1f}" for a in accuracies)
    print(f"test accuracy in % after each chunk: {shown}; "
          f"mean {100 * sum(accuracies) / len(accuracies):.1f}")  # fmt: skip


if __name__ == "__main__":
    launch(main)
