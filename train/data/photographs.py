"""More photograph sets of torchvision (for FFR), read from a local folder, scaled to one size."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ridgeline.models.errors import InputError, reason_of
from ridgeline.models.torchvision_import import import_torchvision
from ridgeline.train.data.examples import Images
from ridgeline.train.data.folders import fill, scaled
from ridgeline.train.data.noise import Purpose, stream
from ridgeline.train.data.streaming import check_memory

SIDE = 224
#: share of test images in a set without splits
_TEST_SHARE = 0.2


@dataclass(frozen=True)
class Photographs:
    """A class of torchvision.datasets, its number of classes, and its splits by our names."""

    class_name: str
    count: int
    splits: dict[str, str]


_THREE = {"train": "train", "val": "val", "test": "test"}
PHOTOGRAPHS = {
    "flowers102": Photographs("Flowers102", 102, _THREE),
    "dtd": Photographs("DTD", 47, _THREE),
    "oxfordiiitpet": Photographs("OxfordIIITPet", 37, {"train": "trainval", "test": "test"}),
    "sun397": Photographs("SUN397", 397, {}),
}


def photographs(name: str, subset: str, data_dir: Path, side: int | None = None) -> Images:
    """A part of one of PHOTOGRAPHS in `data_dir`, as bytes (N, 3, side, side); never downloaded.

    `side` None means 224. SUN397 has no splits, so a fixed random fifth of it is the test part.
    Raises InputError if the set is not in the folder, cannot be read, has no such part, or does
    not fit in memory.
    """
    about, side = PHOTOGRAPHS[name], side or SIDE
    what = f"--dataset {name}"
    if subset not in (about.splits or ("train", "test")):
        raise InputError(f"{what}: has no {subset} images; hold out --val_fraction 0.1")
    part = {"split": about.splits[subset]} if about.splits else {}
    try:
        cls = getattr(import_torchvision("datasets"), about.class_name)
        source = cls(str(data_dir), download=False, **part)
    except (RuntimeError, OSError) as error:
        raise InputError(
            f"data set {name!r} is not in {data_dir} ({reason_of(error)}); it is not downloaded: "
            f"get it as torchvision's {about.class_name} does and name its folder with --data_dir"
        ) from None
    places = list(range(len(source)))
    if not about.splits:
        order, cut = stream(0, Purpose.SPLIT).permutation(len(places)), round(
            _TEST_SHARE * len(places)
        )  # fmt: skip
        places = sorted((order[:cut] if subset == "test" else order[cut:]).tolist())
    if not places:
        raise InputError(f"{what}: {data_dir} holds no {subset} images")
    labels = torch.zeros(len(places), dtype=torch.int64)

    def read(number: int) -> tuple[np.ndarray, bool]:
        image, label = _example(source, places[number], what)
        labels[number] = label
        return np.asarray(scaled(image.convert("RGB"), side)), False

    check_memory(len(places) * 3 * side * side, what)
    pixels = np.empty((len(places), side, side, 3), np.uint8)
    fill(pixels, range(len(places)), read, what)
    tensor = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    return Images(tensor, labels, torch.tensor(places), name, about.count)


def _example(source: Any, place: int, what: str) -> tuple[Any, int]:
    """Image and label; InputError if its file cannot be decoded."""
    try:
        image, label = source[place]
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"{what}: cannot read image {place} ({reason_of(error)})") from None
    return image, int(label)
