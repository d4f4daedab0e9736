"""Weights with the recipe that made them; nothing is ever unpickled blindly."""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from models.errors import InputError
from train.recipe import (
    Recipe,
    check_folder,
    check_same,
    file_digest,
    normal_form,
    provenance,
    write_atomically,
)

_NESTS = ("state_dict", "model_state_dict", "model_state", "model", "net")


@dataclass(frozen=True)
class Checkpoint:
    """A state dict on the CPU, the recipe stored with it (None for foreign files), its digest."""

    path: Path
    tensors: dict[str, Tensor]
    recipe: Recipe | None
    sha256: str

    def load_into(self, network: nn.Module) -> None:
        """Copy into `network` strictly; InputError names the first differences."""
        expected = network.state_dict()
        missing = sorted(expected.keys() - self.tensors.keys())
        surplus = sorted(self.tensors.keys() - expected.keys())
        shapes = [
            f"{k} is {tuple(self.tensors[k].shape)}, the network has {tuple(v.shape)}"
            for k, v in expected.items()
            if k in self.tensors and self.tensors[k].shape != v.shape
        ]
        if missing or surplus or shapes:
            parts = [
                f"lacks {', '.join(missing[:3])}" if missing else "",
                f"has unknown {', '.join(surplus[:3])}" if surplus else "",
                "; ".join(shapes[:2]),
            ]
            made_by = (self.recipe or {}).get("model")
            hint = f"; it was saved from {made_by}" if made_by else ""
            raise InputError(
                f"{self.path} is of another architecture ({'; '.join(p for p in parts if p)}){hint}"
                "; check --model_type, --width and --bias"
            )
        network.load_state_dict(self.tensors, strict=True)


def save_checkpoint(path: str | Path, tensors: Mapping[str, Tensor], recipe: Recipe) -> None:
    """Write a state dict or Point with its recipe as safetensors, atomically."""
    plain = {k: v.detach().to("cpu").contiguous().clone() for k, v in tensors.items()}
    notes = {
        "recipe": json.dumps(normal_form(recipe), sort_keys=True),
        "provenance": json.dumps(provenance()),
    }
    write_atomically(Path(path), lambda p: safetensors.torch.save_file(plain, p, metadata=notes))


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read our safetensors, or a state dict of others (.pt .pth .ckpt .th .pkl), on the CPU.

    `module.` prefixes and the usual nests (state_dict, model, net, ...) are understood. Raises
    InputError for a missing, truncated or foreign file, and for a pickle that holds code.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no such checkpoint: {path}")
    digest = file_digest(path)
    with open(path, "rb") as file:
        head = file.read(9)
    if head[8:9] == b"{":
        tensors, recipe = _read_safetensors(path)
    else:
        tensors, recipe = _strip(_unnest(path, _read_torch(path)), path), None
    return Checkpoint(path, tensors, recipe, digest)


def stored_recipe(path: Path) -> Recipe | None:
    """The recipe of one of our checkpoints without reading its tensors; None for other files."""
    try:
        with safe_open(path, framework="pt") as file:
            return json.loads((file.metadata() or {})["recipe"])
    except (SafetensorError, KeyError, OSError, ValueError):
        return None


def claim_checkpoint(path: Path, recipe: Recipe, overwrite: bool) -> None:
    """Raise InputError if a checkpoint of another recipe stands at `path`, unless `overwrite`."""
    check_folder(path)
    if path.exists() and not overwrite:
        check_same(path, stored_recipe(path), recipe)


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], Recipe | None]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            notes = file.metadata() or {}
            return {k: file.get_tensor(k) for k in file.keys()}, (  # noqa: SIM118 (no mapping)
                json.loads(notes["recipe"]) if "recipe" in notes else None
            )
    except (SafetensorError, ValueError) as error:
        raise InputError(f"{path} is truncated or not a checkpoint ({error})") from None


def _read_torch(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its advice is for those who wrote the file
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InputError(
            f"{path} is refused: it is truncated, not a checkpoint, or holds code besides tensors; "
            "allowed are safetensors and torch.save of a plain dict of tensors"
        ) from None
    except Exception as error:  # a damaged file breaks torch's reader in a dozen ways
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path} is truncated or not a checkpoint ({reason})") from None


def _unnest(path: Path, content: Any) -> Mapping[str, Tensor]:
    for _ in range(4):
        if isinstance(content, list | tuple) and len(content) == 1:
            content = content[0]
        if isinstance(content, Mapping):
            if content and all(isinstance(v, Tensor) for v in content.values()):
                return content
            nest = next((n for n in _NESTS if n in content), None)
            if nest is not None:
                content = content[nest]
    raise InputError(
        f"{path} holds no state dict; allowed are a dict of tensors, bare or under "
        f"{', '.join(_NESTS)}"
    )


def _strip(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    if all(key.startswith("module.") for key in tensors):
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    if not all(isinstance(key, str) for key in tensors):
        raise InputError(f"{path}: the names of a state dict must be strings")
    return {key: value.detach() for key, value in tensors.items()}
