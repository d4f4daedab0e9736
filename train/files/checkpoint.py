"""Checkpoints: weights with their recipe. Ours are safetensors; foreign formats can be read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ridgeline.models.errors import InputError
from ridgeline.models.layers import normalization_in
from ridgeline.train.files.foreign import read_torch, state_in
from ridgeline.train.files.integrity import tensors_digest, ties_of
from ridgeline.train.files.locks import lock
from ridgeline.train.files.matching import Fitted, fit_to
from ridgeline.train.files.recipe import (
    Recipe,
    check_folder,
    check_same,
    normal_form,
    provenance,
    write_atomically,
)

#: the notes in our files, beside the tensors; `digest` covers notes and tensors
_NOTES = {"recipe", "provenance", "ties", "digest"}
#: prefix of tensors that do not belong to the network: no module can have such a name
_BESIDE = "beside:"
#: the types of the entries of a recipe, by dotted path; missing entries are not checked
_TYPES: dict[str, type | tuple[type, ...]] = {
    "model": dict, "model.model_type": str, "model.width": (int, type(None)), "model.bias": bool,
    "model.code": str,
    "model.num_classes": int, "model.image_shape": list, "model.normalize": (dict, type(None)),
    "model.normalize.mean": list, "model.normalize.std": list,
    "data": dict, "data.dataset": str, "data.examples": int, "data.sha256": str,
    "validation": (dict, type(None)), "validation.examples": int, "epoch": (int, type(None)),
    "epochs": (int, type(None)),
    "kind": str, "curve_type": str,
}  # fmt: skip


@dataclass(frozen=True)
class Checkpoint:
    """A state dict on the CPU, and the recipe stored with it (None for foreign files).

    `ties` are groups of names that were one shared tensor when the file was written.
    """

    path: Path
    tensors: dict[str, Tensor]
    recipe: Recipe | None
    ties: tuple[tuple[str, ...], ...] = ()

    @cached_property
    def sha256(self) -> str:
        """Digest of the tensors only: a retraining with equal bits has the same digest."""
        return tensors_digest(self.tensors)

    def beside(self) -> dict[str, Tensor]:
        """Tensors in the file that do not belong to the network; empty for most methods.

        For APART it is the generator, with the names of `Apart.beside`. They are read from the file
        at each call, because they may be large.
        """
        try:
            with safe_open(self.path, framework="pt", device="cpu") as file:
                names = [n for n in file.keys() if n.startswith(_BESIDE)]  # noqa: SIM118
                return {n.removeprefix(_BESIDE): file.get_tensor(n) for n in names}
        except SafetensorError:  # a foreign file
            return {}

    def fit(self, network: nn.Module) -> Fitted:
        """The tensors of the file under the names of `network`; InputError if they do not fit."""
        recipe = self.recipe or {}
        if recipe.get("kind") == "direction":
            raise InputError(f"{self.path} is a direction in weight space, not a network")
        hint = f"; it was saved from {recipe['model']}" if "model" in recipe else ""
        return fit_to(self.tensors, network, str(self.path), hint)

    def load_into(self, network: nn.Module) -> None:
        """Copy into `network`. If they do not fit, the InputError names the first differences.

        A file with the constants of a normalisation fits only a network that normalises.
        """
        fitted = self.fit(network)
        if fitted.constants and normalization_in(network) is None:
            wanted = fitted.normalization(str(self.path))
            spec = ",".join(f"{k}={':'.join(f'{x:g}' for x in v)}" for k, v in wanted.items())
            raise InputError(f"{self.path} is of a network that normalises: --normalize {spec}")
        network.load_state_dict(fitted.state, strict=True)


def save_checkpoint(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    recipe: Recipe,
    beside: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a state dict or Point with its recipe as safetensors, atomically.

    Names that share one tensor are recorded as tied, and a digest of all content is stored.
    `beside` are tensors that belong to no network; only `Checkpoint.beside` reads them.
    """
    named = {**tensors, **{f"{_BESIDE}{k}": v for k, v in (beside or {}).items()}}
    plain = {k: v.detach().to("cpu").contiguous().clone() for k, v in named.items()}
    notes = {
        "recipe": json.dumps(normal_form(recipe), sort_keys=True),
        "provenance": json.dumps(provenance()),
        "ties": json.dumps(ties_of(tensors)),
    }
    notes["digest"] = _digest(plain, notes)
    content = safetensors.torch.save(plain, notes)
    write_atomically(Path(path), lambda p: p.write_bytes(content))


