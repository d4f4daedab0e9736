"""The generator for the study of a run: its own, from its checkpoints, or a named attack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from ridgeline.analysis.training.generator import StudyOptions
from ridgeline.models import InputError
from ridgeline.run.shared.networks import LoadedNetwork
from ridgeline.train.attacks import FGSM, Attack, parse_attack
from ridgeline.train.data.examples import Images
from ridgeline.train.files.integrity import tensors_digest
from ridgeline.train.methods.apart_generator import Generator

Given = Annotated[
    str | None,
    "attack to use as the generator; None: the run's own, if the checkpoints have it, else fgsm "
    "at --attack's eps",
]


def own_or(
    text: str | None, strong: Attack, subjects: Mapping[int, LoadedNetwork], options: StudyOptions
) -> tuple[Attack | dict[int, Generator], Images, object]:
    """The generator (by epoch if it is the run's own), training images, and the recipe's entry.

    The run's own generator is used on images that it trained on. Raises InputError if only some
    checkpoints have one.
    """
    first, size = next(iter(subjects.values())), options.train_size
    found: dict[int, Generator] = {}
    digests = []
    for epoch, subject in subjects.items() if text is None else ():
        if tensors := subject.checkpoint.beside():  # one at a time: memories are large
            found[epoch] = Generator.of(tensors, first.images("trained", size))
            digests.append(tensors_digest(tensors))
    if lacking := [e for e in subjects if e not in found] if found else []:
        raise InputError(
            f"--model2load: the checkpoint of epoch {lacking[0]} holds no generator, others do; "
            "name one attack for all, --generator name=fgsm,eps=..."
        )
    if found:
        return found, first.images("trained", size), digests
    if options.block_noise:
        raise InputError("--block_noise needs checkpoints that hold their generator, as those of "
                         "train_apart do, and no --generator")  # fmt: skip
    own = FGSM(eps=strong.eps)
    if text is not None:
        own = parse_attack(text, "--generator", beside=strong.unit)
    return own, first.images("train", size), repr(own)
