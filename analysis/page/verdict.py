"""The verdict on every checkpoint: what results say of it, and which command would say the rest."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from ridgeline.analysis.page.sources import Source, Subject
from ridgeline.analysis.training.overfitting import best_and_last
from ridgeline.models.errors import InputError

_STEPS = re.compile(r"\biterations=(\d+)")
_DEFAULT = "name=pgd,eps=8/255,step_size=2/255,iterations=20,order=-1"


@dataclass(frozen=True)
class Cell:
    """A number as text, its value to sort by, and what a reader must know to compare it."""

    text: str
    value: float
    note: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""


@dataclass(frozen=True)
class Column:
    """A column of the table: how a cell is found, and the command that would fill it."""

    title: str
    about: str
    find: Callable[[Subject, Sequence[Source]], Iterator[Cell]]
    fill: Callable[[Subject, Sequence[Subject], str], str]


def verdict(
    subjects: Sequence[Subject], sources: Sequence[Source]
) -> list[list[tuple[Cell | None, str]]]:
    """For every subject and column the cell, or None and the command that would fill it.

    Of several results that could fill a cell, the one with most images counts, then that
    of the largest budget, then the first.
    """
    rows = []
    for subject in subjects:
        attack = _attack_of(subject, sources)
        row = []
        for column in COLUMNS:
            cells = sorted(column.find(subject, sources), key=_weight)
            row.append((cells[0], "") if cells else
                       (None, column.fill(subject, subjects, attack)))  # fmt: skip
        rows.append(row)
    return rows


def _weight(cell: Cell) -> tuple[float, float]:
    return -(cell.settings.get("images") or 0), -cell.settings.get("eps", 0)


def _only(subject: Subject, sources: Sequence[Source], kind: str) -> Iterator[Source]:
    """The results of a kind about this network alone."""
    return (s for s in sources if s.kind == kind and set(s.about) == {subject.sha256})


def _settings(source: Source, **more: object) -> dict[str, Any]:
    data = source.data
    return {"data set": data.get("dataset"), "images": data.get("examples"),
            "choice of images": str(data.get("sha256"))[:12],
            "batchnorm": source.recipe.get("batchnorm", "stored"), **more}  # fmt: skip


def _images(source: Source) -> str:
    return f"{source.examples} images" if source.examples else source.name


def _accuracy(kind: str) -> Callable[[Subject, Sequence[Source]], Iterator[Cell]]:
    """Cells of accuracies: clean, or under attacks whose name begins with `kind`."""

    def find(subject: Subject, sources: Sequence[Source]) -> Iterator[Cell]:
        for source in _only(subject, sources, "robustness"):
            ds, attack = source.result, source.attack
            if kind != "clean" and not attack.startswith(kind):
                continue
            clean = ds["condition"].values == "clean"
            places = np.flatnonzero(clean if kind == "clean" else ~clean)
            if not places.size:
                continue
            row = ds.isel(condition=places[int(ds["eps"].values[places].argmax())])
            value, low, high = (
                float(row[n]) for n in ("accuracy", "accuracy_low", "accuracy_high")
            )
            more = {} if kind == "clean" else {"attack": attack, "eps": float(row["eps"])}
            note = _images(source)
            if more:
                steps = "".join(f", {n} iterations" for n in _STEPS.findall(attack)[:1])
                note += f", ε = {more['eps']:.3g}{steps}"
            yield Cell(f"{100 * value:.1f} % [{100 * low:.1f}, {100 * high:.1f}]", value, note,
                       _settings(source, **more), source.name)  # fmt: skip

    return find


def _curvature(name: str) -> Callable[[Subject, Sequence[Source]], Iterator[Cell]]:
    """Cells of lambda_max or trace at the largest budget, of the Hessian of all parameters."""

    def find(subject: Subject, sources: Sequence[Source]) -> Iterator[Cell]:
        for source in _only(subject, sources, "hessian"):
            ds, recipe = source.result, source.recipe
            variable = "eigenvalue" if name == "lambda_max" else "trace"
            if recipe.get("operator", "hessian") != "hessian" or "blocks" in recipe:
                continue
            if variable not in ds or ds.sizes.get("block", 1) > 1:
                continue
            here = ds.isel(block=0) if "block" in ds.dims else ds
            here = here.isel(eps=int(here["eps"].values.argmax())) if "eps" in here.dims else here
            eps = float(here["eps"]) if "eps" in here.coords else source.eps
            settings = _settings(source, attack=source.attack, eps=eps,
                                 adversary=recipe.get("adversary", "frozen"))  # fmt: skip
            note = f"{_images(source)}, ε = {eps:.3g}, {settings['adversary']} adversary"
            if name == "trace":
                yield _measured(here["trace"], here["trace_se"], note, settings, source)
                continue
            first = here.isel(rank=0)
            odd = "" if bool(first["converged"]) else ", NOT CONVERGED"
            value, residual = float(first["eigenvalue"]), float(first["residual"])
            yield Cell(f"{value:.4g}", value, f"residual {residual:.1e}{odd}, {note}", settings,
                       source.name)  # fmt: skip
        for source in _only(subject, sources, "sharpness"):
            ds = source.result
            loss = "robust" if "robust" in ds["loss"].values else "clean"
            if name in ds["measure"].values:
                row = ds.sel(loss=loss, logits="plain", measure=name)
                if np.isfinite(row["value"]):
                    settings = _settings(
                        source, attack=source.attack, adversary="frozen", eps=source.eps
                    )
                    note = f"{_images(source)}, {loss} loss, of calc_sharpness"
                    yield _measured(row["value"], row["se"], note, settings, source)

    return find


def _measured(
    value: xr.DataArray, error: xr.DataArray, note: str, settings: dict, source: Source
) -> Cell:
    shown = f" ± {float(error):.2g}" if np.isfinite(error) else ""
    return Cell(f"{float(value):.4g}{shown}", float(value), note, settings, source.name)


def _barrier(subject: Subject, sources: Sequence[Source]) -> Iterator[Cell]:
    for source in sources:
        ds, about = source.result, list(source.about)
        if source.kind == "pairs" and subject.sha256 in about:
            row = ds["barrier"].values[about.index(subject.sha256)].copy()
            row[about.index(subject.sha256)] = -np.inf
            to, value = ds["network_b"].values[int(np.nanargmax(row))], float(np.nanmax(row))
            yield Cell(f"{value:.4g} nat", value, f"largest, straight line to {to}",
                       _settings(source, attack=source.attack, way="to a network"),
                       source.name)  # fmt: skip
        elif source.kind == "curve" and set(about) == {subject.sha256} and "line" in ds["path"]:
            here = ds.sel(path="line").isel(subset=-1)
            here = here.isel(eps=-1) if "eps" in here.dims else here
            yield Cell(f"{float(here['barrier']):.4g} nat", float(here["barrier"]),
                       "straight line between the ends of this curve",
                       _settings(source, attack=source.attack, way="between ends"),
                       source.name)  # fmt: skip
        elif source.kind == "trajectory" and "barrier" in ds and about[-1:] == [subject.sha256]:
            yield Cell(f"{float(ds['barrier']):.4g} nat", float(ds["barrier"]),
                       "from the best to the last checkpoint",
                       _settings(source, attack=source.attack, way="best to last"),
                       source.name)  # fmt: skip


def _gap(subject: Subject, sources: Sequence[Source]) -> Iterator[Cell]:
    stem = subject.path.stem
    for source in sources:
        if source.kind == "metrics" and source.path.stem == stem:
            try:
                gap = best_and_last(source.lines)["gap"]
            except InputError:
                continue
            yield Cell(f"{100 * gap:.1f} points", gap, f"from {source.path.name}, by its name", {},
                       source.name)  # fmt: skip
        elif source.kind == "overfitting" and stem in source.result["label"].values:
            row = source.result.sel(label=stem)
            error = float(row["gap_ci"])
            shown = f" ± {100 * error:.1f}" if np.isfinite(error) else ""
            yield Cell(f"{100 * float(row['gap']):.1f}{shown} points", float(row["gap"]),
                       f"run {stem}, by its name", {}, source.name)  # fmt: skip


def _attack_of(subject: Subject, sources: Sequence[Source]) -> str:
    """The attack that a missing cell's command names: that of training, or of another result."""
    owners = [subject, *(s for s in sources if subject.sha256 in s.about)]
    for owner in owners:
        spec = (owner.provenance.get("call") or {}).get("options", {}).get("attack")
        if isinstance(spec, str) and "name=pgd" in spec:
            return spec
    return _DEFAULT


