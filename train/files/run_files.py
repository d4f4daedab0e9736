"""The files of one training run: claimed before computing, written whole, resumed from."""

from __future__ import annotations

import glob
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ridgeline.models.errors import InputError
from ridgeline.train.files.checkpoint import load_checkpoint, save_checkpoint, stored_recipe
from ridgeline.train.files.integrity import check_torch_zip
from ridgeline.train.files.locks import lock
from ridgeline.train.files.recipe import (
    Recipe,
    check_folder,
    check_same,
    difference,
    write_atomically,
)
from ridgeline.train.files.tensorboard import Board
from ridgeline.train.methods.base import Method

#: what `RunFiles.prepare` gives for a run that is complete
DONE = {"done": True}


@dataclass(frozen=True)
class RunFiles:
    """The files of one training run: NAME.ckpt, NAME_init.ckpt, NAME_EPOCH.ckpt, NAME.jsonl.

    With a validation set (`best`) NAME_best.ckpt; of every second network the method carries
    (`copies`) the same as NAME_COPY...; and its `snapshots` NAME_SNAPSHOT.ckpt. The recipe of each
    but the last network says which `part` of the run it is, so that no other run can be taken for
    it. NAME.state holds what resuming needs and disappears when the run is complete. With a `board`
    the metrics go to TensorBoard too.
    """

    folder: Path
    name: str
    recipe: Recipe
    epochs: tuple[int, ...] = ()
    copies: tuple[str, ...] = ()
    snapshots: tuple[str, ...] = ()
    best: bool = False
    board: Board | None = None

    def holding(self, method: Method, epochs: Collection[int] = (), best: bool = False) -> RunFiles:
        """The files of a run of `method` that keeps checkpoints of these epochs."""
        return replace(
            self, epochs=tuple(sorted(set(epochs))), copies=tuple(method.copy_names),
            snapshots=tuple(method.snapshot_names), best=best,
        )  # fmt: skip

    def path(self, suffix: str) -> Path:
        """FOLDER/NAME + suffix."""
        return self.folder / f"{self.name}{suffix}"

    @property
    def parts(self) -> tuple[str, ...]:
        """What the checkpoints hold: "" the last network, init, EPOCH, best, COPY, COPY_EPOCH..."""
        kept = ("", *map(str, self.epochs), *(("best",) if self.best else ()))
        copied = (f"{copy}_{part}".rstrip("_") for copy in self.copies for part in kept)
        return ("init", *kept, *copied, *self.snapshots)

    def checkpoint(self, part: str) -> Path:
        """The file of one of `parts`."""
        return self.path(f"_{part}.ckpt" if part else ".ckpt")

    def prepare(self, overwrite: bool, *, anew: bool | None = None) -> dict | None:
        """Claim every file; the state to resume from, None for a fresh start, DONE if complete.

        `overwrite` gives leave to replace files of other recipes, and `anew` (None: the same) to
        train a complete run again; a run of this recipe that was cut off is resumed in any case.
        Nothing is removed here: files stay until their successors are whole. Raises InputError,
        with nothing touched, if files of others are in the way or another command writes them.
        """
        check_folder(self.path(".ckpt"))
        self._check(overwrite)
        for part in self.parts:
            lock(self.checkpoint(part))
        self._check(overwrite)  # again: another command may have ended meanwhile
        state, final = self.path(".state"), self.path(".ckpt")
        if state.exists() and not (overwrite and not self.interrupted()):
            stored = read_state(state)
            check_same(state, stored.get("recipe"), self.recipe)
            return stored
        again = overwrite if anew is None else anew
        if final.exists() and not again and self._is_own(final, ""):
            load_checkpoint(final)  # a damaged one is no trained network
            return DONE
        return None

    def tidy(self) -> None:
        """Remove what a replaced run of this name left: its parts that this run does not write."""
        for path in self.folder.glob(f"{glob.escape(self.name)}_*.ckpt"):
            part = path.stem.removeprefix(f"{self.name}_")
            if (stored_recipe(path) or {}).get("part") == part and not self._is_own(path, part):
                path.unlink()

    def _check(self, overwrite: bool) -> None:
        if overwrite:
            return
        for part in self.parts:
            path = self.checkpoint(part)
            if path.exists():
                stored = stored_recipe(path)
                check_same(path, stored and _timeless(stored), self._recipe_of(part))
        if self.path(".jsonl").exists() and not (
            self.path(".state").exists() or self.path(".ckpt").exists()
        ):
            check_same(self.path(".jsonl"), None, self.recipe)

    def _is_own(self, path: Path, part: str) -> bool:
        stored = stored_recipe(path)
        return stored is not None and not difference(_timeless(stored), self._recipe_of(part))

    def interrupted(self) -> bool:
        """Whether a run of this recipe was cut off here."""
        try:
            return not difference(read_state(self.path(".state")).get("recipe", {}), self.recipe)
        except InputError:
            return False

    def lacking(self, reached: int) -> list[int]:
        """The epochs up to `reached` whose checkpoints are wanted and not there."""
        return [
            e
            for e in self.epochs
            if e <= reached and not self._is_own(self.checkpoint(f"{e}"), f"{e}")
        ]

    def _recipe_of(self, part: str) -> Recipe:
        return {**self.recipe, "part": part} if part else self.recipe

    def save(
        self,
        part: str,
        weights: Mapping[str, Tensor],
        epoch: int | None = None,
        beside: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Write the checkpoint of one of `parts`; `epoch` goes into its recipe.

        `beside`: what it holds beside the network (`Method.beside`).

        Raises InputError for weights that are NaN, and ValueError for a part that was not
        claimed: a method must name in advance what it keeps.
        """
        path = self.checkpoint(part)
        if part not in self.parts:
            raise ValueError(f"{path} was never claimed: name it in copy_names or snapshot_names")
        if any(t.isnan().any() for t in weights.values()):  # a buffer may be infinite: a mask
            raise InputError(f"{path} is not written: its weights hold NaN")
        recipe = self._recipe_of(part)
        recipe = recipe if epoch is None else {**recipe, "epoch": epoch}
        save_checkpoint(path, weights, recipe, beside)

    def save_state(self, state: dict) -> None:
        """Write what resuming needs; the state before stays until this one is read back whole."""
        write_atomically(self.path(".state"), lambda p: _write_tensors(state, p), check_torch_zip)

    def write_metrics(self, lines: list[dict]) -> None:
        """Rewrite the metrics file, one JSON object per epoch."""
        text = "".join(json.dumps(line) + "\n" for line in lines)
        write_atomically(self.path(".jsonl"), lambda p: p.write_text(text))
        if self.board is not None:
            self.board.update(lines)


def read_state(path: Path) -> dict:
    """Load a training state; InputError if it is damaged or cannot be read."""
    try:
        check_torch_zip(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except Exception as error:  # torch raises many kinds for a damaged file
        raise InputError(f"{path} cannot be read ({type(error).__name__}); remove it") from None


def _timeless(recipe: Recipe) -> Recipe:
    return {k: v for k, v in recipe.items() if k != "epoch"}


def _write_tensors(state: dict, path: Path) -> None:
    """torch.save through a file of Python's, whose errors name their reason; torch's do not."""
    with open(path, "wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # closing its archive fails because a write had failed
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None
