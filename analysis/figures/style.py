"""One look for all figures: vector fonts, a colour-blind palette, column widths in inches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import seaborn as sns
import xarray as xr
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from ridgeline.analysis.look import COLUMN, PAGE, Look
from ridgeline.models.errors import InputError
from ridgeline.train.files.recipe import write_atomically

__all__ = [
    "COLUMN", "PAGE", "PALETTE", "SURFACE", "Color", "Results", "color_of", "figure_files",
    "line_of", "save_figure", "style", "tone_of",
]  # fmt: skip
PLAIN = Look()
#: what drawings take: results by label
Results = Mapping[str, "xr.Dataset"]
Color = tuple[float, float, float]
PALETTE = sns.color_palette("colorblind")
SURFACE = "viridis"
FORMATS = (".png", ".pdf", ".svg")
#: format -> the entry of its metadata that says where a figure comes from
ORIGIN = {"png": "Description", "pdf": "Subject", "svg": "Description"}
#: begins what the metadata of our figures hold under "Keywords"
MARK = "ridgeline figure "
#: suffixes of other pictures, and of files that are no pictures
OTHERS = {f".{name}" for name in FigureCanvasBase.get_supported_filetypes()} - set(FORMATS) | {
    ".bmp", ".gif", ".nc", ".ckpt", ".jsonl", ".toml", ".html", ".csv", ".tex"}  # fmt: skip


#: of the house's text, to which the sizes in drawings refer
_BASE = 8
_WIDTH: ContextVar[float | None] = ContextVar("width", default=None)
_COLORS: ContextVar[Mapping[str, str] | None] = ContextVar("colors", default=None)


@contextmanager
def style(look: Look = PLAIN) -> Iterator[None]:
    """The settings that every figure is drawn and written under, in the look that is asked for."""
    settings = {
        "figure.dpi": 150,
        "savefig.dpi": 200,
        "savefig.bbox": "tight" if look.inches is None else None,  # a width is kept to the point
        "pdf.fonttype": 42,
        "ps.fonttype": 42,
        "font.size": _BASE,
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
    width, colors = _WIDTH.set(look.inches), _COLORS.set(look.named_colors)
    try:
        with mpl.rc_context(settings | look.settings):
            yield
    finally:
        _WIDTH.reset(width)
        _COLORS.reset(colors)


def asked_width() -> float | None:
    """The width in inches that figures are to have; None: their own."""
    return _WIDTH.get()


def color_of(label: str, number: int) -> Color:
    """The colour of a network or run: what the look gives to its label, else the n-th free one.

    Colours that the look gives to others are not free. The palette comes again in lighter tones.
    """
    held = _given()
    if label.strip() in held:
        return held[label.strip()]
    free = [c for c in PALETTE if tuple(c) not in held.values()] or list(PALETTE)
    return _lighter(free[number % len(free)], number // len(free))


def tone_of(results: Mapping[str, Any], label: str, step: int) -> Color:
    """The colour of the step-th line of a network: of several networks tones of its own colour.

    Of a single one that the look gives no colour, every line has a colour of its own.
    """
    if len(results) > 1 or label.strip() in _given():
        return _lighter(color_of(label, list(results).index(label)), step)
    return color_of("", step)


def _given() -> dict[str, Color]:
    """The colours that the look gives, by label without the space that hides an underscore."""
    return {k.strip(): to_rgb(v) for k, v in (_COLORS.get() or {}).items()}


def _lighter(color: Color, steps: int) -> Color:
    """A colour mixed with white, three tones in turn."""
    share = (0.0, 0.4, 0.65)[steps % 3]
    return tuple(c + share * (1 - c) for c in color)


def line_of(label: str, number: int) -> dict[str, Any]:
    """Colour and style of a line: the palette once solid, then dashed."""
    color = color_of(label, number % len(PALETTE))
    return {"color": color,
            "ls": ("-", "--", "-.")[number // len(PALETTE) % 3]}  # fmt: skip


def pt(size: float) -> float:
    """A size of text, as it is in the house's look, for the look that is drawn under."""
    return size * mpl.rcParams["font.size"] / _BASE


def figure_files(path: str | Path) -> list[Path]:
    """The files of a figure: PATH itself if it ends in one of FORMATS, else PATH.png and PATH.pdf.

    What else follows a dot belongs to the name (lr0.1). Raises InputError for the suffix of
    another kind of file.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in FORMATS:
        return [path]
    if suffix in OTHERS:
        raise InputError(f"{path}: figures are written as {', '.join(FORMATS)}, not as {suffix}")
    return [path.with_name(path.name + each) for each in (".png", ".pdf")]


def save_figure(figure: Figure, path: str | Path, origin: str = "", mark: str = "") -> list[Path]:
    """Write the files of a figure and close it.

    Args:
        figure: The figure.
        path: Where to; which files that are, `figure_files` says.
        origin: Where it comes from, for the metadata of every file, under ORIGIN.
        mark: Digest of what it was drawn from and how, for the metadata, after MARK.

    Returns:
        The paths of the files.
    """
    written = figure_files(path)
    for target in written:
        form = target.suffix[1:].lower()
        metadata = {k: v for k, v in ((ORIGIN[form], origin), ("Keywords", MARK + mark)) if v}
        write_atomically(target, partial(figure.savefig, format=form, metadata=metadata))
    plt.close(figure)
    return written
