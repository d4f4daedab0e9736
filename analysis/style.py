"""One look for all figures: vector fonts, a colour-blind palette, column widths in inches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")  # figures are files; no display is needed

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.figure import Figure

COLUMN = 3.25  # width of one column of a two-column paper
PAGE = 6.75
PALETTE = sns.color_palette("colorblind")
SURFACE = "viridis"


@contextmanager
def style() -> Iterator[None]:
    """The settings every figure is drawn under."""
    settings = {
        "figure.dpi": 150,
        "savefig.dpi": 200,
        "savefig.bbox": "tight",
        "pdf.fonttype": 42,
        "ps.fonttype": 42,
        "font.size": 8,
        "axes.titlesize": 8,
        "axes.labelsize": 8,
        "xtick.labelsize": 7,
        "ytick.labelsize": 7,
        "legend.fontsize": 7,
        "legend.frameon": False,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "lines.linewidth": 1.2,
        "lines.markersize": 3,
        "axes.prop_cycle": mpl.cycler(color=PALETTE),
    }
    with mpl.rc_context(settings):
        yield


def save_figure(figure: Figure, path: str | Path) -> list[Path]:
    """Write PATH.png and PATH.pdf and close the figure; returns both paths."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    written = []
    for suffix in (".png", ".pdf"):
        target = path.with_name(path.name.removesuffix(path.suffix or "\0") + suffix)
        figure.savefig(target)
        written.append(target)
    plt.close(figure)
    return written
