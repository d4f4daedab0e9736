"""One look for all figures: vector fonts, a colour-blind palette, column widths in inches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import seaborn as sns
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure

from ridgeline.models.errors import InputError
from ridgeline.train.files.recipe import write_atomically

COLUMN = 3.25  # width of one column of a two-column paper
PAGE = 6.75
#: what drawings take: results by label
Results = Mapping[str, "xr.Dataset"]
PALETTE = sns.color_palette("colorblind")
SURFACE = "viridis"
FORMATS = (".png", ".pdf", ".svg")
#: format -> the entry of its metadata that says where a figure comes from
ORIGIN = {"png": "Description", "pdf": "Subject", "svg": "Description"}
#: suffixes of pictures that are not written here
OTHERS = {f".{name}" for name in FigureCanvasBase.get_supported_filetypes()} - set(FORMATS) | {
    ".bmp", ".gif"}  # fmt: skip


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


def headroom(*panels: Axes) -> None:
    """Put the legends of panels at their tops, and raise the y axes until they cover no data.

    Call it when the figure is complete: its layout decides how high a panel is.
    """
    for axes in panels:
        legend, panel = axes.get_legend(), axes.bbox
        legend.set_loc("upper right")
        axes.figure.draw_without_rendering()
        box, scale = legend.get_window_extent(), axes.yaxis.get_transform()
        below = (box.y0 - (panel.y1 - box.y1) - panel.y0) / panel.height  # as much space as above
        (bottom, top), data = axes.get_ylim(), axes.dataLim.ymax
        bottom, top, data = scale.transform([bottom, top, data])
        if data - bottom > below * (top - bottom):
            top = bottom + (data - bottom) / max(below, 0.1)
            axes.set_ylim(top=scale.inverted().transform(top))


def figure_files(path: str | Path) -> list[Path]:
    """The files of a figure: PATH itself if it ends in one of FORMATS, else PATH.png and PATH.pdf.

    What else follows a dot belongs to the name (lr0.1). Raises InputError for the suffix of a
    picture that is not written here.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in FORMATS:
        return [path]
    if suffix in OTHERS:
        raise InputError(f"{path}: figures are written as {', '.join(FORMATS)}, not as {suffix}")
    return [path.with_name(path.name + each) for each in (".png", ".pdf")]


def save_figure(figure: Figure, path: str | Path, origin: str = "") -> list[Path]:
    """Write the files of a figure and close it.

    Args:
        figure: The figure.
        path: Where to; which files that are, `figure_files` says.
        origin: Where it comes from, for the metadata of every file, under ORIGIN.

    Returns:
        The paths of the files.
    """
    written = figure_files(path)
    for target in written:
        form = target.suffix[1:].lower()
        metadata = {ORIGIN[form]: origin} if origin else None
        write_atomically(target, partial(figure.savefig, format=form, metadata=metadata))
    plt.close(figure)
    return written
