"""The spatial frequencies that a network uses, and those whose noise causes errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ridgeline.landscape.problem import Problem
from ridgeline.models.errors import InputError
from ridgeline.train.data.examples import Batch
from ridgeline.train.data.noise import Purpose, stream
from ridgeline.train.losses import predicted
from ridgeline.train.options import Opt, Options
from ridgeline.train.statistics import error_of_share

#: share of the Nyquist frequency that a filter keeps
CUTOFFS = (0.01, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99)


def plane_wave(height: int, width: int, row: int, column: int) -> Tensor:
    """The real image (H, W) of unit l_2 norm with frequency (row, column), DC at (H//2, W//2).

    Its shifted DFT is nonzero only at that bin and its mirror image (Yin et al. 2019).

    >>> plane_wave(2, 2, 1, 1).round(decimals=4).tolist()  # frequency 0: all pixels equal, norm 1
    [[0.5, 0.5], [0.5, 0.5]]
    """
    spectrum = torch.zeros(height, width, dtype=torch.complex128)
    i, j = (row - height // 2) % height, (column - width // 2) % width
    mirror = (-i) % height, (-j) % width
    if (i, j) == mirror:
        spectrum[i, j] = 1
    else:
        spectrum[i, j], spectrum[mirror] = 0.5 + 0.5j, 0.5 - 0.5j
    image = torch.fft.ifft2(spectrum).real
    return image / image.norm()


@dataclass(frozen=True)
class FourierOptions(Options):
    """Strength of the plane waves, and the frequencies that the filters keep."""

    strength: Annotated[
        float, Opt("l_2 norm of a plane wave per channel, [0,1] units", above=0)
    ] = 4.0
    cutoffs: Annotated[
        tuple[float, ...], Opt("shares of the Nyquist frequency that the filters keep")
    ] = CUTOFFS

    def check(self) -> None:
        """Raise InputError for cutoffs out of order or out of range."""
        given = self.cutoffs
        if not given or any(not 0 < c < 1 for c in given) or sorted(given) != list(given):
            raise InputError("--cutoffs needs increasing shares between 0 and 1")


def fourier_sensitivity(
    problem: Problem, strength: float, tick: Callable[[int], None] | None = None
) -> xr.Dataset:
    """Error rate under every plane wave of l_2 norm `strength` per channel ([0,1] units).

    The images are x + r strength U_ij, clipped to [0,1], with a random sign r per image, channel
    and frequency (Yin et al. 2019, figure 3).

    - `error` (row, column) is symmetric about the centre, which is DC; `error_se` is binomial.
    - `clean_error`: the error rate without a wave.
    - `low_high_ratio`: the mean error at frequencies up to half of Nyquist, over the mean error at
      all others; without DC.
    """
    channels, height, width = problem.images.image_shape
    predict = problem.predict(problem.origin)
    wrong = np.zeros((height, width))
    cells = _half_plane(height, width)
    shape = (len(cells), channels)
    draws = [stream(problem.seed, Purpose.FOURIER, int(i)) for i in problem.images.index]
    signs = np.stack([draw.integers(2, size=shape) * 2 - 1 for draw in draws])
    waves = [plane_wave(height, width, *cell) for cell in cells]

    def errors(batch: Batch, r: Tensor) -> dict[str, Tensor]:
        """The number of errors in a batch: clean (1,) and under every wave (cells,)."""
        counts = torch.zeros(len(cells))
        with torch.no_grad():
            for number, wave in enumerate(waves):
                shift = strength * r[:, number, :, None, None] * wave.to(batch.x)
                guess = predicted(predict((batch.x + shift).clamp(0, 1)))
                counts[number] = (guess != batch.y).sum()
                if tick is not None:
                    tick(len(batch.y))
            return {"clean": (predicted(predict(batch.x)) != batch.y).sum(), "waves": counts}

    clean, done = 0, 0
    for batch in problem.batches():
        r = torch.from_numpy(signs[done : done + len(batch.y)]).to(batch.x)
        part = problem.keep(f"waves from example {done}", partial(errors, batch, r))
        done += len(batch.y)
        clean += int(part["clean"])
        wrong[*zip(*cells, strict=True)] += part["waves"].numpy()
    for row, column in cells:
        wrong[_mirror(row, height), _mirror(column, width)] = wrong[row, column]
    count = len(problem.images)
    error = wrong / count
    rows, columns = np.arange(height) - height // 2, np.arange(width) - width // 2
    beyond = torch.fft.fftshift(above_half_nyquist(height, width)).numpy()
    within = ~beyond
    within[height // 2, width // 2] = False  # DC
    low, high = error[within], error[beyond]
    return xr.Dataset(
        {
            "error": (("row", "column"), error, {"long_name": "error rate"}),
            "error_se": (("row", "column"), error_of_share(error, count)),
            "clean_error": clean / count,
            "low_high_ratio": low.mean() / high.mean() if high.mean() > 0 else math.nan,
            "strength": ((), strength, {"units": "[0,1], l_2 per channel"}),
        },
        coords={"row": rows, "column": columns},
    )


def pass_curves(problem: Problem, cutoffs: Sequence[float] = CUTOFFS, tick=None) -> xr.Dataset:
    """Accuracy on low- and high-pass filtered images, over the share c of frequencies kept.

    Low-pass keeps the square |frequency| <= int(c H / 2) of the DFT. High-pass removes the square
    of half width int((1 - c) H / 2). The filtered image is clipped to [0,1]. `half_low` and
    `half_high` are the c at which half of the clean accuracy is reached (linear between cutoffs;
    NaN: never). Their difference is the network's frequency bias.
    """
    predict = problem.predict(problem.origin)

    def right(batch: Batch) -> dict[str, Tensor]:
        """The number of correct predictions in a batch: clean (1,) and filtered (2, cutoffs)."""
        counts = torch.zeros(2, len(cutoffs))
        with torch.no_grad():
            for n, c in enumerate(cutoffs):
                for row, x in enumerate((band(batch.x, c), band(batch.x, c, high=True))):
                    counts[row, n] = (predicted(predict(x)) == batch.y).sum()
                    if tick is not None:
                        tick(len(batch.y))
            return {"clean": (predicted(predict(batch.x)) == batch.y).sum(), "filtered": counts}

    hits, clean, done = np.zeros((2, len(cutoffs))), 0, 0
    for batch in problem.batches():
        part = problem.keep(f"bands from example {done}", partial(right, batch))
        done += len(batch.y)
        clean += int(part["clean"])
        hits += part["filtered"].numpy()
    count = len(problem.images)
    accuracy, base = hits / count, clean / count
    half = [_crossing(np.array(cutoffs), curve, base / 2) for curve in accuracy]
    return xr.Dataset(
        {
            "pass_accuracy": (("filter", "cutoff"), accuracy),
            "pass_accuracy_se": (("filter", "cutoff"), error_of_share(accuracy, count)),
            "clean_accuracy": base,
            "half_low": half[0],
            "half_high": half[1],
        },
        coords={"filter": ["low", "high"], "cutoff": list(cutoffs)},
    )


def band(x: Tensor, share: float, *, high: bool = False) -> Tensor:
    """Images (N, C, H, W) with the low (or high) `share` of their frequencies, clipped to [0,1]."""
    masks = []
    for size in x.shape[2:]:
        index = torch.fft.fftfreq(size, 1 / size, device=x.device).abs()
        masks.append(index <= int(((1 - share) if high else share) * size / 2))
    kept = masks[0][:, None] & masks[1][None, :]
    spectrum = torch.fft.fft2(x) * (~kept if high else kept)
    return torch.fft.ifft2(spectrum).real.clamp(0, 1)


def above_half_nyquist(height: int, width: int) -> Tensor:
    """The high frequencies of a DFT, bool (H, W): above half of Nyquist in either direction.

    >>> above_half_nyquist(4, 4).int().tolist()
    [[0, 0, 1, 0], [0, 0, 1, 0], [1, 1, 1, 1], [0, 0, 1, 0]]
    """
    rows, columns = (torch.fft.fftfreq(size).abs() for size in (height, width))
    return (rows[:, None] > 0.25) | (columns[None, :] > 0.25)


def distinct_cells(shape: Sequence[int]) -> int:
    """The number of distinct plane waves for images (C, H, W), not counting mirror images."""
    return len(_half_plane(*shape[1:]))


def _half_plane(height: int, width: int) -> list[tuple[int, int]]:
    cells = [(row, column) for row in range(height) for column in range(width)]
    return [c for c in cells if c <= (_mirror(c[0], height), _mirror(c[1], width))]


def _mirror(place: int, size: int) -> int:
    """The bin of the opposite frequency."""
    return (2 * (size // 2) - place) % size


def _crossing(x: np.ndarray, y: np.ndarray, level: float) -> float:
    above = np.flatnonzero(y >= level)
    if not len(above):
        return math.nan
    n = int(above[0])
    if n == 0 or y[n] == y[n - 1]:
        return float(x[n])
    return float(x[n - 1] + (level - y[n - 1]) / (y[n] - y[n - 1]) * (x[n] - x[n - 1]))
