"""What a page is made of: checkpoints and results with what they record of themselves."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import xarray as xr

from ridgeline.analysis.budget_matrix import budget_of
from ridgeline.analysis.names import distinct_names
from ridgeline.analysis.training.metrics import read_metrics
from ridgeline.landscape.result import load_result, provenance_of, recipe_of
from ridgeline.models.errors import InputError
from ridgeline.train.files.checkpoint import load_checkpoint, stored_provenance
from ridgeline.train.files.recipe import Recipe, file_digest


@dataclass(frozen=True)
class Subject:
    """A checkpoint: a row of the verdict. `sha256` is the digest of its tensors."""

    name: str
    path: Path
    sha256: str
    recipe: Recipe
    provenance: dict[str, Any]

    @property
    def command(self) -> str:
        """The call that wrote it; empty if it records none."""
        return command_of(self.provenance)


@dataclass(frozen=True)
class Source:
    """A result with its file. Metrics of a run are of kind "metrics" and have `lines`.

    Of a scan along a curve, `ends` has the names of the networks at its ends by their digests,
    as the checkpoint of the curve tells them; it is empty where that file is not found. `rank` is
    the number of its network among those of the page, by which it has one colour in all plots.
    """

    name: str
    path: Path
    sha256: str
    result: xr.Dataset
    lines: tuple[dict, ...] = ()
    ends: Mapping[str, str] = field(default_factory=dict)
    rank: int = 0

    @property
    def kind(self) -> str:
        """Kind of the result."""
        return self.result.attrs.get("kind", "unknown")

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe; empty for metrics."""
        return {} if self.lines else recipe_of(self.result)

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """The provenance; empty if there is none."""
        return provenance_of(self.result)

    @property
    def command(self) -> str:
        """The call that wrote it; empty if it records none."""
        return command_of(self.provenance)

    @property
    def about(self) -> tuple[str, ...]:
        """Digests of the checkpoints that the result was made from; of a curve its ends too."""
        held = self.recipe.get("checkpoint", self.recipe.get("checkpoints", ()))
        if isinstance(held, dict):  # the demo's, which has one recipe for all its results
            held = [held[n] for n in (self._of_demo[0],) if n in held]
        held = [held] if isinstance(held, str) else held
        found = tuple(x for x in held if isinstance(x, str)) if isinstance(held, list) else ()
        return (*found, *self.ends)

    @property
    def data(self) -> dict[str, Any]:
        """Data set, number and digest of the images, as far as the file tells them."""
        held = self.recipe.get("data")
        held = dict(held) if isinstance(held, dict) else {}
        if self._of_demo[0]:
            held = {"dataset": held.get("dataset"), "sha256": "demo"}
            if "example" in self.result.sizes:
                held["examples"] = self.result.sizes["example"]
        return held

    @property
    def attack(self) -> str:
        """The attack as recipes write it; empty for none."""
        held = self.recipe.get("attack")
        if self._of_demo[0]:
            return "PGD(of the demo)"
        return held if isinstance(held, str) and held != "None" else ""

    @property
    def eps(self) -> float:
        """The budget of the attack, NaN if it is not told."""
        told = self._of_demo[1] or budget_of(self.attack).get("eps", "nan" if self.attack else "0")
        return float(told)

    @property
    def _of_demo(self) -> tuple[str, str]:
        """Network and budget in the name of a result of the demo; empty for others."""
        name = self.recipe.get("result") if self.recipe.get("command") == "demo" else None
        if not isinstance(name, str):
            return "", ""
        network, _, eps = name.partition("_")[2].partition("_eps")
        return network, eps

    @property
    def examples(self) -> int:
        """How many images it was made with; 0 if it does not say."""
        count = self.data.get("examples", 0)
        return count if isinstance(count, int) else 0


def read_sources(
    checkpoints: Sequence[str], results: Sequence[str]
) -> tuple[list[Subject], list[Source]]:
    """The files of a page; InputError for one that cannot be read, or is named twice.

    And for a direction in weight space among the checkpoints.
    """
    for files in (checkpoints, results):
        twice = {
            f for f in files if [Path(g).resolve() for g in files].count(Path(f).resolve()) > 1
        }
        if twice:
            raise InputError(f"{sorted(twice)[0]} is named twice")
    subjects = [
        _subject(Path(f), name)
        for f, name in zip(checkpoints, distinct_names(checkpoints), strict=True)
    ]  # fmt: skip
    sources = [
        _source(Path(f), n) for f, n in zip(results, distinct_names(results), strict=True)
    ]  # fmt: skip
    return subjects, _ranked(subjects, sources)


