"""Names of files and numbers in tables and figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def distinct_names(files: Sequence[str]) -> list[str]:
    """Names of files without suffix, with as many folders as are needed to be distinct.

    >>> distinct_names(["r/a/x.ckpt", "r/b/x.ckpt"])
    ['a/x', 'b/x']
    """
    paths = [Path(f) for f in files]
    for depth in range(1, max((len(p.parts) for p in paths), default=1) + 1):
        names = ["/".join((*p.parts[-depth:-1], p.stem)) for p in paths]
        if len(set(names)) == len(names):
            return names
    return list(files)


def distinct_numbers(values: Sequence[float], digits: int = 4) -> list[str]:
    """Different numbers as text, with as many digits (at least `digits`) as make them distinct.

    >>> distinct_numbers([0.1, 0.25]), distinct_numbers([0.1, 0.100001])
    (['0.1', '0.25'], ['0.1', '0.100001'])
    """
    for places in range(digits, 18):
        names = [f"{value:.{places}g}" for value in values]
        if len(set(names)) == len(set(values)):
            break
    return names
