"""The verdict on every checkpoint: what results say of it, and which command would say the rest."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ridgeline.analysis.page.attack_words import short
from ridgeline.analysis.page.attack_words import spec as spec_of
from ridgeline.analysis.page.barriers import barriers
from ridgeline.analysis.page.cells import (
    Cell,
    images_of,
    loss_of,
    percent,
    settings_of,
    with_error,
)
from ridgeline.analysis.page.sources import Source, Subject
from ridgeline.analysis.training.overfitting import best_and_last
from ridgeline.models.errors import InputError

_DEFAULT = "name=pgd,eps=8/255,step_size=2/255,iterations=20,order=-1"


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

    Of several numbers that could fill a cell, the one with most images counts, then that of the
    largest budget, then the first. Before that, PGD is shown at the budget of AutoAttack if it was
    measured there: the two columns are read side by side.
    """
    rows = []
    for subject in subjects:
        attack = _attack_of(subject, sources)
        found = {c.title: sorted(c.find(subject, sources), key=_weight) for c in COLUMNS}
        if found["AutoAttack"]:
            eps = found["AutoAttack"][0].settings["eps"]
            found["PGD"].sort(key=lambda cell: cell.settings["eps"] != eps)
        rows.append([(found[c.title][0], "") if found[c.title] else
                     (None, c.fill(subject, subjects, attack)) for c in COLUMNS])  # fmt: skip
    return rows


def _weight(cell: Cell) -> tuple[float, float]:
    eps = cell.settings.get("eps") or 0.0
    return -(cell.settings.get("images") or 0), 0.0 if np.isnan(eps) else -eps


def _only(subject: Subject, sources: Sequence[Source], kind: str) -> Iterator[Source]:
    """The results of a kind about this network alone."""
    return (s for s in sources if s.kind == kind and set(s.about) == {subject.sha256})


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
            for place in places:
                row = ds.isel(condition=place)
                value, low, high = (
                    float(row[n]) for n in ("accuracy", "accuracy_low", "accuracy_high")
                )
                eps = float(row["eps"])
                more = {} if kind == "clean" else {"attack": attack, "eps": eps}
                note = images_of(source) + (f", {short(attack)}, ε = {eps:.3g}" if more else "")
                yield Cell(percent(value, low, high), value, note, settings_of(source, **more),
                           source.name)  # fmt: skip

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
            settings = settings_of(source, attack=source.attack, eps=eps,
                                 adversary=recipe.get("adversary", "frozen"))  # fmt: skip
            note = f"{loss_of(source, eps)}, {images_of(source)}"
            if not note.startswith("clean"):
                note += f", {settings['adversary']} adversary"
            if name == "trace":
                value, error = float(here["trace"]), float(here["trace_se"])
                yield Cell(with_error(value, error), value, note, settings, source.name)
                continue
            first = here.isel(rank=0)
            odd = "" if bool(first["converged"]) else ", NOT CONVERGED"
            value, residual = float(first["eigenvalue"]), float(first["residual"])
            yield Cell(with_error(value), value, f"residual {residual:.1e}{odd}; {note}", settings,
                       source.name)  # fmt: skip
        for source in _only(subject, sources, "sharpness"):
            ds = source.result
            loss = "robust" if "robust" in ds["loss"].values else "clean"
            if name in ds["measure"].values:
                row = ds.sel(loss=loss, logits="plain", measure=name)
                if np.isfinite(row["value"]):
                    settings = settings_of(
                        source, attack=source.attack, adversary="frozen", eps=source.eps
                    )
                    said = loss_of(source) if loss == "robust" else "clean loss"
                    note = f"{said}, {images_of(source)}, of calc_sharpness"
                    value, error = float(row["value"]), float(row["se"])
                    yield Cell(with_error(value, error), value, note, settings, source.name)

    return find


def _gap(subject: Subject, sources: Sequence[Source]) -> Iterator[Cell]:
    stem = subject.path.stem
    for source in sources:
        if source.kind == "metrics" and source.path.stem == stem:
            try:
                gap = best_and_last(source.lines)["gap"]
            except InputError:
                continue
            yield Cell(_points(gap), gap,
                       f"one run, so no interval; {source.path.name}, found by its name", {},
                       source.name)  # fmt: skip
        elif source.kind == "overfitting" and stem in source.result["label"].values:
            row = source.result.sel(label=stem)
            seeds = int(np.isfinite(row["gap_by_seed"]).sum())
            note = f"{seeds} seeds" if seeds > 1 else "one run, so no interval"
            gap = float(row["gap"])
            yield Cell(_points(gap, float(row["gap_ci"])), gap,
                       f"{note}; run {stem}, found by its name", {}, source.name)  # fmt: skip


