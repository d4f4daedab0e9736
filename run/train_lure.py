"""Anytime learning on clean data that comes in chunks, with selective forgetting (LURE)."""

from __future__ import annotations

from statistics import fmean

from ridgeline.analysis.training.metrics import best_epoch
from ridgeline.run.shared import options as o
from ridgeline.run.shared.launch import launch
from ridgeline.run.shared.training import Run, claim_all, place, start
from ridgeline.train.files.checkpoint import load_checkpoint
from ridgeline.train.methods import METHODS
from ridgeline.train.parts.chunks import Chunks, LureOptions

NETWORK = o.Fresh(dataset="cifar10", model_type="resnet")
WIDTHS = {"resnet": 16}  # the paper's ResNet18
SHARED = True  #: torchrun's processes share every batch


def main(
    *,
    training: o.Training = o.CHUNK_RUN,
    fresh: o.Fresh = NETWORK,
    output: o.Output,
    lure: LureOptions,
) -> None:
    """Train --epoch_num epochs per chunk, from the best network of the chunk before.

    The flags are those in FOMO's public README, which describes LURE (Ramkumar et al. 2023): clean
    data, no attack. Every chunk is a separate run NAME_chunkN. The default width of resnet is the
    paper's, 16.
    """
    training.check_clean("train_lure")
    trainer, model, network = start(fresh, training, output, WIDTHS)
    parts = Chunks.of(trainer.images, lure, training.seed)
    folder, name = place(model, output, trainer.images, "lure")

    def run(number: int) -> Run:
        here = trainer.on(*parts.come(number))
        extra = {"model": model, "lure": lure.recipe(), "chunk": number + 1}
        method = METHODS["standard"](network, here.setup)
        return Run(here, method, folder, f"{name}_chunk{number + 1}", extra, output.epoch_ckpts)

    anew = claim_all(run(number) for number in range(len(parts)))
    accuracies = []
    for number in range(len(parts)):
        if number:
            load_checkpoint(folder / f"{name}_chunk{number}_best.ckpt").load_into(network)
            network.to(trainer.setup.device)
            forgotten = parts.forget(network, number, trainer.setup.fresh)
            print(f"chunk {number + 1}: {forgotten} weights forgotten by {lure.rule}")
        run(number).train(anew)
        best = best_epoch(folder / f"{name}_chunk{number + 1}.jsonl")
        accuracies.append(100 * best["test_clean_accuracy"])
    shown = ", ".join(f"{a:.1f}" for a in accuracies)
    print(f"test accuracy in % after each chunk: {shown}; mean {fmean(accuracies):.1f}")


if __name__ == "__main__":
    launch(main)
