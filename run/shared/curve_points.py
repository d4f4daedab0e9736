"""A network on a trained curve, named CURVE.ckpt@t."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import nn

from ridgeline.landscape.surfaces.curve_options import CurveScanOptions
from ridgeline.models import InputError
from ridgeline.train.data.examples import Images
from ridgeline.train.files.checkpoint import Checkpoint
from ridgeline.train.parts.batchnorm_statistics import recalibrate
from ridgeline.train.specs import number


def place_of(name: str) -> tuple[str, float | None]:
    """The file and t of `CURVE.ckpt@t`. t is None if the name itself is a file."""
    file, at, text = name.rpartition("@")
    if not at or Path(name).exists():
        return name, None
    t = number(text, f"the place t of {name}")
    if not 0 <= t <= 1:
        raise InputError(f"{name}: t on a curve lies in 0..1, got {t:g}")
    return file, t


def network_at(checkpoint: Checkpoint, network: nn.Module, t: float, images: Images) -> Checkpoint:
    """Load the weights of a curve at t into a network; also return them as a checkpoint.

    The BatchNorm statistics are those of `images`, because a curve has no statistics at t.
    """
    path = CurveScanOptions().curve_in(checkpoint, network)
    network.load_state_dict(path(t), strict=False)
    recalibrate(network, images)
    weights = {n: v.detach().clone() for n, v in network.state_dict().items()}
    return replace(checkpoint, tensors=weights)