def _ranked(subjects: Sequence[Subject], sources: Sequence[Source]) -> list[Source]:
    """The results with the ranks of their networks: checkpoints first, then others as they come.

    The metrics of a run are about the checkpoint of their name, a trajectory is about its last
    one. Results about several networks have none of a network's; 0 will do.
    """
    by_stem = {s.path.stem: s.sha256 for s in subjects}
    about = [by_stem.get(s.path.stem, s.path.stem) if s.lines else _network(s) for s in sources]
    known = list(dict.fromkeys([*(s.sha256 for s in subjects), *filter(None, about)]))
    return [replace(s, rank=known.index(network) if network else 0)
            for s, network in zip(sources, about, strict=True)]  # fmt: skip


def _network(source: Source) -> str:
    """The digest of the one network that a result is about; empty for several."""
    single = len(source.about) == 1 or source.kind == "trajectory"
    return source.about[-1] if single and source.about else ""


def command_of(provenance: Mapping[str, Any]) -> str:
    """A recorded call as a line for a shell; empty if none is recorded."""
    call = provenance.get("call")
    if not isinstance(call, dict) or not isinstance(call.get("options"), dict):
        return ""
    words = ["ridgeline", str(call.get("command"))]
    for name, value in call["options"].items():
        if isinstance(value, list):
            value = ",".join(str(v).replace(",", r"\,") for v in value)
        words += [f"--{name}", str(value)]
    return shlex.join(words)


def _subject(path: Path, name: str) -> Subject:
    checkpoint = load_checkpoint(path)
    if (checkpoint.recipe or {}).get("kind") == "direction":
        raise InputError(f"{path} is a direction in weight space, not a network")
    return Subject(
        name, path, checkpoint.sha256, checkpoint.recipe or {}, stored_provenance(path) or {}
    )


def _source(path: Path, name: str) -> Source:
    if path.suffix == ".jsonl":
        lines = tuple(read_metrics(path))
        notes = {"kind": "metrics"}
        trained = stored_provenance(path.with_suffix(".ckpt"))  # a run writes both
        if trained is not None:
            notes["provenance"] = json.dumps(trained)
        return Source(name, path, file_digest(path), xr.Dataset(attrs=notes), lines)
    result = load_result(path)
    recipe_of(result)  # raises for a file without one
    return Source(name, path, file_digest(path), result, ends=_ends(path, result))


#: networks of `ridgeline demo` between which its curve lies; its checkpoint does not name them
_DEMO_CURVE = ("PAS", "PAS_2")


def _ends(path: Path, result: xr.Dataset) -> dict[str, str]:
    """The networks at the ends of a scanned curve: their names by their digests.

    They stand in the checkpoint of the curve, which is looked for where the command found it and
    beside the result. Only the very checkpoint that was scanned counts.
    """
    recipe = recipe_of(result)
    if result.attrs.get("kind") != "curve":
        return {}
    if recipe.get("command") == "demo":
        held = recipe.get("checkpoints") or {}
        return {held[n]: n for n in _DEMO_CURVE if n in held}
    named = Path(str(result.attrs.get("checkpoint", "")))
    folder = (provenance_of(result).get("call") or {}).get("folder")
    for file in (Path(str(folder)) / named, named, path.parent / named.name):
        try:
            curve = load_checkpoint(file)
        except InputError:  # nobody named this file: without it the ends are unknown
            continue
        if curve.sha256 == recipe.get("checkpoint"):
            return _named_ends(curve.recipe or {}, stored_provenance(file) or {})
    return {}


def _named_ends(recipe: Recipe, provenance: Mapping[str, Any]) -> dict[str, str]:
    """The ends that a curve's recipe has by the numbers of their control points."""
    options = (provenance.get("call") or {}).get("options") or {}
    files = options.get("model2load") or []
    ends = recipe.get("ends") or {}
    found = {}
    for place in sorted(ends, key=int):
        known = int(place) < len(files) and files[int(place)]
        found[ends[place]] = Path(files[int(place)]).stem if known else f"end {place}"
    return found