def _autoattack(subject: Subject, _: Sequence[Subject], attack: str) -> str:
    keys = dict(part.partition("=")[::2] for part in attack.split(","))
    eps = keys.get("eps", keys.get("threshold", "8/255"))
    spec = f"name=autoattack,eps={eps}" + (f",order={keys['order']}" if "order" in keys else "")
    return _line(subject, "test_ensemble", "--attack", spec)


def _line(subject: Subject, command: str, *words: str) -> str:
    return shlex.join(["ridgeline", command, "--model2load", str(subject.path), *words])


def _fill_pgd(subject: Subject, _: Sequence[Subject], attack: str) -> str:
    return _line(subject, "test_ensemble", "--attack", attack)


def _fill_barrier(subject: Subject, every: Sequence[Subject], attack: str) -> str:
    others = [str(s.path) for s in every if s is not subject] or ["OTHER.ckpt"]
    files = ",".join([str(subject.path), *others])
    return shlex.join(["ridgeline", "compare_checkpoints", "--model2load", files,
                       "--attack", attack])  # fmt: skip


COLUMNS = (
    Column("clean", "accuracy on clean images, with its 95 % interval", _accuracy("clean"),
           _fill_pgd),
    Column("PGD", "accuracy under PGD at the largest budget", _accuracy("PGD("), _fill_pgd),
    Column("AutoAttack", "accuracy under AutoAttack", _accuracy("AutoAttack"), _autoattack),
    Column("λ_max", "largest eigenvalue of the Hessian [nat]", _curvature("lambda_max"),
           lambda s, _, attack: _line(s, "calc_hessian", "--topk", "1", "--attack", attack)),
    Column("trace", "trace of the Hessian [nat]", _curvature("trace"),
           lambda s, _, attack: _line(s, "calc_hessian", "--topk", "1", "--trace_products", "100",
                                      "--attack", attack)),
    Column("barrier", "rise of the loss on the way to another network", _barrier, _fill_barrier),
    Column("best − last", "robust accuracy lost from the best to the last epoch", _gap,
           lambda s, _, __: shlex.join(["ridgeline", "analyze_overfitting", "--metrics",
                                        str(s.path.with_suffix(".jsonl"))])),
)  # fmt: skip