def _points(gap: float, error: float = np.nan) -> str:
    """A difference of accuracies in percent points."""
    if not np.isfinite(gap):
        return with_error(gap)
    return f"{100 * gap:.1f}{f' ± {100 * error:.1f}' if np.isfinite(error) else ''} points"


def _attack_of(subject: Subject, sources: Sequence[Source]) -> str:
    """The attack that a missing cell's command names: that of training, or of another result."""
    owners = [subject, *(s for s in sources if subject.sha256 in s.about)]
    for owner in owners:
        spec = (owner.provenance.get("call") or {}).get("options", {}).get("attack")
        if isinstance(spec, str) and "name=pgd" in spec:
            return spec
    return spec_of(str(subject.recipe.get("attack"))) or _DEFAULT


def _autoattack(subject: Subject, _: Sequence[Subject], attack: str) -> str:
    keys = dict(part.partition("=")[::2] for part in attack.split(","))
    eps = keys.get("eps", keys.get("threshold", "8/255"))
    spec = f"name=autoattack,eps={eps}" + (f",order={keys['order']}" if "order" in keys else "")
    return _accuracies(subject, spec, "autoattack")


def _line(subject: Subject, command: str, *words: str) -> str:
    return shlex.join(["ridgeline", command, "--model2load", str(subject.path), *words])


def _accuracies(subject: Subject, attack: str, name: str) -> str:
    """The test_ensemble that writes the result NAME beside the checkpoint."""
    out = subject.path.with_name(f"{subject.path.stem}_{name}.nc")
    return _line(subject, "test_ensemble", "--attack", attack, "--out_file", str(out))


def _fill_pgd(subject: Subject, _: Sequence[Subject], attack: str) -> str:
    return _accuracies(subject, attack, "pgd")


def _fill_barrier(subject: Subject, every: Sequence[Subject], attack: str) -> str:
    others = [] if len(every) > 1 else ["OTHER.ckpt"]
    files = ",".join([*(str(s.path) for s in every), *others])  # one command for all rows
    return shlex.join(["ridgeline", "compare_checkpoints", "--model2load", files,
                       "--attack", attack])  # fmt: skip


def _fill_gap(subject: Subject, *_: object) -> str:
    judged = [subject.recipe.get(k) for k in ("attack", "eval_attack")]
    if subject.recipe and all(attack in (None, "None") for attack in judged):
        return ""  # its metrics hold no robust accuracy
    return shlex.join(["ridgeline", "analyze_overfitting", "--metrics",
                       str(subject.path.with_suffix(".jsonl"))])  # fmt: skip


COLUMNS = (
    Column("clean", "Accuracy on clean images, with its 95 % Wilson interval.", _accuracy("clean"),
           _fill_pgd),
    Column("PGD", "Accuracy under PGD at the budget of AutoAttack, or else at the largest one "
           "measured, with its 95 % Wilson interval. ε is the budget in units of the pixel range "
           "[0, 1].",
           _accuracy("PGD("), _fill_pgd),
    Column("AutoAttack", "Accuracy under AutoAttack, with its 95 % Wilson interval: the strictest "
           "of the three.", _accuracy("AutoAttack"), _autoattack),
    Column("λ_max [nat]", "Largest eigenvalue of the Hessian of the loss by all weights, in nat "
           "per squared unit of weight: how fast the loss bends in the sharpest direction v. The "
           "residual is the norm of Hv − λv. Rescaling layers changes λ_max.",
           _curvature("lambda_max"),
           lambda s, _, attack: _line(s, "calc_hessian", "--topk", "1", "--attack", attack)),
    Column("trace [nat]", "Sum of all eigenvalues of that Hessian, with the standard error of its "
           "estimate.", _curvature("trace"),
           lambda s, _, attack: _line(s, "calc_hessian", "--topk", "1", "--trace_products", "100",
                                      "--attack", attack)),
    Column("barrier", "Largest rise of the loss along the way to another network, above the chord "
           "between the losses of the two, with its standard error.", barriers, _fill_barrier),
    Column("best − last", "Robust test accuracy at the best epoch less that at the last one: what "
           "robust overfitting cost. Training without an attack measures no such accuracy.", _gap,
           _fill_gap),
)  # fmt: skip
