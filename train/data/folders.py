"""Image files in one folder per class, resized to one size; known sets of such folders."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ridgeline.models.errors import InputError, reason_of
from ridgeline.train.data.examples import Images
from ridgeline.train.data.streaming import ImageFiles, fits
from ridgeline.train.progress import progress

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff"}
#: classes of Restricted ImageNet (Tsipras et al. 2019): name -> first and last of ImageNet's
#: 1000 classes, numbered in the order of their folders
RESTRICTED_IMAGENET = {
    "dog": (151, 268), "cat": (281, 285), "frog": (30, 32), "turtle": (33, 37), "bird": (80, 100),
    "primate": (365, 382), "fish": (389, 397), "crab": (118, 121), "insect": (300, 319),
}  # fmt: skip
#: the classes of Tiny ImageNet's validation files: name, class and more per line, tab-separated
_ANNOTATIONS = "val_annotations.txt"
_GREY = ("1", "L")  # PIL modes of grey images


@dataclass(frozen=True)
class Named:
    """A registered set: the name of its unpacked folder, the side of its images, its classes.

    Classes in `groups` are merged; others are left out. A class is a folder at the top of a split,
    or with `leaves` every folder with images, at any depth.
    """

    folder: str
    side: int
    groups: dict[str, tuple[int, int]] | None = None
    leaves: bool = False


NAMED = {
    "tinyimagenet": Named("tiny-imagenet-200", 64),
    "restricted_imagenet": Named("imagenet", 224, RESTRICTED_IMAGENET),
    "grocerystore": Named("GroceryStoreDataset/dataset", 224, leaves=True),
}


@dataclass(frozen=True)
class Files:
    """The files of a split and their labels. Classes are numbered by the order of their names."""

    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    count: int

    def merged(self, groups: dict[str, tuple[int, int]], what: str) -> Files:
        """Only the classes in some ranges; each range becomes one class."""
        if self.count != 1000:
            raise InputError(f"{what}: needs the 1000 class folders of ImageNet, has {self.count}")
        new = {old: number for number, (first, last) in enumerate(groups.values())
               for old in range(first, last + 1)}  # fmt: skip
        kept = [n for n, label in enumerate(self.labels) if label in new]
        return Files(
            tuple(self.paths[n] for n in kept), tuple(new[self.labels[n]] for n in kept),
            len(groups),
        )  # fmt: skip


def root_of(name: str, data_dir: Path) -> Path:
    """The folder of a registered set: `data_dir` itself, or the unpacked folder in it."""
    for folder in (data_dir, data_dir / NAMED[name].folder):
        if (folder / "train").is_dir() or (folder / "val").is_dir():
            return folder
    raise InputError(
        f"data set {name!r} is not in {data_dir}: no train or val there, nor in "
        f"{NAMED[name].folder} within; name its folder with --data_dir"
    )


def splits_in(root: Path) -> dict[str, Path]:
    """The labelled splits of a folder: `train`, and its test or val as `test`.

    A folder that has none of these but has class folders is a test split. If test has other classes
    than train, it has no labels (Tiny ImageNet); then val is used.
    """
    found = {"train": root / "train"} if (root / "train").is_dir() else {}
    known = {p.name for p in _folders(found["train"])} if found else None
    held_out = [root / name for name in ("test", "val") if (root / name).is_dir()]
    for folder in held_out:
        classes = {p.name for p in _folders(folder)}
        labelled = classes and (known is None or classes <= known)
        if labelled or (folder / _ANNOTATIONS).is_file():
            found["test"] = folder
            if folder.name == "test" and (root / "val").is_dir():
                found["val"] = root / "val"
            return found
    if held_out:  # its unknown classes are refused later, by name
        return {**found, "test": held_out[0]}
    return found or {"test": root}


def folder_images(
    root: Path, subset: str, side: int | None, name: str,
    known: Named | None = None, workers: int | None = None,
) -> Images:  # fmt: skip
    """The images of a split as bytes (N, 3, side, side), or (N, 1, ...) if all of them are grey.

    An image of another size is scaled (bilinear, with antialiasing) so that its shorter side is
    `side`; then its centre is cut out. `side` None: no change. `known` is the layout of a
    registered set. If a set does not fit in memory, `workers` processes decode its images when they
    are needed (`streaming.ImageFiles`). Raises InputError for a folder without such images, for
    different sizes, and for files that cannot be decoded.
    """
    what = f"--dataset {root}"
    splits = splits_in(root)
    if subset not in splits:
        raise InputError(f"{what}: has no {subset} images; it holds {', '.join(splits)}")
    leaves = known is not None and known.leaves
    files = _files_of(splits[subset], splits.get("train"), what, leaves)
    if known is not None and known.groups is not None:
        files = files.merged(known.groups, what)
    if not files.paths:
        raise InputError(
            f"{what}: no images in its class folders; write FOLDER/train/CLASS/*.png and "
            f"FOLDER/test/CLASS/*.png ({', '.join(sorted(SUFFIXES))})"
        )
    read = partial(_read, side=side, what=what)
    first, _ = read(files.paths[0])
    labels = torch.tensor(files.labels)
    if not fits(len(files.paths) * first.nbytes):
        shape = (_survey(files.paths, side, what), *first.shape[:2])
        streamed = ImageFiles(files.paths, read, shape, what, workers)
        return Images(streamed, labels, torch.arange(len(labels)), name, files.count)
    pixels = np.empty((len(files.paths), *first.shape), np.uint8)
    grey = fill(pixels, files.paths, read, what)
    tensor = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    tensor = (tensor[:, :1] if grey else tensor).contiguous()
    return Images(tensor, labels, torch.arange(len(labels)), name, files.count)


def fill(
    pixels: np.ndarray, paths: Sequence[Any],
    read: Callable[[Any], tuple[np.ndarray, bool]], what: str,
) -> bool:  # fmt: skip
    """Read every file into its row of pixels (N, H, W, 3). Returns whether all are grey."""
    grey = True
    with ThreadPoolExecutor(os.cpu_count()) as pool, progress(len(paths), what, "image") as bar:
        for start in range(0, len(paths), 1024):  # limits the decoded images in memory
            chunk = paths[start : start + 1024]
            for number, (image, is_grey) in enumerate(pool.map(read, chunk), start):
                if image.shape != pixels.shape[1:]:
                    raise _differ(what, pixels.shape[1:], image.shape)
                pixels[number] = image
                grey &= is_grey
            bar.update(len(chunk))
    return grey


def _files_of(folder: Path, train: Path | None, what: str, leaves: bool = False) -> Files:
    """The files of a split, in the order of classes and names."""
    classes = _leaves(train or folder) if leaves else [p.name for p in _folders(train or folder)]
    number = {name: n for n, name in enumerate(classes)}
    table = folder / _ANNOTATIONS
    if table.is_file():
        lines = [line.split("\t") for line in table.read_text().splitlines() if line.strip()]
        pairs = [(folder / "images" / line[0], line[1]) for line in lines if len(line) > 1]
    else:
        pairs = [(p, p.parent.relative_to(folder).as_posix() if leaves else c.name)
                 for c in _folders(folder) for p in sorted(c.rglob("*"))
                 if p.suffix.lower() in SUFFIXES]  # fmt: skip
    if unknown := sorted({c for _, c in pairs} - number.keys()):
        raise InputError(f"{what}: {folder.name} has classes that train lacks: {unknown[0]}")
    pairs.sort(key=lambda pair: (number[pair[1]], str(pair[0])))
    return Files(tuple(p for p, _ in pairs), tuple(number[c] for _, c in pairs), len(classes))


def _folders(folder: Path) -> list[Path]:
    """The class folders of a split in the order of their names."""
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _leaves(folder: Path) -> list[str]:
    """The paths of all folders inside that contain images, sorted."""
    found = {p.parent for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES}
    return sorted(p.relative_to(folder).as_posix() for p in found)


def _read(path: Path, *, side: int | None, what: str) -> tuple[np.ndarray, bool]:
    """The pixels (H, W, 3) of a file, and whether it is grey."""
    from PIL import Image

    with _named(path, what), Image.open(path) as image:
        grey = image.mode in _GREY
        image = image.convert("RGB")
    return np.asarray(image if side is None else scaled(image, side)), grey


@contextmanager
def _named(path: Path, what: str) -> Iterator[None]:
    """Turn errors of reading an image into an InputError that names its file."""
    from PIL import Image

    try:
        yield
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{what}: cannot read {path} ({reason_of(error)})") from None


def scaled(image: Any, side: int) -> Any:
    """The centre of a PIL image after its shorter side is scaled to `side`."""
    from PIL.Image import Resampling

    if image.size == (side, side):
        return image
    width, height = image.size
    scale = side / min(width, height)
    sizes = [max(side, round(scale * s)) for s in (width, height)]
    image = image.resize(sizes, Resampling.BILINEAR)
    left, top = ((s - side) // 2 for s in sizes)
    return image.crop((left, top, left + side, top + side))


def _survey(paths: Sequence[Path], side: int | None, what: str) -> int:
    """The channels of the files, from their headers.

    Raises InputError for different sizes without `side`.
    """
    from PIL import Image

    def head(path: Path) -> tuple[tuple[int, int], bool]:
        with _named(path, what), Image.open(path) as image:
            return image.size[::-1], image.mode in _GREY

    sizes, grey = set(), True
    with ThreadPoolExecutor(os.cpu_count()) as pool, progress(len(paths), what, "file") as bar:
        for size, is_grey in pool.map(head, paths):
            sizes.add(size)
            grey &= is_grey
            if side is None and len(sizes) > 1:
                raise _differ(what, *sorted(sizes))
            bar.update()
    return 1 if grey else 3


def _differ(what: str, first: Sequence[int], second: Sequence[int]) -> InputError:
    return InputError(
        f"{what}: its images are of different sizes, {first[0]}x{first[1]} and "
        f"{second[0]}x{second[1]}; name a side, --dataset {what.split(' ', 1)[1]}@64"
    )
