"""Several networks that are evaluated on the same images."""

from __future__ import annotations

from collections.abc import Sequence

from ridgeline.models import InputError
from ridgeline.run.shared import options as o
from ridgeline.run.shared.networks import LoadedNetwork, open_network


def open_all(
    names: Sequence[str], network: o.Network, default_model: str, randomised: bool = False
) -> list[LoadedNetwork]:
    """The networks of several checkpoints. Raises InputError as `check_same_data`."""
    subjects = [open_network(n, network, default_model, randomised=randomised) for n in names]
    check_same_data(*subjects)
    return subjects


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
