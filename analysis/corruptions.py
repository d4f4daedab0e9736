"""Accuracy under the common corruptions of Hendrycks and Dietterich (2019)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import ModuleType
from typing import Annotated

import numpy as np
import torch
import xarray as xr

from ridgeline.landscape.problem import Problem
from ridgeline.models.errors import InputError, unknown
from ridgeline.train.data.examples import Images
from ridgeline.train.data.noise import Purpose, stream
from ridgeline.train.options import Opt, Options
from ridgeline.train.statistics import error_of_share, mean_and_error

#: the corruptions of every group: the benchmark's, then its four extra ones
_IN_GROUP = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "gaussian_blur"),
    "weather": ("snow", "frost", "fog", "brightness", "spatter"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression", "saturate"),
}
GROUPS = tuple(_IN_GROUP)
_SEEDED = ("impulse_noise", "glass_blur")  # these take a seed; the others use numpy's global state


def library() -> ModuleType:
    """The package imagecorruptions. If it is missing, the InputError says how to install it."""
    try:
        import imagecorruptions
    except ImportError as error:
        raise InputError(
            f"corruptions need a package ({error}): pip install 'ridgeline[corruptions]'"
        ) from None
    return imagecorruptions


def group_of(name: str) -> str | None:
    """The group of a corruption, from GROUPS; None for a corruption of another package."""
    return next((group for group, names in _IN_GROUP.items() if name in names), None)


def names_of(text: Sequence[str]) -> list[str]:
    """The corruptions that names stand for, each once.

    A name is a corruption, a group of GROUPS, `common` (the benchmark's 15), `all` (19) or `cure`
    (the 17 of Gowda et al. 2024, figure 7: all but spatter and saturate). Raises InputError for
    other names.
    """
    known = library()
    every = known.get_corruption_names("all")
    found: list[str] = []
    for name in text:
        if name == "cure":
            found += [other for other in every if other not in ("spatter", "saturate")]
        elif name in ("common", "all", *GROUPS):
            found += known.get_corruption_names(name)
        elif name in every:
            found.append(name)
        else:
            raise unknown("corruption", name, ["common", "cure", "all", *GROUPS, *every])
    return list(dict.fromkeys(found))


def check_corruptible(images: Images) -> None:
    """Raise InputError for images below 32x32 or not of 1 or 3 channels."""
    channels, height, width = images.image_shape
    if min(height, width) < 32 or channels not in (1, 3):
        raise InputError(
            f"corruptions need images of 32x32 pixels or more with 1 or 3 channels, got "
            f"{channels}x{height}x{width}"
        )


def corrupted(images: Images, name: str, severity: int, seed: int = 0) -> Images:
    """Images (N, C, H, W) with a corruption of severity 1 to 5, determined by seed and example.

    The severities are those of ImageNet-C at the images' own size. On 32x32 pixels they are
    stronger than in the CIFAR-10-C files. Raises InputError for images below 32x32 or not of 1 or
    3 channels.
    """
    check_corruptible(images)
    channels, height, width = images.image_shape
    pixels = images.loaded().pixels
    if pixels.dtype != torch.uint8:
        pixels = (pixels * 255).round().to(torch.uint8)
    corrupt, every = library().corrupt, library().get_corruption_names("all")
    found = np.empty((len(images), height, width, channels), dtype=np.uint8)
    state = np.random.get_state()  # noqa: NPY002 (the package draws from the global state)
    try:
        for n, (image, index) in enumerate(zip(pixels, images.index.tolist(), strict=True)):
            cell = 8 * every.index(name) + severity
            draw = stream(seed, Purpose.CORRUPTION, index, cell).integers(2**31)
            np.random.seed(int(draw))  # noqa: NPY002
            options = {"seed": int(draw)} if name in _SEEDED else {}
            picture = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
            try:
                with np.errstate(invalid="raise" if name == "spatter" else "warn"):
                    result = corrupt(picture, severity=severity, corruption_name=name, **options)
            except FloatingPointError:  # spatter without any drop: the package divides 0 by 0
                result = picture
            found[n] = result[..., :channels]
    finally:
        np.random.set_state(state)  # noqa: NPY002
    return replace(images, pixels=torch.from_numpy(found).permute(0, 3, 1, 2).contiguous())


@dataclass(frozen=True)
class CorruptionOptions(Options):
    """Which corruptions, how severe."""

    corruptions: Annotated[
        tuple[str, ...],
        Opt("common (15), cure (17), all (19), noise, blur, weather, digital, or names"),
    ] = ("common",)
    severities: Annotated[tuple[int, ...], Opt("severities, 1 to 5", low=1, high=5)] = (
        1, 2, 3, 4, 5,
    )  # fmt: skip

    def check(self) -> None:
        """Raise InputError without severities, for repeated ones and for unknown names."""
        if not self.severities:
            raise InputError("--severities needs whole numbers from 1 to 5")
        if len(set(self.severities)) < len(self.severities):
            raise InputError("--severities repeats a value, which would count twice in the means")
        names_of(self.corruptions)


def corruption_scores(
    problem: Problem,
    names: Sequence[str],
    severities: Sequence[int],
    tick: Callable[[int], None] | None = None,
) -> xr.Dataset:
    """Accuracy over (corruption, severity) with its standard error, and the clean accuracy.

    `mean_accuracy` is the mean over all cells. `group_accuracy` is the mean over the cells of each
    `group` (GROUPS). Their errors `_se` count all cells of an example as one sample, because these
    cells are not independent.
    """
    clean = problem.under(None)

    def right(name: str, severity: int) -> dict[str, torch.Tensor]:
        images = corrupted(problem.images, name, severity, problem.seed)
        return {"correct": clean.on(images).evaluate(tick=tick).correct}

    hits = torch.zeros(len(names), len(severities), len(problem.images), dtype=torch.float64)
    for row, name in enumerate(names):
        for column, severity in enumerate(severities):
            cell = problem.keep(f"{name} {severity}", partial(right, name, severity))
            hits[row, column] = cell["correct"].double()
    count = len(problem.images)
    accuracy, clean_accuracy = hits.mean(2).numpy(), clean.evaluate().accuracy
    by_example = hits.mean((0, 1))
    own = [group_of(name) for name in names]
    groups = [g for g in GROUPS if g in own]
    by_group = [hits[[n for n, g in enumerate(own) if g == group]].mean((0, 1))
                for group in groups]  # fmt: skip
    return xr.Dataset(
        {
            "accuracy": (("corruption", "severity"), accuracy),
            "accuracy_se": (
                ("corruption", "severity"), error_of_share(accuracy, count)),
            "clean_accuracy": clean_accuracy,
            "clean_accuracy_se": float(error_of_share(clean_accuracy, count)),
            "mean_accuracy": accuracy.mean(),
            "mean_accuracy_se": mean_and_error(by_example)[1],
            "group_accuracy": ("group", [h.mean().item() for h in by_group]),
            "group_accuracy_se": ("group", [mean_and_error(h)[1] for h in by_group]),
        },
        coords={"group": groups, "corruption": list(names), "severity": list(severities)},
    )  # fmt: skip
