"""Adversarial perturbations of data sets, in memory or written to a file piece by piece."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ridgeline.landscape.problem import Problem
from ridgeline.landscape.resume import Parts
from ridgeline.train.attacks import Attack
from ridgeline.train.attacks.norms import INF
from ridgeline.train.data.noise import another_seed
from ridgeline.train.losses import predicted
from ridgeline.train.options import Opt, Options

_DIMS = ("draw", "example", "channel", "row", "column")
_UNITS = "[0,1]"


@dataclass(frozen=True)
class AdversaryOptions(Options):
    """How often images are attacked."""

    draws: Annotated[int, Opt("attack seeds; two give the noise floor of similarities", low=1)] = 2


class _Piece(NamedTuple):
    """Perturbations of some examples under one draw, and the index of the first example."""

    draw: int
    place: int
    perturbation: Tensor
    #: predictions (N,) for the adversarial images; with draw 0 for the clean ones too
    fooled: Tensor
    clean: Tensor | None


def adversaries(
    problems: Mapping[str, Problem], attack: Attack | None, draws: int = 2, tick=None
) -> xr.Dataset:
    """Perturbations of every subset's examples under `draws` independent attack seeds.

    Returns `perturbation` (draw, example, channel, row, column) in [0,1] units, labels and
    predictions, with the subset and the index of every example as coordinates. Without an attack
    the perturbations are zero. Two draws give the noise floor of any similarity.
    """
    found: list[list[Tensor]] = [[] for _ in range(draws)]

    def collect(piece: _Piece) -> None:
        found[piece.draw].append(piece.perturbation)

    rest = _walk(problems, attack, draws, tick, collect)
    stacked = torch.stack([torch.cat(pieces) for pieces in found]).numpy()
    return rest.assign(perturbation=(_DIMS, stacked, {"units": _UNITS}))


class AdversaryFile:
    """The same as `adversaries`, with one piece of the data in memory at a time.

    `rest` runs the attack. It stores the images in the parts of the result, from which a killed
    command resumes, and returns everything except the perturbations. Then `write` reads the parts
    and writes the perturbations. For an l_inf ball whose entries are all exactly -eps, 0 or eps,
    it writes signs (int8) with eps as `scale_factor`: every netCDF reader multiplies by it.
    """

    def __init__(self, problems: Mapping[str, Problem], attack: Attack | None, draws: int):
        self.problems, self.attack, self.draws = problems, attack, draws
        self._signs = attack is not None and attack.order == INF
        self._parts: Parts | None = None
        self._dtype = next(iter(problems.values())).dtype

    def rest(self, keep: Parts, tick: Callable[[int], None] | None = None) -> xr.Dataset:
        """Labels, predictions and coordinates; see `adversaries`."""
        self._parts = keep
        return self._over(keep, tick, self._look)

    def write(self, path: Path) -> None:
        """Create the file with the variable `perturbation`.

        Raises OSError if the disk has too little space for it without compression.
        """
        images = [problem.images for problem in self.problems.values()]
        count, shape = sum(map(len, images)), images[0].image_shape
        sizes = (self.draws, count, *shape)
        rows = min(count, next(iter(self.problems.values())).batch_size)
        eps = np.float32(self.attack.eps) if self._signs else None
        dtype = np.dtype("i1") if self._signs else _numpy(self._dtype)
        _check_room(path, math.prod(sizes) * dtype.itemsize)
        import h5netcdf  # imported here so that --help does not load HDF5

        with h5netcdf.File(path, "w") as file:
            file.dimensions = dict(zip(_DIMS, sizes, strict=True))
            variable = file.create_variable(
                "perturbation", _DIMS, dtype, chunks=(1, rows, *shape), compression="gzip",
                compression_opts=1, shuffle=True,
            )  # fmt: skip
            variable.attrs["units"] = _UNITS
            if eps is not None:
                variable.attrs["scale_factor"] = eps

            def put(piece: _Piece) -> None:
                last = piece.place + len(piece.perturbation)
                values = piece.perturbation.sign() if self._signs else piece.perturbation
                variable[piece.draw, piece.place : last] = values.numpy().astype(dtype)

            self._over(self._parts.again(), None, put)

    def _over(
        self, keep: Parts, tick: Callable[[int], None] | None, visit: Callable[[_Piece], None]
    ) -> xr.Dataset:
        problems = {name: problem.resuming(keep) for name, problem in self.problems.items()}
        return _walk(problems, self.attack, self.draws, tick, visit)

    def _look(self, piece: _Piece) -> None:
        """Check whether the signs of a piece are enough to store it."""
        d = piece.perturbation
        self._signs = self._signs and d.dtype == torch.float32
        if self._signs:
            eps = torch.tensor(self.attack.eps, dtype=torch.float32)
            self._signs = bool(((d == 0) | (d.abs() == eps)).all())


def _check_room(path: Path, size: int) -> None:
    """Raise OSError if `size` bytes cannot be written to a new file at `path`.

    HDF5 itself aborts the process when the disk is full.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        with path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
    finally:
        path.unlink(missing_ok=True)


def _walk(
    problems: Mapping[str, Problem], attack: Attack | None, draws: int,
    tick: Callable[[int], None] | None, visit: Callable[[_Piece], None],
) -> xr.Dataset:  # fmt: skip
    """Call `visit` with every piece; return labels, predictions and coordinates of all."""
    parts, place = [], 0
    for name, problem in problems.items():
        images, fooled, clean = problem.images, [[] for _ in range(draws)], []
        for piece in _pieces(problem, attack, draws, place, tick or (lambda n: None)):
            fooled[piece.draw].append(piece.fooled)
            if piece.clean is not None:
                clean.append(piece.clean)
            visit(piece)
        place += len(images)
        parts.append(xr.Dataset(
            {
                "adversarial_prediction": (
                    ("draw", "example"), torch.stack([torch.cat(f) for f in fooled]).numpy()
                ),
                "clean_prediction": ("example", torch.cat(clean).numpy()),
                "label": ("example", images.labels.numpy()),
            },
            coords={
                "index": ("example", images.index.numpy()),
                "subset": ("example", np.full(len(images), name)),
            },
        ))  # fmt: skip
    return xr.concat(parts, dim="example")


def _pieces(
    problem: Problem, attack: Attack | None, draws: int, place: int, tick: Callable[[int], None]
) -> Iterator[_Piece]:
    for draw in range(draws):
        here, at = problem.under(attack).seeded(another_seed(problem.seed, draw)), place
        predict = here.predict(here.origin)
        for batch, x in here.adversarial(tick=tick):
            with torch.no_grad():
                fooled = predicted(predict(x)).cpu()
                clean = predicted(predict(batch.x)).cpu() if draw == 0 else None
            yield _Piece(draw, at, (x - batch.x).cpu(), fooled, clean)
            at += len(x)


def _numpy(dtype: torch.dtype) -> np.dtype:
    return torch.empty(0, dtype=dtype).numpy().dtype
