"""The origin of a figure, as a line for its metadata."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ridgeline.analysis.page.sources import command_of
from ridgeline.train.files.recipe import file_digest, provenance


def origin(paths: Sequence[Path]) -> str:
    """The call that draws, the source's commit, and name and SHA-256 of every file drawn."""
    held = provenance()
    files = [f"{path.name} sha256={file_digest(path)}" for path in paths]
    return "; ".join([command_of(held) or held["command"], f"commit {held['commit']}", *files])
