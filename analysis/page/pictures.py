"""Pictures of results for a page: the package's own figures, and perturbations, as data links."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from ridgeline.analysis.figures import FIGURES, draw
from ridgeline.analysis.figures.layout import subplots
from ridgeline.analysis.figures.style import PAGE, style
from ridgeline.analysis.look import Look
from ridgeline.analysis.page.links import HOUSE, link
from ridgeline.analysis.page.plots import PLOTS
from ridgeline.analysis.page.sources import Source
from ridgeline.analysis.page.traces import names
from ridgeline.models.errors import InputError

_LONG = 28  # characters of a name in a figure
_SHOWN = 6  # examples whose perturbations are shown
_WIDE = 420  # pixels of a page, above which phones are shown a narrow picture
_PHONE = Look(width="column")
#: variables of accuracies that the interactive plot does not show
_CLOSER = ("masking_value", "search_accuracy", "bin_accuracy", "class_accuracy",
           "transfer_accuracy")  # fmt: skip
#: kind of result -> what its picture shows; the names of the results follow
_CAPTIONS = {
    "budgets": "Accuracy of every network at every budget",
    "corruptions": "Accuracy by corruption and severity",
    "sharpness": "Measures of sharpness, with standard errors",
    "ranking": "Kendall's tau of every measure with the gap, with its interval",
    "overfitting": "Robust test accuracy by epoch, and from best to last",
    "scattering": "Change of perturbations and gradients with the distance of the weights",
    "generator": "Strength of the generator by epoch",
    "distance": "Distance of the weights by parameter, relative to the first network's",
    "spectrum": "Share of high frequencies in the filters of every layer",
    "spectral_bias": "High-frequency share and robustness, a point per network",
}


@dataclass(frozen=True)
class Picture:
    """A picture as a data link, its width in pixels of a page, and one for phones if it is wide.

    A result that cannot be drawn gives its reason as the caption, and empty links. `sources` are
    the names of the results in it.
    """

    caption: str
    link: str = ""
    width: int = 0
    narrow: str = ""
    sources: tuple[str, ...] = ()
    part: str = ""

    @property
    def wide(self) -> bool:
        """Whether it takes the whole width of a page."""
        return self.width > _WIDE


def pictures(kind: str, sources: Sequence[Source]) -> Iterator[Picture]:
    """The pictures of results of one kind.

    Results are drawn together where their drawing can; each by itself where it cannot.
    """
    if kind == "adversaries":
        for source in sources:
            yield _picture(_caption_of(source), [source],
                           lambda look, s=source: _perturbations(s, look))  # fmt: skip
    if kind == "scan":
        for source in sources:
            if source.result["loss"].ndim > 3:
                yield Picture(f"{source.name} is a scan over three axes: ridgeline export writes "
                              "it for ParaView.", sources=(source.name,))  # fmt: skip
    if kind in FIGURES and kind not in PLOTS:
        yield from _together(sources, _CAPTIONS.get(kind, ""))
    if kind == "robustness":
        closer = [s for s in sources if any(name in s.result for name in _CLOSER)]
        if closer:
            yield from _together(closer, "What --also found besides")
    if kind == "spectrum":
        yield from _together(sources, "First filters of every network", against="filters")


def _together(sources: Sequence[Source], what: str = "", **options: str) -> Iterator[Picture]:
    """One picture of results of a kind, or one of each if they have none together."""
    labels = brief_names([s.name for s in sources])
    held = {_plain(n): s.result for n, s in zip(labels, sources, strict=True)}
    caption = f"{what}{': ' * bool(what)}{', '.join(s.name for s in sources)}."
    try:
        yield _picture(caption, sources, lambda look: draw(held, **vars(look), **options))
    except InputError as error:
        if len(sources) == 1:
            yield Picture(f"{sources[0].name} cannot be drawn: {error}", sources=names(sources))
        else:
            for source in sources:
                yield from _together([source], what, **options)


def _picture(
    caption: str, sources: Sequence[Source], figure: Callable[[Look], Figure]
) -> Picture:  # fmt: skip
    held, width = link(figure(HOUSE))
    narrow = link(figure(_PHONE), _PHONE)[0] if width > _WIDE else ""
    return Picture(caption, held, width, narrow, names(sources))


def brief_names(long: Sequence[str]) -> list[str]:
    """Names for a figure: long ones have their beginning and end, if that tells them apart."""
    short = [n if len(n) <= _LONG else f"{n[: _LONG // 2]}…{n[1 - _LONG // 2 :]}" for n in long]
    return short if len(set(short)) == len(set(long)) else list(long)


def _plain(name: str) -> str:
    """A name that matplotlib does not take for mathematics."""
    return name.replace("$", r"\$")


def _caption_of(source: Source) -> str:
    """What the perturbations of a result show, and what black and white mean."""
    images = source.result["perturbation"].isel(draw=0, example=slice(_SHOWN)).values
    scale = _scale(images)
    return (f"{source.name}: perturbations of {len(images)} images. Grey is no change, black and "
            f"white are −{scale:.3g} and +{scale:.3g} of the pixel range.")  # fmt: skip


def _scale(images: np.ndarray) -> float:
    """The largest change of a pixel; 1 where there is none."""
    return float(np.abs(images[np.isfinite(images)]).max(initial=0)) or 1.0


def _perturbations(source: Source, look: Look) -> Figure:
    """Perturbations of the first draw, on one scale."""
    images = source.result["perturbation"].isel(draw=0, example=slice(_SHOWN)).values
    labels = source.result["label"].values[:_SHOWN]
    scale = _scale(images)
    with style(look):
        figure, axes = subplots(1, len(images), figsize=(PAGE, PAGE / _SHOWN + 0.3), least=1.0,
                                squeeze=False)  # fmt: skip
        for panel, image, label in zip(axes.flat, images, labels, strict=True):
            shown = np.moveaxis(image / scale / 2 + 0.5, 0, -1)
            grey = shown.shape[-1] == 1
            panel.imshow(shown[..., 0] if grey else shown, cmap="gray", vmin=0, vmax=1)
            panel.set(xticks=[], yticks=[], title=f"class {label}")
    return figure