def load_checkpoint(path: str | Path, state_key: str | None = None) -> Checkpoint:
    """Read our safetensors, or a foreign state dict (.pt .pth .ckpt .th .pkl), on the CPU.

    `state_key` selects one of several state dicts in a file (`train.files.foreign.state_in`).
    Raises InputError for a missing, truncated, damaged or foreign file, for a wrong recipe, and
    for a pickle that contains code.

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_checkpoint(f"{folder}/a.ckpt", {"w": torch.ones(2)}, {"seed": 0})
    ...     load_checkpoint(f"{folder}/a.ckpt").tensors
    {'w': tensor([1., 1.])}
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no such checkpoint: {path}")
    with open(path, "rb") as file:
        head = file.read(9)
    if head[8:9] == b"{":
        checkpoint = _read_safetensors(path)
        if state_key is None:
            return checkpoint
        tensors = state_in(checkpoint.tensors, path, state_key)
        return Checkpoint(path, tensors, checkpoint.recipe)
    tensors = state_in(read_torch(path), path, state_key)
    return Checkpoint(path, tensors, None, ties_of(tensors))


def stored_recipe(path: Path) -> Recipe | None:
    """The recipe of one of our checkpoints. Tensors are not read. None for other files."""
    return _stored(path, "recipe")


def stored_provenance(path: Path) -> dict[str, Any] | None:
    """The provenance of one of our checkpoints. Tensors are not read. None for other files."""
    found = _stored(path, "provenance")
    return found if isinstance(found, dict) else None


def _stored(path: Path, note: str) -> dict[str, Any] | None:
    try:
        with safe_open(path, framework="pt") as file:
            return json.loads((file.metadata() or {})[note])
    except (SafetensorError, KeyError, OSError, ValueError):
        return None


def claim_checkpoint(path: Path, recipe: Recipe, overwrite: bool) -> None:
    """Lock `path` for writing (`train.files.locks`).

    Raises InputError if another process has locked it. Raises it too, unless `overwrite` is set, if
    a checkpoint of another recipe is there.
    """
    check_folder(path)
    lock(path)
    check_checkpoint(path, recipe, overwrite)


def check_checkpoint(path: Path, recipe: Recipe, overwrite: bool) -> None:
    """The same check without a lock, for further files of an output that is already locked."""
    check_folder(path)
    if path.exists() and not overwrite:
        check_same(path, stored_recipe(path), recipe)


def _digest(tensors: Mapping[str, Tensor], notes: Mapping[str, str]) -> str:
    text = json.dumps([tensors_digest(tensors), sorted(notes.items())])
    return hashlib.sha256(text.encode()).hexdigest()


def _read_safetensors(path: Path) -> Checkpoint:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            notes = file.metadata() or {}
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 (no mapping)
        digest = notes.pop("digest", None)
        ours = notes.keys() & _NOTES
        if digest not in (None, _digest(tensors, notes)) or (ours and notes.keys() - _NOTES):
            raise InputError(f"{path} is damaged: its content is not what was written; "
                             "write or copy it anew")  # fmt: skip
        recipe = json.loads(notes["recipe"]) if "recipe" in notes else None
        ties = tuple(map(tuple, json.loads(notes.get("ties", "[]"))))
    except InputError:
        raise
    except (SafetensorError, ValueError, TypeError) as error:
        raise InputError(f"{path} is damaged, truncated or not a checkpoint ({error})") from None
    tensors = {k: v for k, v in tensors.items() if not k.startswith(_BESIDE)}
    _check_recipe(recipe, path)
    for first, *others in ties:  # one shared tensor again, so that a new file records the tie too
        same = [n for n in others if torch.equal(tensors[n], tensors[first])]
        tensors |= dict.fromkeys(same, tensors[first])
    return Checkpoint(path, tensors, recipe, ties)


def _check_recipe(recipe: Any, path: Path) -> None:
    """Raise InputError unless all entries of a recipe that we use have their types."""
    places: dict[str, Any] = {} if recipe is None else {"": recipe}
    wanted: dict[str, Any] = {"": dict, **_TYPES}
    for place, kinds in wanted.items():
        owner, _, name = place.rpartition(".")
        if place and isinstance(places.get(owner), dict) and name in places[owner]:
            places[place] = places[owner][name]
        odd = isinstance(places.get(place), bool) and kinds is not bool
        if place in places and (odd or not isinstance(places[place], kinds)):
            raise InputError(
                f"{path}: its recipe is not one of ours: {place or 'it'} is "
                f"{str(places[place])[:40]!r}"
            )
    norm = places.get("model.normalize") or {"mean": [], "std": []}
    numbers = [norm.get("mean", [None]), norm.get("std", [None])]
    for value in sum(numbers, places.get("model.image_shape", [])):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InputError(f"{path}: its recipe is not one of ours: {str(value)[:40]!r}")
