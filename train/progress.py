"""One progress bar for all long work."""

from __future__ import annotations

import shutil
import sys

from tqdm import tqdm


def progress(total: int | None, description: str, unit: str = "it", initial: int = 0) -> tqdm:
    """A tqdm bar on stderr: twice a second on a terminal, a line every 8 s in a log file."""
    quiet = 0.5 if sys.stderr.isatty() else 8.0
    return tqdm(
        total=total,
        desc=description,
        unit=unit,
        initial=initial,
        mininterval=quiet,
        miniters=1,  # look at the clock every time: a learnt stride goes silent when work slows
        ncols=shutil.get_terminal_size().columns,  # 80 where the terminal claims to have none
        leave=False,
    )
