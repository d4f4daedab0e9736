"""Several networks that are judged on the same images."""

from __future__ import annotations

from ridgeline.models import InputError
from ridgeline.run.shared.networks import LoadedNetwork


def check_same_data(*subjects: LoadedNetwork) -> None:
    """Raise InputError if checkpoints record different data sets and no --dataset chose one."""
    first = subjects[0]
    for subject in subjects:
        if subject.dataset != first.dataset:
            raise InputError(
                f"{subject.checkpoint.path} was trained on {subject.dataset}, "
                f"{first.checkpoint.path} on {first.dataset}; pass --dataset to judge both on "
                "the same images"
            )
