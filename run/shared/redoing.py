"""Repeat a result from the call it records. The result itself is never overwritten."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import tempfile
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xarray as xr

from ridgeline.__main__ import commands
from ridgeline.landscape.result import complete, header, load_result, provenance_of, recipe_of
from ridgeline.models import InputError, is_external, unknown
from ridgeline.run.shared.comparing import Compared, compare
from ridgeline.run.shared.launch import Option, bound, options_of
from ridgeline.train.files.checkpoint import load_checkpoint, stored_provenance, stored_recipe
from ridgeline.train.files.locks import release_all
from ridgeline.train.files.recipe import Recipe, called, difference, file_digest

#: the options for output paths, and their values in the folder of the second run
_OUTPUTS: dict[str, Callable[[Path], str]] = {
    "out_file": lambda folder: str(folder / "redone.nc"),
    "out_folder": str,
    "figure_folder": lambda folder: str(folder / "figures"),
    "model_name": lambda folder: "redone",
}
#: options whose files are in the recipe with their full digest
_DIGESTED = {
    "model2load", "initial", "best", "reference", "second", "to", "ckpt_file1", "ckpt_file2",
    "load_vec1", "load_vec2", "load_vec3", "vec2load", "metrics",
}  # fmt: skip


@dataclass(frozen=True)
class Record:
    """The recipe and provenance in a file."""

    path: Path
    recipe: Recipe
    provenance: dict[str, Any]

    @property
    def call(self) -> dict[str, Any] | None:
        """The call of the command that wrote it."""
        return self.provenance.get("call")

    def differences(self, other: Record) -> int:
        """The number of entries in which the recipes of two files differ."""
        keys = self.recipe.keys() | other.recipe.keys()
        return sum(self.recipe.get(k) != other.recipe.get(k) for k in keys)


@dataclass(frozen=True)
class Redone:
    """The second run: its compared files, and changes of the environment (versions, threads)."""

    files: list[Compared]
    around: str


def redo(result: Path, folder: Path | None, model_type: str | None) -> Redone:
    """Run the call that made `result` again in a temporary folder, and compare the files.

    The first compared file is `result`. The others are files beside it that the same call wrote.
    `folder` is the base of relative paths (default: the folder of the first call). `model_type`
    allows the external code of that name to run. Raises InputError if the file records no call, or
    a call that is not possible with this version or on this machine.
    """
    result = result.absolute()
    original = _record(result)
    if original is None or not _is_call(original.call):
        raise InputError(
            f"{result} records no call of a command: it comes from Python, from others, or from a "
            "version before calls were recorded"
        )
    call = original.call
    if call["command"] == "merge":
        raise InputError(
            f"{result} records how it was merged, not how its cells were computed: redo its parts"
        )
    part = "shard" in call["options"]  # a part of a grid is not complete by itself
    if result.suffix == ".nc" and not part and not complete(load_result(result)):
        raise InputError(f"{result} is not finished: run its command again first")
    main, values = _checked(result, call, model_type)
    folder = Path(call["folder"]) if folder is None else folder.absolute()
    if not folder.is_dir():
        raise InputError(f"{result} was made in {folder}, which is not here; pass --folder")
    with tempfile.TemporaryDirectory(prefix="ridgeline_redo_") as place, contextlib.chdir(folder):
        new, known = Path(place), options_of(main)
        values |= {k: told(new) for k, told in _OUTPUTS.items() if k in known}
        values.pop("overwrite", None)
        try:
            _check_inputs(values, original.recipe)
            with (
                called(**call),
                _as_many_threads(original.provenance),
                contextlib.redirect_stdout(io.StringIO()),
            ):
                main(**bound(main, values))
        except InputError as error:
            raise InputError(f"{result} cannot be made again: {error}") from None
        finally:
            release_all()  # the lock files are in the temporary folder
        written = list(_records(new.rglob("*")))
        files = list(_pairs(original, written))
        return Redone(files, _around(original, written[0]))


@contextlib.contextmanager
def _as_many_threads(provenance: Mapping[str, Any]) -> Iterator[None]:
    """Use as many threads as the first run, because their number changes the last digits."""
    before, wanted = torch.get_num_threads(), provenance.get("threads")
    torch.set_num_threads(wanted if type(wanted) is int and 1 <= wanted <= 1024 else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _around(first: Record, second: Record) -> str:
    """The differences of the provenances, without the call and its time."""
    one, two = (
        {k: v for k, v in record.provenance.items() if k not in ("call", "command", "time")}
        for record in (first, second)
    )
    return difference(one, two)


def _pairs(original: Record, written: list[Record]) -> Iterator[Compared]:
    """Every file of the second run, with the file of the same recipe beside the original."""
    path = original.path
    alike = [w for w in written if w.path.suffix == path.suffix.replace(".jsonl", ".ckpt")]
    if not alike:
        raise InputError(f"{path} cannot be made again: its call wrote no file like it")
    # the recipe identifies a file among those of a call, even if an input has changed
    nearest = min(alike, key=original.differences)
    changed = difference(original.recipe, nearest.recipe)
    redone = nearest.path.with_suffix(path.suffix)
    yield Compared(path, changed, compare(path, redone))
    if path.suffix == ".ckpt":
        yield from _metrics(path, redone)
    own = path.with_suffix(nearest.path.suffix)
    for record in _records(path.parent.iterdir()):
        if record.path == own or record.call != original.call:
            continue
        for other in written:
            if other.path.suffix == record.path.suffix and other.recipe == record.recipe:
                yield Compared(record.path, "", compare(record.path, other.path))
                yield from _metrics(record.path, other.path)
    if path != own:
        yield Compared(own, changed, compare(own, nearest.path))


def _metrics(first: Path, second: Path) -> Iterator[Compared]:
    """The metrics beside two checkpoints."""
    first, second = first.with_suffix(".jsonl"), second.with_suffix(".jsonl")
    if first.is_file() and second.is_file():
        yield Compared(first, "", compare(first, second))


def _records(paths: Iterable[Path]) -> Iterator[Record]:
    for path in sorted(paths):
        if path.suffix in (".nc", ".ckpt") and path.is_file():
            with contextlib.suppress(InputError):
                if (record := _record(path, whole=False)) is not None:
                    yield record


def _record(path: Path, *, whole: bool = True) -> Record | None:
    """Recipe and call of a file; None if it has no recipe. With `whole` it is checked for damage.

    Metrics have those of the checkpoint beside them. Raises InputError for other types of files.
    """
    if path.suffix == ".jsonl":
        if not path.is_file():
            raise InputError(f"no such file of metrics: {path}")
        held = _record(path.with_suffix(".ckpt"))
        return held and Record(path, held.recipe, held.provenance)
    if path.suffix == ".nc":
        dataset = load_result(path) if whole else header(path)
        return Record(path, recipe_of(dataset), provenance_of(dataset))
    if whole:
        load_checkpoint(path)
    recipe = stored_recipe(path)
    return recipe and Record(path, recipe, stored_provenance(path) or {})


@contextlib.contextmanager
def as_one_call(part: xr.Dataset) -> Iterator[None]:
    """Record the call that made a part, without --shard, so that `redo` computes the whole grid."""
    call, told = provenance_of(part).get("call"), contextlib.nullcontext()
    if _is_call(call):
        whole = {k: v for k, v in call["options"].items() if k != "shard"}
        told = called(call["command"], whole, call["folder"])
    with told:
        yield


def _is_call(call: Any) -> bool:
    """Whether this has the format of a recorded call."""
    kinds = {"command": str, "options": dict, "folder": str}
    return (
        isinstance(call, dict)
        and call.keys() == kinds.keys()
        and all(isinstance(call[k], kind) for k, kind in kinds.items())
    )


def _checked(
    result: Path, call: Mapping[str, Any], model_type: str | None
) -> tuple[Callable[..., None], dict[str, Any]]:
    """The command of a call and its typed options. Raises InputError if they do not exist."""
    if call["command"] not in commands():
        raise InputError(f"{result}: {unknown('command', call['command'], commands())}")
    main = importlib.import_module(f"ridgeline.run.{call['command']}").main
    known = options_of(main)
    if not {"out_file", "out_folder"} & known.keys():
        raise InputError(f"{result} names {call['command']}, which writes no results")
    values = {}
    for name, stored in call["options"].items():
        if name not in known:
            raise InputError(
                f"{result} was made with --{name}, which {call['command']} does not have any more"
            )
        values[name] = _typed(stored, known[name])
        if values[name] != (tuple(stored) if isinstance(stored, list) else stored):
            raise InputError(f"{result} was made with --{name} {stored!r}: it is now "
                             f"{known[name].type_name}")  # fmt: skip
    code = [v for k, v in values.items() if k.endswith("model_type") and v and is_external(v)]
    if model_type is not None and model_type not in code:
        raise InputError(f"--model_type {model_type}: {result} names no such external network")
    for named in code:
        if named != model_type:
            raise InputError(
                f"{result} names the external network {named}; pass --model_type {named} yourself "
                "to run that code"
            )
    return main, values


def _typed(stored: Any, option: Option) -> Any:
    """A stored value if the option accepts it, else None."""
    if typing.get_origin(option.kind) is tuple:
        kind = typing.get_args(option.kind)[0]
        right = isinstance(stored, list) and all(_is(v, kind) for v in stored)
        return tuple(stored) if right else None
    return stored if _is(stored, option.kind) else None


def _is(value: Any, kind: type) -> bool:
    return type(value) is kind or (kind is float and type(value) is int)


def _check_inputs(values: Mapping[str, Any], recipe: Recipe) -> None:
    """Raise InputError for a checkpoint or metrics file that changed since the recipe was written.

    This happens before the computation. Other changed inputs appear in the second run's recipe.
    """
    text, key = json.dumps(recipe), values.get("state_key")
    for name in sorted(_DIGESTED & values.keys()):
        value = values[name]
        for word in value if isinstance(value, tuple) else (value,):
            if not isinstance(word, str):
                continue
            path = Path(word.removeprefix("between:"))
            if path.suffix not in (".ckpt", ".jsonl") or not path.is_file():
                continue
            if path.suffix == ".jsonl":
                digests = [file_digest(path)]
            else:  # --state_key does not apply to every option of a command
                digests = [load_checkpoint(path).sha256] if key is None else []
                with contextlib.suppress(InputError):
                    digests += [load_checkpoint(path, key).sha256, load_checkpoint(path).sha256]
            if not any(digest in text for digest in digests):
                raise InputError(f"{word} (--{name}) has changed since")
