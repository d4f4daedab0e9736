"""One progress bar for all long work."""

from __future__ import annotations

import shutil
import sys

from tqdm import tqdm

from ridgeline.train.exchange import leader


def progress(
    total: int | None, description: str, unit: str = "it", initial: int = 0, quiet: bool = False
) -> tqdm:
    """A tqdm bar on stderr: twice a second on a terminal, a line every 8 s in a log file.

    The clock is read on every update: tqdm's learnt stride goes silent when work slows down. A
    terminal that claims to have no size, as some containers' do, counts as 80 x 24. `quiet` shows
    no bar; of torchrun's processes the first shows its own.
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
