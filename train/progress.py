"""The progress bar of all long work."""

from __future__ import annotations

import shutil
import sys

from tqdm import tqdm

from ridgeline.train.exchange import leader


def progress(
    total: int | None, description: str, unit: str = "it", initial: int = 0, quiet: bool = False
) -> tqdm:
    """A tqdm bar on stderr: twice a second on a terminal, a line every 8 s in a log file.

    The clock is read on every update, because tqdm's automatic interval shows nothing when work
    slows down. A terminal without a size, as in some containers, counts as 80 x 24. `quiet` shows
    no bar. Under torchrun only the first process shows a bar.
    """
    screen = shutil.get_terminal_size()
    return tqdm(
        total=total,
        desc=description,
        unit=unit,
        initial=initial,
        mininterval=0.5 if sys.stderr.isatty() else 8.0,
        miniters=1,
        ncols=screen.columns,
        nrows=screen.lines,
        leave=False,
        disable=quiet or not leader(),
    )
