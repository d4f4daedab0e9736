"""The look of figures: style of a venue, width, and size of the text."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any

from ridgeline.models.errors import InputError, unknown
from ridgeline.train.options import Opt, Options

COLUMN = 3.25  # inches; the width of one column of a two-column paper
PAGE = 6.75
_END = 4  # names of venues end with the four digits of a year
_TEXT = ("axes.labelsize", "axes.titlesize", "font.size")
_SMALL = ("xtick.labelsize", "ytick.labelsize", "legend.fontsize")


@dataclass(frozen=True)
class Look(Options):
    """The look of figures. Drawing again with another look computes nothing.

    Without any option figures have the default look, each with its own width.
    """

    style: Annotated[
        str | None, Opt("fonts, text sizes and widths of a venue: icml2024, neurips2024, iclr2024, "
                        "cvpr2024, jmlr2001, ... (of tueplots)", decides=False)
    ] = None  # fmt: skip
    width: Annotated[
        str | float | None, Opt("width: column, full, or inches; None: of a --style its column, "
                                "else each figure's own", decides=False)
    ] = None  # fmt: skip
    font_size: Annotated[
        float | None, Opt("size of the text; ticks and legends are an eighth smaller", low=4,
                          high=24, unit="points", decides=False)
    ] = None  # fmt: skip
    colors: Annotated[
        tuple[str, ...], Opt("label=colour, ...: the same colour for a network in every figure, "
                             "as matplotlib's: C0, tab:blue, #0173b2", decides=False)
    ] = ()  # fmt: skip

    def check(self) -> None:
        """Raise InputError for an unknown venue and for a wrong width."""
        if self.style is not None and self.style not in venues():
            raise unknown("--style", self.style, venues())
        if self.width is not None and self.width not in ("column", "full"):
            try:
                inches = float(self.width)
            except (TypeError, ValueError):
                inches = math.nan
            if isinstance(self.width, bool) or not 1 <= inches <= 50:
                raise InputError("--width must be column, full or 1 to 50 inches, got "
                                 f"{self.width}")  # fmt: skip
        if self.colors:
            _ = self.named_colors

    @property
    def named_colors(self) -> dict[str, str]:
        """Colours by label. Raise InputError for one that is none."""
        if not self.colors:
            return {}
        from matplotlib.colors import is_color_like, to_rgba

        found = {}
        for text in self.colors:
            label, _, color = text.rpartition("=")
            if not label or not is_color_like(color) or to_rgba(color)[3] < 1:
                raise InputError("--colors takes label=colour, with colours as matplotlib's (C0, "
                                 f"tab:blue, #0173b2), got {text}")  # fmt: skip
            found[label] = color
        return found

    @property
    def inches(self) -> float | None:
        """The width of all figures in inches; None: each figure has its own."""
        if self.width is None and self.style is None:
            return None
        if self.width not in (None, "column", "full"):
            return float(self.width)
        full = self.width == "full"
        if self.style is None:
            return PAGE if full else COLUMN
        return float(_bundle(self.style, full)["figure.figsize"][0])

    @property
    def settings(self) -> dict[str, Any]:
        """The matplotlib settings that it changes: fonts and text sizes."""
        found: dict[str, Any] = {}
        if self.style is not None:
            found = {k: v for k, v in _bundle(self.style).items() if k in (*_TEXT, *_SMALL)}
            found |= _fonts(_bundle(self.style))
        if self.font_size is not None:
            found |= dict.fromkeys(_TEXT, self.font_size)
            found |= dict.fromkeys(_SMALL, self.font_size * 7 / 8)
        return found


def venues() -> list[str]:
    """The names of all styles, in order."""
    from tueplots import bundles  # imported here: it loads matplotlib, which takes a second

    return sorted(n for n, f in vars(bundles).items() if n[-_END:].isdigit() and callable(f))


def _bundle(venue: str, full: bool = False) -> dict[str, Any]:
    """The settings of tueplots for a venue, at the width of a column or of the page."""
    import inspect

    from tueplots import bundles

    make = getattr(bundles, venue)
    known = inspect.signature(make).parameters
    options = {"column": "full" if full else "half", "usetex": False}
    return make(**{name: value for name, value in options.items() if name in known})


def _fonts(bundle: dict[str, Any]) -> dict[str, Any]:
    """The fonts of a venue that are installed here, then matplotlib's own.

    All are named explicitly, so a figure looks the same if it is saved later with other settings.
    """
    from matplotlib import font_manager

    serif = bundle.get("font.family") != "sans-serif"
    named = bundle.get("font.serif" if serif else "font.sans-serif", ["Times New Roman"] * serif)
    have = set(font_manager.get_font_names())
    brought = ["STIXGeneral", "DejaVu Serif"] if serif else ["DejaVu Sans"]
    return {"font.family": [n for n in named if n in have] + brought,
            "mathtext.fontset": "stix" if serif else "dejavusans"}  # fmt: skip
