"""The files of one training run: locked before training, written atomically, used to resume."""

from __future__ import annotations

import glob
import json
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ridgeline.models.errors import InputError, is_out_of_memory
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

#: the result of `RunFiles.prepare` for a complete run
DONE = {"done": True}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunFiles:
    """The files of one training run: NAME.ckpt, NAME_init.ckpt, NAME_EPOCH.ckpt, NAME.jsonl.

    - With a validation set (`best`): also NAME_best.ckpt.
    - For every second network of the method (`copies`): the same files as NAME_COPY...
    - For `snapshots` of the method: NAME_SNAPSHOT.ckpt.
    - NAME.state has the state for resuming. It is deleted when the run is complete.
    - With a `board` the metrics go to TensorBoard too.

    Each recipe, except that of the last network, has an entry `part`. So a part cannot be mistaken
    for another run.
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
        """The files of a run of `method` with checkpoints at these epochs."""
        return replace(
            self, epochs=tuple(sorted(set(epochs))), copies=tuple(method.copy_names),
            snapshots=tuple(method.snapshot_names), best=best,
        )  # fmt: skip

    def path(self, suffix: str) -> Path:
        """FOLDER/NAME + suffix."""
        return self.folder / f"{self.name}{suffix}"

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of all checkpoints: "" (the last), init, EPOCH, best, COPY, COPY_EPOCH..."""
        kept = ("", *map(str, self.epochs), *(("best",) if self.best else ()))
        copied = (f"{copy}_{part}".rstrip("_") for copy in self.copies for part in kept)
        return ("init", *kept, *copied, *self.snapshots)

    def checkpoint(self, part: str) -> Path:
        """The file of one of `parts`."""
        return self.path(f"_{part}.ckpt" if part else ".ckpt")

    def prepare(self, overwrite: bool, *, anew: bool | None = None) -> dict | None:
        """Lock every file. Returns the state to resume from, None for a new run, DONE if complete.

        `overwrite` allows replacing files of other recipes. `anew` (None: as `overwrite`) trains a
        complete run again. An unfinished run of this recipe is always resumed. Nothing is deleted
        here: old files stay until new ones are complete. Raises InputError, before any change, if
        files of another recipe are there or another command writes them.
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
            if not self.checkpoint("init").exists():
                log.warning("%s is gone; the run goes on without it", self.checkpoint("init"))
            return stored
        again = overwrite if anew is None else anew
        if final.exists() and not again and self._is_own(final, ""):
            load_checkpoint(final)  # raises if the file is damaged
            return DONE
        return None

    def tidy(self) -> None:
        """Remove parts of an earlier run of this name that this run does not write."""
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
        """Whether there is an unfinished run of this recipe."""
        try:
            return not difference(read_state(self.path(".state")).get("recipe", {}), self.recipe)
        except InputError:
            return False

    def lacking(self, reached: int) -> list[int]:
        """The epochs up to `reached` whose checkpoints are wanted but missing."""
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

        `beside`: tensors that do not belong to the network (`Method.beside`).

        Raises InputError for NaN weights. Raises ValueError for a part that is not in `parts`: a
        method must declare its networks in advance.
        """
        path = self.checkpoint(part)
        if part not in self.parts:
            raise ValueError(f"{path} was never claimed: name it in copy_names or snapshot_names")
        if any(t.isnan().any() for t in weights.values()):  # infinite is allowed: mask buffers
            raise InputError(f"{path} is not written: its weights hold NaN")
        recipe = self._recipe_of(part)
        recipe = recipe if epoch is None else {**recipe, "epoch": epoch}
        save_checkpoint(path, weights, recipe, beside)

    def save_state(self, state: dict) -> None:
        """Write the state for resuming. The old one stays until the new one is verified."""
        write_atomically(self.path(".state"), lambda p: _write_tensors(state, p), check_torch_zip)

    def write_metrics(self, lines: list[dict]) -> None:
        """Rewrite the metrics file, one JSON object per epoch."""
        text = "".join(json.dumps(line) + "\n" for line in lines)
        write_atomically(self.path(".jsonl"), lambda p: p.write_text(text))
        if self.board is not None:
            self.board.update(lines)


def read_state(path: Path) -> dict:
    """Load a training state. Raises InputError if it is damaged or cannot be read."""
    try:
        check_torch_zip(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for a damaged file
        if is_out_of_memory(error):
            raise
        own = isinstance(error, InputError)
        said = str(error) if own else f"{path} cannot be read ({type(error).__name__})"
        raise InputError(f"{said}; --overwrite True begins the run anew") from None


def _timeless(recipe: Recipe) -> Recipe:
    return {k: v for k, v in recipe.items() if k != "epoch"}


def _write_tensors(state: dict, path: Path) -> None:
    """torch.save to a Python file object, whose errors have a reason (torch's have none)."""
    with open(path, "wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # closing the archive fails after a failed write
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None
