"""The cells of a curvature result: one spectrum per budget and block. Each can be resumed."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import xarray as xr

from ridgeline.landscape.curvature.input_hessian import InputHessian
from ridgeline.landscape.curvature.measures import (
    CurvatureOptions,
    SpectrumOptions,
    blocks_of,
    frozen_at,
    measure,
    operator_of,
)
from ridgeline.landscape.curvature.product_log import ProductLog, is_log_of
from ridgeline.landscape.distributed import join, shard
from ridgeline.landscape.problem import Problem
from ridgeline.landscape.result import held, save_result, stamp
from ridgeline.landscape.weights.point import Point
from ridgeline.models.errors import InputError
from ridgeline.train.data.examples import Images
from ridgeline.train.exchange import leader
from ridgeline.train.files.checkpoint import check_checkpoint, save_checkpoint, stored_recipe
from ridgeline.train.files.recipe import Recipe


@dataclass(frozen=True)
class Cell:
    """One spectrum: its matrix, its measures, and the files that keep it until the end."""

    curvature: CurvatureOptions
    spectrum: SpectrumOptions

    eps: float
    block: str
    parameters: list[str]
    example: int | None
    recipe: Recipe
    part: Path
    vectors: list[tuple[Path, Recipe]]
    diagonals: list[tuple[Path, Recipe]]

    def claim(self, overwrite: bool) -> None:
        """Raise InputError if a file of another result is in the way; `overwrite` deletes it.

        With `overwrite` also eigenvectors of an earlier result that had more of them are deleted.
        """
        for target, wanted in (*self.vectors, *self.diagonals):
            check_checkpoint(target, wanted, overwrite)
        for stale in self._beyond() if overwrite else ():
            stale.unlink(missing_ok=True)
        if held(self.part, self.recipe, overwrite) is None:
            self.part.unlink(missing_ok=True)

    def _beyond(self) -> Iterator[Path]:
        """Files of eigenvectors whose number is above those of this cell."""
        if not self.vectors:
            return
        first = self.vectors[0][0]
        begin = first.name.removesuffix("0.ckpt")
        for path in first.parent.iterdir():
            number = path.name.removeprefix(begin).removesuffix(".ckpt")
            if (
                path.name == f"{begin}{number}.ckpt" and number.isdecimal()
                and int(number) >= len(self.vectors)
                and (stored_recipe(path) or {}).get("kind") == "direction"
            ):  # fmt: skip
                yield path

    def done(self) -> xr.Dataset | None:
        """The numbers of this cell if an earlier run finished them, else None."""
        return held(self.part, self.recipe)

    def compute(
        self, problem: Problem, frozen: Problem, options: dict, tick: Callable[[int], None]
    ) -> xr.Dataset:
        """Compute the numbers of this cell; write eigenvectors and diagonal to their files."""
        if self.curvature.operator == "input":
            operator = InputHessian(frozen, self.example, options["buffers"], tick)
        else:
            operator = operator_of(
                problem, frozen, self.curvature.operator, self.curvature.adversary,
                self.parameters, self.curvature.compile, tick=tick, **options,
            )  # fmt: skip
        log = ProductLog(operator, self.part.with_suffix(".products"), self.recipe)
        ds, vectors, diagonal = measure(log, self.spectrum, problem.seed)
        points = []
        for (target, wanted), vector in zip(self.vectors, vectors.T, strict=False):
            if self.curvature.operator == "input":
                image = torch.from_numpy(vector).to(operator.dtype)
                point = {"image": image.view(problem.images.image_shape)}
            else:
                point = operator.embed(torch.from_numpy(vector.copy()))
            points.append((target, wanted, point))
        points += [(*file, point) for file, point in zip(self.diagonals, diagonal, strict=True)]
        if leader():
            for target, wanted, point in points:
                save_checkpoint(target, {n: t.cpu() for n, t in point.items()}, wanted)
            save_result(stamp(ds, "hessian cell", self.recipe), self.part)
        log.remove()
        return ds


def cells_of(
    path: Path, recipe: Recipe, budgets: list[float], problem: Problem,
    curvature: CurvatureOptions, spectrum: SpectrumOptions,
) -> list[Cell]:  # fmt: skip
    """One cell per budget and block (per example, for the input Hessian), with its files.

    Raises InputError for blocks that do not exist or have fewer rows than eigenpairs are asked
    for.
    """
    images, names = problem.images, blocks_of(problem.origin, curvature.blocks)
    check_sizes(spectrum.topk, curvature.operator, images, problem.origin, names)
    if curvature.operator == "input":
        blocks = {f"example {int(i)}": ([], n) for n, i in enumerate(images.index)}
    else:
        blocks = {block: (parameters, None) for block, parameters in names.items()}
    single = len(budgets) * len(blocks) == 1
    cells = []
    for eps in budgets:
        for block, (parameters, example) in blocks.items():
            tag = f"eps{eps:g}_{block}".replace("*", "").replace(" ", "").strip(".")
            stem = path.stem if single else f"{path.stem}_{tag}"
            own = {**recipe, "eps": eps, "block": block}
            vectors = [
                (path.with_name(f"{stem}_vec{n}.ckpt"), {**own, "kind": "direction", "number": n})
                for n in range(spectrum.topk)
            ]
            wanted = ["diagonal", "diagonal_se"] if spectrum.diagonal_products else []
            diagonals = [
                (path.with_name(f"{stem}_{n}.ckpt"), {**own, "kind": "direction", "number": n})
                for n in wanted
            ]
            part = path.with_name(f".{path.stem}_{tag}.part")
            cells.append(Cell(curvature, spectrum, eps, block, parameters, example, own, part,
                              vectors, diagonals))  # fmt: skip
    return cells


def spectra(cells: list[Cell], problem: Problem, tick: Callable[[int], None]) -> xr.Dataset:
    """The numbers of every cell over (eps, block). A budget is attacked once for all its blocks.

    Under torchrun every process takes its share of the images, except for the input Hessian.
    """
    images, curvature = problem.images, cells[0].curvature
    device = join(problem.device)
    if curvature.operator != "input":
        problem = problem.to(device).on(shard(images, problem.chunk or 1))
    options = curvature.keywords(problem)
    parts, frozen, at = [], None, None
    for cell in cells:
        part = cell.done()
        if part is None:
            if at != cell.eps:
                attack = problem.attack.at(cell.eps) if cell.eps else None
                here = problem.under(attack)
                frozen = frozen_at(here, curvature.adversary, options["buffers"], tick)
                at = cell.eps
            part = cell.compute(here, frozen, options, tick)
        parts.append(part)
    return _joined(parts, cells, images)


def left_of(cells: list[Cell]) -> list[Path]:
    """The files, of all processes, from which the cells can be resumed."""
    logs: dict[str, list[Path]] = {}
    for file in sorted(cells[0].part.parent.glob(".*.products*")):  # one look for all cells
        logs.setdefault(file.name.rpartition(".products")[0], []).append(file)
    found = []
    for cell in cells:
        with contextlib.suppress(InputError):  # of another recipe
            found += [] if cell.done() is None else [cell.part]
        found += [f for f in logs.get(cell.part.stem, ()) if is_log_of(f, cell.recipe)]
    return found


def check_sizes(topk: int, operator: str, images: Images, origin: Point, names: dict) -> None:
    """Raise InputError if a matrix has fewer rows than eigenpairs are asked for."""
    if operator == "input":
        sizes = {"pixels of an image": math.prod(images.image_shape)}
    else:
        sizes = {f"parameters of block {block}": sum(origin[n].numel() for n in parts)
                 for block, parts in names.items()}  # fmt: skip
    for what, size in sizes.items():
        if topk > size:
            raise InputError(f"--topk must lie in 1..{size}, the number of {what}, got {topk}")


def _joined(parts: list[xr.Dataset], cells: list[Cell], images: Images) -> xr.Dataset:
    """One dataset over (eps, block) with the indices of the examples."""
    blocks = list(dict.fromkeys(cell.block for cell in cells))
    budgets = list(dict.fromkeys(cell.eps for cell in cells))
    rows = [
        xr.concat(
            parts[n * len(blocks) : (n + 1) * len(blocks)], dim=xr.Variable("block", blocks),
            data_vars="all", coords="minimal", join="outer", combine_attrs="drop_conflicts",
        )
        for n in range(len(budgets))
    ]  # fmt: skip
    ds = xr.concat(
        rows, dim=xr.Variable("eps", budgets, {"units": "[0,1] pixel range"}), data_vars="all",
        coords="minimal", join="outer", combine_attrs="drop_conflicts",
    )  # fmt: skip
    ds.attrs.clear()
    ds["example_index"] = ("example", images.index.numpy().astype(np.int64))
    return ds
