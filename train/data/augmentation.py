"""Augmentation: random changes of training images, drawn per example and epoch."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ridgeline.models.errors import InputError, unknown
from ridgeline.train.data.counters import below, fractions, halves, philox_words
from ridgeline.train.data.examples import Batch, Images
from ridgeline.train.data.noise import Purpose, check_seed, stream
from ridgeline.train.specs import parse_spec

PADDING = 4
#: the border of an image to be cropped: a constant (0 or the method's value), or its reflection
BORDERS = ("constant", "reflect")


class Crop(NamedTuple):
    """For every example (B,): the offsets of its window in the padded image, and its flip."""

    top: Tensor
    left: Tensor
    flip: Tensor
    padding: int = PADDING

    @classmethod
    def draw(
        cls, index: Tensor, seed: int, epoch: int, padding: int = PADDING, flip: bool = True
    ) -> Crop:
        """Draw them; they depend only on seed, epoch and each example's index in the data set."""
        size = 2 * padding + 1
        limits = torch.tensor([size, size, 2])
        draws, again = below(_numbers(seed, Purpose.CROP, epoch, index)[:, :3], limits)
        for row in again.any(1).nonzero().flatten().tolist():
            own = stream(seed, Purpose.CROP, epoch, int(index[row]))
            draws[row] = torch.from_numpy(own.integers(limits.numpy()))
        top, left, mirrored = draws.unbind(1)
        return cls(top, left, mirrored if flip else torch.zeros_like(mirrored), padding)

    def apply(self, padded: Tensor) -> Tensor:
        """Windows (B, C, H, W) of padded images (B, C, H + 2 padding, W + 2 padding)."""
        return padded[self._places(padded)].permute(0, 3, 1, 2).contiguous()

    def undo(self, padded: Tensor, windows: Tensor) -> None:
        """Write windows back to where `apply` took them, in place. The rest is not changed."""
        padded[self._places(padded)] = windows.permute(0, 2, 3, 1)

    def _places(self, padded: Tensor) -> tuple[Tensor, slice, Tensor, Tensor]:
        height, width = (size - 2 * self.padding for size in padded.shape[2:])
        top, left, flip = (t.to(padded.device)[:, None] for t in self[:3])
        rows = top + torch.arange(height, device=padded.device)
        columns = torch.arange(width, device=padded.device)
        columns = left + torch.where(flip == 1, width - 1 - columns, columns)
        example = torch.arange(len(padded), device=padded.device)[:, None, None]
        return example, slice(None), rows[:, :, None], columns[:, None, :]


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """The changes of a training image, in this order.

    They depend on seed, epoch and the example's index in the data set. They do not depend on the
    batch, the device or resuming. Raises InputError for values out of range.

    Args:
        crop: Pixels of padding on every side. A random window of the image's size is cut out.
        border: Content of the padding: `constant` (0, or the method's own value) or `reflect`.
        flip: Whether half of the images are mirrored left to right.
        rotate: Largest angle in degrees. The angle is uniform between minus and plus this value.
            Pixels are the nearest ones, black outside the image.
        cutout: Side of a black square at a random position; it may extend beyond the image
            (DeVries and Taylor 2017).
    """

    crop: int = 0
    border: str = "constant"
    flip: bool = False
    rotate: float = 0.0
    cutout: int = 0

    def __post_init__(self) -> None:
        if self.border not in BORDERS:
            raise unknown("--augment border", self.border, BORDERS)
        for name, most in (("crop", 256), ("rotate", 180), ("cutout", 4096)):
            value = getattr(self, name)
            if not (0 <= value <= most) or (name != "rotate" and value != int(value)):
                kind = "a number" if name == "rotate" else "a whole number"
                raise InputError(f"--augment: {name} must be {kind} in 0..{most}, got {value:g}")
        if self.border == "reflect" and not self.crop:
            raise InputError("--augment: border has no effect without crop=PIXELS")

    def __str__(self) -> str:
        """The spec, with all values that are not the default."""
        values = ((f.name, getattr(self, f.name)) for f in fields(self) if f.default is not None)
        kept = {n: v for n, v in values if v != type(self).__dataclass_fields__[n].default}
        return ",".join(f"{n}={int(v) if v is True else v}" for n, v in kept.items())

    @property
    def windows(self) -> bool:
        """Whether images are cropped or mirrored."""
        return self.crop > 0 or self.flip

    def check(self, shape: tuple[int, int, int]) -> None:
        """Raise InputError if nothing of an image (C, H, W) might remain visible.

        A window could contain only padding, or a square could cover the whole image.
        """
        for name in ("crop", "cutout"):
            value = getattr(self, name)
            if value >= min(shape[1:]):
                raise InputError(
                    f"--augment: {name}={value} needs images larger than that, "
                    f"these are {shape[1]}x{shape[2]}"
                )

    def window(self, index: Tensor, seed: int, epoch: int) -> Crop | None:
        """The windows and flips of the examples; None if images are neither cropped nor flipped."""
        return Crop.draw(index, seed, epoch, self.crop, self.flip) if self.windows else None

    def __call__(self, batch: Batch, seed: int, epoch: int, fill: float = 0.0) -> Batch:
        """The batch with its images changed; `fill` is the value of a constant border."""
        x = batch.x
        window = self.window(batch.index, seed, epoch)
        if window is not None:
            x = window.apply(self._padded(x, fill))
        if self.rotate:
            share = fractions(_numbers(seed, Purpose.ROTATION, epoch, batch.index)[:, 0])
            x = rotated(x, self.rotate * (2 * share - 1))
        if self.cutout:
            numbers = _numbers(seed, Purpose.CUTOUT, epoch, batch.index)[:, :2]
            places, _ = below(numbers, torch.tensor(x.shape[2:]))
            x = cut_out(x, places, self.cutout)
        return batch._replace(x=x)

    def _padded(self, x: Tensor, fill: float) -> Tensor:
        sides = (self.crop,) * 4
        if self.border == "reflect":
            return F.pad(x, sides, mode="reflect")
        return F.pad(x, sides, value=fill)


