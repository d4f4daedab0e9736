"""What a reader must know before believing the numbers of a page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ridgeline.analysis.page.attack_words import number, spoken
from ridgeline.analysis.page.cells import Cell
from ridgeline.analysis.page.sources import Source, Subject
from ridgeline.analysis.page.verdict import COLUMNS
from ridgeline.analysis.reports import unfinished
from ridgeline.analysis.trust_report import trust

#: share of settled, strict inner maxima below which the true adversarial curvature is in doubt
REGULAR = 0.9
_MOST = 3  # values of a setting that are named
_WORDS = {"eps": "ε", "way": "the way", "batchnorm": "statistics of BatchNorm",
          "images": "number of images"}  # fmt: skip
_LOOSE = 0.01  # relative residual above which an eigenvalue is no eigenvalue


def cautions(
    subjects: Sequence[Subject], sources: Sequence[Source],
    table: Sequence[Sequence[tuple[Cell | None, str]]],
) -> list[str]:  # fmt: skip
    """One sentence for every reason not to trust or compare numbers of the page."""
    found = [*_of_verdict(table), *_training(subjects)]
    for source in sources:
        found += [f"{source.name}: {line}" for line in _of_result(source)]
    known = {s.sha256 for s in subjects}
    strangers = [s.name for s in sources if subjects and s.about and not known & set(s.about)]
    if strangers:
        found.append(f"About other checkpoints than the verdict's: {', '.join(strangers)}.")
    return list(dict.fromkeys(found))


def _of_verdict(table: Sequence[Sequence[tuple[Cell | None, str]]]) -> Iterator[str]:
    """Columns of the verdict with cells that are no numbers, or were measured differently."""
    for place, column in enumerate(COLUMNS):
        cells = [row[place][0] for row in table if row[place][0] is not None]
        lost = sum(not np.isfinite(c.value) for c in cells)
        if lost:
            yield f"Column {column.title}: {lost} of {len(cells)} numbers are not finite."
        apart = list(_differences([c.settings for c in cells]))
        if apart:
            yield (f"Column {column.title}: its cells cannot be compared, they differ in "
                   f"{', '.join(apart)}.")  # fmt: skip
    yield from _budgets_apart(table)


def _differences(settings: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What is not the same in all, with its values where these say more than the name."""
    keys = dict.fromkeys(k for held in settings for k in held)
    for key in keys:
        values = list(dict.fromkeys(str(held.get(key)) for held in settings))
        if len(values) < 2 or (key == "choice of images" and _apart(settings, "images")):
            continue
        if key == "attack":
            values = [spoken(v) if v else "none" for v in values]
        said = key == "choice of images" or len(values) > _MOST
        yield _WORDS.get(key, key) + ("" if said else f" ({' or '.join(values)})")


def _apart(settings: Sequence[Mapping[str, Any]], key: str) -> bool:
    return len({str(held.get(key)) for held in settings}) > 1


def _budgets_apart(table: Sequence[Sequence[tuple[Cell | None, str]]]) -> Iterator[str]:
    """PGD and AutoAttack of one network at different budgets."""
    titles = [column.title for column in COLUMNS]
    for row in table:
        pgd, auto = (row[titles.index(name)][0] for name in ("PGD", "AutoAttack"))
        if pgd is not None and auto is not None and pgd.settings["eps"] != auto.settings["eps"]:
            yield (f"PGD ({pgd.source}) and AutoAttack ({auto.source}) have different budgets, ε = "
                   f"{number(pgd.settings['eps'])} and {number(auto.settings['eps'])}: the two "
                   "columns cannot be compared there.")  # fmt: skip


def _training(subjects: Sequence[Subject]) -> Iterator[str]:
    """Checkpoints that were trained on other data, or that record nothing."""
    silent = [s.name for s in subjects if not s.recipe]
    if silent:
        yield f"No recipe is recorded in: {', '.join(silent)}."
    sets = {s.name: (s.recipe.get("data") or {}).get("dataset") for s in subjects if s.recipe}
    if len(set(sets.values())) > 1:
        what = ", ".join(f"{name} on {data}" for name, data in sets.items())
        yield f"The checkpoints were trained on different data sets: {what}."


def _of_result(source: Source) -> Iterator[str]:
    """What one result says against itself."""
    ds = source.result
    yield from (f"{line.partition(': ')[2]}." for line in unfinished({source.name: ds}))
    if source.lines and source.lines[-1].get("constant_classifier"):
        yield "at the end of training every image gets the same class."
    if "loss" in ds and ds["loss"].dtype.kind == "f":
        cells = ds["loss"].values[ds["done"].values] if "done" in ds else ds["loss"].values
        lost = int((~np.isfinite(cells)).sum())
        if lost:
            yield f"{lost} of {cells.size} losses are not finite."
    if "converged" in ds:
        odd = ~ds["converged"].astype(bool).values & ds["eigenvalue"].notnull().values
        if odd.any():
            why = sorted({str(r) for r in ds["reason"].values[odd]})
            yield f"{int(odd.sum())} of {odd.size} eigenvalues did not converge ({'; '.join(why)})."
    if "lambda_max" in ds and "residual" in ds:
        loose = ds["residual"] > _LOOSE * abs(ds["lambda_max"])
        if bool(loose.any()):
            yield f"λ_max has a residual above {_LOOSE:.0%} at {int(loose.sum())} epochs."
    if "share_regular" in ds:
        share = ds["share_regular"].values
        if (share < REGULAR).any():
            yield (f"share_regular is {np.nanmin(share):.2f}: for the other examples the inner "
                   "maximum is not settled and strict, so their adversary is taken as "
                   "frozen.")  # fmt: skip
    if "masking_warning" in ds:
        signs = [line for line in trust(ds) if line.startswith("WARNING")]
        yield from (f"{line.partition(', ')[2]}." for line in signs)
    if "randomised" in ds.attrs:
        yield f"{ds.attrs['randomised']}."
    if "chosen_on_test_by_seed" in ds and bool((ds["chosen_on_test_by_seed"] == 1).any()):
        yield "some best epochs were chosen on the test set, which flatters best."
    if source.kind == "scan" and "loss" in ds:
        edge = np.isfinite(ds["loss"].values) & (ds["loss"].values <= 0)
        if edge.any():
            yield f"clipped: {int(edge.sum())} losses of 0 or less have no place on a log scale."
    if "seen" in ds and not bool(ds["seen"].all()):
        yield "some layers see maps smaller than their kernels."
