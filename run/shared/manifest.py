"""The figures of a paper as a file lists them (`figures.toml`)."""

from __future__ import annotations

import contextlib
import itertools
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ridgeline.analysis.look import Look
from ridgeline.models.errors import InputError, unknown
from ridgeline.run.shared.drawing import METRICS, Drawing

LOOK = ("style", "width", "font_size", "colors")
#: the keys of an entry; all but `kind` are options of `plot`
KEYS = ("kind", "result", "label", "out_file", "against", "view", *LOOK)


def read_manifest(path: Path) -> dict[str, tuple[Drawing, str | None]]:
    """The figures of a manifest by name, each with the kind of result that it expects.

    Paths are relative to the manifest's folder. Raises InputError, which names the entry, for
    a file that is no manifest, a key or a value that is not allowed, and one file of two figures.
    """
    held = _toml(path)
    shared = {k: v for k, v in held.items() if k != "figure"}
    for key in shared:
        if key not in LOOK:
            raise unknown(f"key in {path}", key, ("figure", *LOOK))
    entries = held.get("figure")
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{path} lists no figures: each begins with [[figure]]")
    with naming(str(path)):
        chosen = _table(shared.pop("colors", {}))
    found: dict[str, tuple[Drawing, str | None]] = {}
    owners: dict[Path, str] = {}
    for number, entry in enumerate(entries, 1):
        name = f"{path}, figure {number}"
        if isinstance(entry, dict) and isinstance(entry.get("out_file"), str):
            name += f" ({entry['out_file']})"
        with naming(name):
            found[name] = _drawing(shared, entry, path.parent), entry.get("kind")
        for target in found[name][0].targets:
            if target.resolve() in owners:
                raise InputError(f"{name}: {owners[target.resolve()]} is written to the same file")
            owners[target.resolve()] = f"figure {number}"
    labels = dict.fromkeys(n for drawing, _ in found.values() for n in drawing.names)
    with naming(str(path)):
        for label in chosen:
            if label not in labels:
                raise unknown("label in colors", label, labels)
    colors = _spread(labels, chosen)
    for (name, (drawing, kind)), entry in zip(found.items(), entries, strict=True):
        with naming(name):
            own = colors | _table(entry.get("colors", {}))
            texts = tuple(f"{k}={v}" for k, v in own.items() if k in drawing.names)
            found[name] = replace(drawing, look=replace(drawing.look, colors=texts)), kind
    return found


@contextlib.contextmanager
def naming(name: str) -> Iterator[None]:
    """Begin errors with what they are about. Options are called as the keys of a manifest."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{name}: {str(error).replace('--', '')}") from None


def check_kind(drawing: Drawing, kind: str) -> None:
    """Raise InputError unless all files can be read and are of the kind that is expected."""
    for label, held in drawing.read().items():
        actual = METRICS if isinstance(held, list) else held.attrs.get("kind", "unknown")
        if actual != kind:
            raise InputError(f"{label} is of kind {actual}, not {kind}")


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise InputError(f"no such manifest: {path}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not TOML: {error}") from None


def _drawing(shared: Mapping[str, Any], entry: Any, folder: Path) -> Drawing:
    """One figure of a manifest, its labels without colours yet.

    Raises InputError for a key or a value that is not allowed.
    """
    if not isinstance(entry, dict):
        raise InputError("a figure is a table, it begins with [[figure]]")
    for key in entry:
        if key not in KEYS:
            raise unknown("key", key, KEYS)
    for key in ("result", "out_file"):
        if key not in entry:
            raise InputError(f"{key} is missing; the keys are {', '.join(KEYS)}")
    for key in ("kind", "out_file", "against", "view"):
        if key in entry and not isinstance(entry[key], str):
            raise InputError(f"{key} must be a text, got {entry[key]!r}")
    files, labels = (_texts(entry, key) for key in ("result", "label"))
    look = Look(**{k: v for k, v in {**shared, **entry}.items() if k in LOOK and k != "colors"})
    return Drawing(files, labels, entry.get("against"), entry.get("view"), look,
                   entry["out_file"], folder)  # fmt: skip


def _spread(labels: Iterable[str], chosen: Mapping[str, str]) -> dict[str, str]:
    """The chosen colours, and for the other labels those of their order that nobody chose."""
    free = (c for c in (f"C{n}" for n in itertools.count()) if c not in chosen.values())
    return {label: chosen.get(label) or next(free) for label in labels}


def _table(colors: Any) -> dict[str, str]:
    """Colours by label as they stand in a manifest; InputError for anything else."""
    if not isinstance(colors, dict) or not all(isinstance(v, str) for v in colors.values()):
        raise InputError(f'colors must be a table, label = "colour", got {colors!r}')
    return colors


def _texts(entry: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """One text or a list of them as a tuple; InputError for anything else."""
    held = entry.get(key, [])
    held = [held] if isinstance(held, str) else held
    if not isinstance(held, list) or not all(isinstance(v, str) for v in held):
        raise InputError(f"{key} must be a text or a list of texts, got {held!r}")
    return tuple(held)