#: the augmentation of PAS, CURE, APART and FFR for CIFAR
CROP_AND_FLIP = Augmentation(crop=PADDING, flip=True)
#: sets of photographs by name, whose mirror image has the same class. Their images are flipped, and
#: cropped after padding by an eighth of their side. Digits and unknown sets are not changed.
MIRRORED = (
    "cifar10", "cifar100", "tinyimagenet", "restricted_imagenet", "flowers102", "dtd",
    "oxfordiiitpet", "sun397", "grocerystore",
)  # fmt: skip


def augmentation_of(
    text: str | bool | None, images: Images, own: Mapping[str, Augmentation | None] | None = None
) -> Augmentation | None:
    """The augmentation that --augment means for a set of images; None: no augmentation.

    Args:
        text: True (crop and flip), False, a spec such as crop=4,border=reflect,flip=1,rotate=15,
            cutout=8, or None: the table's entry for the set.
        images: The training images. Their name and shape decide, not the spelling of their path.
        own: Registered name -> augmentation, if the method's own paper differs from the table.

    Raises:
        InputError: for a wrong spec.
    """
    size = max(images.image_shape[1:]) // 8
    usual = Augmentation(crop=size, flip=True) if size else Augmentation(flip=True)
    if text is None:
        name = _registered(images.name, (*MIRRORED, *(own or {})))
        if own and name in own:
            found = own[name]
        else:
            color = images.image_shape[0] == 3
            found = usual if name in MIRRORED and color else None
    elif str(text).lower() in ("true", "1"):
        found = CROP_AND_FLIP
    elif str(text).lower() in ("false", "0"):
        found = None
    else:
        found = _parsed(str(text))
    if found is not None:
        found.check(images.image_shape)
    return found


def _parsed(text: str) -> Augmentation:
    """The augmentation behind a spec; InputError."""
    what = "--augment"
    known = {f.name: f.type for f in fields(Augmentation)}
    values: dict[str, int | float | str | bool] = {}
    form = "True, False, or crop=PIXELS,flip=1,rotate=DEGREES,cutout=PIXELS"
    for key, value in parse_spec(text, what, form).items():
        if key not in known:
            raise unknown(f"key in {what}", key, known)
        if key == "border":
            values[key] = value
        elif key == "flip":
            if value.lower() not in ("0", "1", "true", "false"):
                raise InputError(f"{what}: flip must be 0 or 1, got {value!r}")
            values[key] = value.lower() in ("1", "true")
        else:
            try:
                number = float(value)
            except ValueError:
                raise InputError(f"{what}: {key} must be a number, got {value!r}") from None
            if not math.isfinite(number):
                raise InputError(f"{what}: {key} must be a number, got {value!r}")
            values[key] = number if key == "rotate" or number % 1 else int(number)
    return Augmentation(**values)


def _registered(name: str, known: tuple[str, ...]) -> str | None:
    """The registered name with which a set's name begins: cifar10 for CIFAR-10_train."""
    for each in known:
        letters = "[-_ ]*".join(map(re.escape, each.replace("_", "")))
        if re.match(rf"{letters}(?!\d)", name, re.IGNORECASE):
            return each
    return None


def rotated(x: Tensor, degrees: Tensor) -> Tensor:
    """Images (B, C, H, W) turned counterclockwise by angles (B,): nearest pixel, black outside.

    Coordinates are in pixels. The relative coordinates of `affine_grid` would shear images that
    are not square.
    """
    height, width = x.shape[2:]
    angle = degrees.double().deg2rad()
    cos, sin = (f(angle)[:, None, None] for f in (torch.cos, torch.sin))
    down = torch.arange(height).double()[:, None] - (height - 1) / 2
    right = torch.arange(width).double() - (width - 1) / 2
    # the source of each pixel: the inverse rotation
    rows = (cos * down + sin * right + (height - 1) / 2).round().long()
    columns = (cos * right - sin * down + (width - 1) / 2).round().long()
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    places = (rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)).flatten(1)
    places, inside = places.to(x.device), inside.to(x.device)
    found = x.flatten(2).gather(2, places[:, None].expand(-1, x.shape[1], -1)).view_as(x)
    return found * inside[:, None]


def cut_out(x: Tensor, places: Tensor, side: int) -> Tensor:
    """Images (B, C, H, W) with a black square of side `side` around each place (B, 2)."""
    masks = []
    for axis in (0, 1):
        line = torch.arange(x.shape[2 + axis])
        first = places[:, axis, None] - side // 2
        masks.append((line >= first) & (line < first + side))
    hidden = (masks[0][:, :, None] & masks[1][:, None, :]).to(x.device)
    return x.masked_fill(hidden[:, None], 0)


def _numbers(seed: int, purpose: Purpose, epoch: int, index: Tensor) -> Tensor:
    """Eight 32-bit numbers of every example: (B, 8) int64."""
    return halves(philox_words((check_seed(seed), int(purpose)), (epoch, index, 0), 1))
