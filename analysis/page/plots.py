"""Interactive plots by kind of result, as the data and layout that plotly.js reads."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from ridgeline.analysis.figures.curvature import spectra
from ridgeline.analysis.page.sources import Source

#: the colours of matplotlib's figures, in hexadecimal
COLOURS = ("#0173b2", "#de8f05", "#029e73", "#d55e00", "#cc78bc", "#ca9161", "#fbafe4", "#949494")
_DIGITS = 6
_EYE = {"x": 2.1, "y": -2.35, "z": 1.2}  # from where surfaces are seen at first


@dataclass(frozen=True)
class Plot:
    """A plot: what it shows in words, its traces, its layout."""

    caption: str
    data: list[dict]
    layout: dict

    @property
    def spatial(self) -> bool:
        """Whether it is drawn in 3-D."""
        return any(trace["type"] == "surface" for trace in self.data)


def plots(kind: str, sources: Sequence[Source]) -> Iterator[Plot]:
    """The interactive plots of results of one kind; none for a kind that is drawn as a picture."""
    if kind in PLOTS:
        yield from PLOTS[kind](sources)


def _numbers(values: xr.DataArray | np.ndarray) -> list:
    """Values for JSON, rounded to what a screen can show; None where they are not finite."""
    array = np.asarray(values)
    if array.ndim > 1:
        return [_numbers(row) for row in array]
    if array.dtype.kind not in "fiub":
        return [_safe(v) for v in array]
    return [float(f"{v:.{_DIGITS}g}") if np.isfinite(v) else None for v in array.astype(float)]


def _safe(name: object) -> str:
    """A name as plotly shows it: without the tags that it would obey."""
    return html.escape(str(name), quote=False)


def _line(x, y, name: str, number: int, error=None, **more: Any) -> dict:
    colour = COLOURS[number % len(COLOURS)]
    trace = {
        "type": "scatter", "mode": "lines+markers", "x": _numbers(x), "y": _numbers(y),
        "name": _safe(name), "line": {"color": colour}, "marker": {"color": colour},
    }  # fmt: skip
    if error is not None:
        trace["error_y"] = {"type": "data", "array": _numbers(error), "thickness": 1, "width": 2}
    return trace | more


def _band(x, low, high, number: int) -> dict:
    """The space between two curves."""
    colour = "".join(f"{int(COLOURS[number % len(COLOURS)][i : i + 2], 16)}," for i in (1, 3, 5))
    return {"type": "scatter", "x": _numbers(x) + _numbers(x)[::-1],
            "y": _numbers(low) + _numbers(high)[::-1], "fill": "toself", "mode": "lines",
            "line": {"width": 0}, "fillcolor": f"rgba({colour}0.2)", "hoverinfo": "skip",
            "showlegend": False}  # fmt: skip


def _axes(x: str, y: str, **more: Any) -> dict:
    return {"xaxis": {"title": {"text": x}}, "yaxis": {"title": {"text": y}}, **more}


def _square(x: str, y: str, kind: str = "linear") -> dict:
    """Axes of a map whose cells are squares."""
    layout = _axes(x, y)
    layout["xaxis"] |= {"type": kind, "constrain": "domain"}
    layout["yaxis"] |= {"type": kind, "constrain": "domain", "scaleanchor": "x"}
    return layout


def _scans(sources: Sequence[Source]) -> Iterator[Plot]:
    """Lines of all 1-D scans in one plot; a surface and a contour per 2-D scan and budget."""
    loose = [s for s in sources if s.result["loss"].ndim == 2]
    planes = [s for s in sources if s.result["loss"].ndim == 3]
    lines = [
        _line(s.result[axis], here["loss"], f"{s.name}, ε = {float(here['eps']):g}", number,
              here["loss_se"])
        for number, (s, here, axis) in enumerate(
            (s, s.result.sel(eps=eps), next(d for d in s.result["loss"].dims if d != "eps"))
            for s in loose for eps in s.result["eps"].values)
    ]  # fmt: skip
    if lines:
        yield Plot("Loss along a direction, with standard errors.", lines,
                   _axes("coordinate", "loss [nat]"))  # fmt: skip
    every = [s.result["loss"].values.ravel() for s in planes]
    values = np.concatenate(every) if every else np.zeros(0)
    values = values[np.isfinite(values) & (values > 0)]
    if not values.size:
        return
    low, high = np.log10([values.min(), values.max()])
    for source in planes:
        ds = source.result
        one, two = (d for d in ds["loss"].dims if d != "eps")
        for eps in ds["eps"].values:
            heights = ds["loss"].sel(eps=eps).transpose(two, one).values
            heights = np.where(heights > 0, heights, np.nan)
            name = f"{source.name}, ε = {eps:g}"
            shared = {"x": _numbers(ds[one]), "y": _numbers(ds[two]), "colorscale": "Viridis"}
            labels = [_safe(ds[a].attrs.get("long_name", a)) for a in (one, two)]
            bar = {"title": {"text": "log₁₀ loss", "side": "right"}, "thickness": 12}
            logs = _numbers(np.log10(heights))
            yield Plot(
                f"{name}: surface to turn. Height and colour have one range for all scans.",
                [{"type": "surface", "z": _numbers(heights), "surfacecolor": logs, "cmin": low,
                  "cmax": high, "colorbar": bar, **shared}],
                {"scene": {"camera": {"eye": _EYE},
                           "zaxis": {"type": "log", "range": [low, high],
                                     "title": {"text": "loss [nat]"}},
                           "xaxis": {"title": {"text": labels[0]}},
                           "yaxis": {"title": {"text": labels[1]}}}},
            )  # fmt: skip
            yield Plot(
                f"{name}: contours of the same scan.",
                [{"type": "contour", "z": logs, "zmin": low, "zmax": high, "colorbar": bar,
                  "contours": {"start": low, "end": high, "size": (high - low) / 15 or 1},
                  **shared}],
                _square(*labels),
            )  # fmt: skip


def _spectra(sources: Sequence[Source]) -> Iterator[Plot]:
    """Eigenvalues by rank with residuals, and densities with their bands."""
    ranks, densities = [], []
    every = {s.name: s.result for s in sources}
    for number, (name, here) in enumerate(spectra(every)):
        if "eigenvalue" in here:
            sure = here["converged"].astype(bool).values
            mark = {"color": COLOURS[number % len(COLOURS)], "size": 7,
                    "symbol": ["circle" if s else "circle-open" for s in sure]}  # fmt: skip
            ranks.append(_line(here["rank"], here["eigenvalue"], name, number, here["residual"],
                               marker=mark))  # fmt: skip
        if "density" in here:
            x, y = here["density_x"], here["density"].values
            band = np.nan_to_num(here["density_band"].values)
            densities += [
                _line(x, y + 1e-7, name, number, mode="lines"),
                _band(x, np.maximum(y - band, 0) + 1e-7, y + band + 1e-7, number),
            ]
    if ranks:
        layout = _axes("rank", "eigenvalue [nat]")
        count = max(len(trace["x"]) for trace in ranks)
        layout["xaxis"] |= {"tick0": 1, "dtick": count // 10 + 1}
        yield Plot("Largest eigenvalues; hollow: not converged.", ranks, layout)
    if densities:
        layout = _axes("eigenvalue [nat]", "spectral density")
        layout["yaxis"] |= {"type": "log", "exponentformat": "power"}
        yield Plot("Spectral density with its 95 % band.", densities, layout)


def _curves(sources: Sequence[Source]) -> Iterator[Plot]:
    """Loss over t, for every path, part of the data and budget."""
    lines, number = [], 0
    for source in sources:
        ds = source.result if "eps" in source.result.dims else source.result.expand_dims("eps")
        for place in range(ds.sizes["eps"]):
            for path in ds["path"].values:
                for subset in ds["subset"].values:
                    here = ds.isel(eps=place).sel(path=path, subset=subset)
                    budget = f", ε = {float(here['eps']):g}" if "eps" in here.coords else ""
                    lines.append(_line(here["t"], here["loss"],
                                       f"{source.name}: {path}, {subset}{budget}", number,
                                       here["loss_se"]))  # fmt: skip
                    number += 1
    yield Plot("Loss along the paths, with standard errors.", lines, _axes("t", "loss [nat]"))


def _robustness(sources: Sequence[Source]) -> Iterator[Plot]:
    """Accuracies as bars with their intervals."""
    bars = []
    for number, source in enumerate(sources):
        ds = source.result
        middle = ds["accuracy"].values
        names = [f"{c}<br>ε = {e:.3g}" for c, e in
                 zip(_numbers(ds["condition"]), ds["eps"].values, strict=True)]  # fmt: skip
        bars.append({
            "type": "bar", "name": _safe(source.name), "x": names, "y": _numbers(middle),
            "marker": {"color": COLOURS[number % len(COLOURS)]},
            "error_y": {"type": "data", "symmetric": False, "thickness": 1,
                        "array": _numbers(ds["accuracy_high"].values - middle),
                        "arrayminus": _numbers(middle - ds["accuracy_low"].values)},
        })  # fmt: skip
    layout = _axes("", "accuracy", barmode="group")
    layout["yaxis"]["range"] = [0, 1]
    yield Plot("Accuracy with 95 % intervals.", bars, layout)


def _trajectories(sources: Sequence[Source]) -> Iterator[Plot]:
    """Curvature and accuracy by epoch."""
    for names, title, dim in (
        (("lambda_max", "trace"), "curvature [nat]", "epoch"),
        (("robust_test", "robust_train"), "robust accuracy", "every_epoch"),
        (("flatness", "sharpness"), "rise of the loss [nat]", "epoch"),
    ):
        held = [(s, n) for s in sources for n in names if n in s.result]
        lines = [
            _line(s.result[dim], s.result[n], f"{s.name}: {n}", i, s.result.get(f"{n}_se"))
            for i, (s, n) in enumerate(held)
        ]
        if lines:
            yield Plot(f"{title[0].upper()}{title[1:]} by epoch.", lines, _axes("epoch", title))


def _metrics(sources: Sequence[Source]) -> Iterator[Plot]:
    """What a run's metrics file says of loss and accuracy."""
    for word in ("loss", "accuracy"):
        lines = []
        for source in sources:
            keys = [k for k in source.lines[0] if k.endswith(f"_{word}")]
            epochs = np.array([line["epoch"] for line in source.lines])
            for key in keys:
                values = np.array([_float(line.get(key)) for line in source.lines])
                lines.append(_line(epochs, values, f"{source.name}: {key}", len(lines)))
        if lines:
            yield Plot(f"{word[0].upper()}{word[1:]} by epoch.", lines, _axes("epoch", word))


def _float(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else np.nan


def _fourier(sources: Sequence[Source]) -> Iterator[Plot]:
    """A map of error rates per network, and accuracy after low and high pass."""
    for source in sources:
        ds = source.result
        yield Plot(f"{source.name}: error rate by frequency, one range for all.", [
            {"type": "heatmap", "x": _numbers(ds["column"]), "y": _numbers(ds["row"]),
             "z": _numbers(ds["error"]), "zmin": 0, "zmax": 1, "colorscale": "Viridis",
             "colorbar": {"title": {"text": "error", "side": "right"}, "thickness": 12}}
        ], _square("horizontal frequency", "vertical frequency"))  # fmt: skip
    lines = [
        _line(s.result["cutoff"], s.result["pass_accuracy"].sel(filter=f), f"{s.name}: {f} pass",
              i, s.result["pass_accuracy_se"].sel(filter=f))
        for i, (s, f) in enumerate((s, f) for s in sources for f in s.result["filter"].values)
    ]  # fmt: skip
    yield Plot("Accuracy on filtered images.", lines, _axes("cut-off", "accuracy"))


def _matrices(*names: str) -> Callable[[Sequence[Source]], Iterator[Plot]]:
    """A heat map per matrix; all of one measure have one range of colours."""

    def draw(sources: Sequence[Source]) -> Iterator[Plot]:
        values = {n: np.concatenate([s.result[n].values.ravel() for s in sources]) for n in names}
        ranges = {n: _numbers([np.min(v[np.isfinite(v)], initial=np.inf),
                               np.max(v[np.isfinite(v)], initial=-np.inf)])
                  for n, v in values.items()}  # fmt: skip
        for source in sources:
            for name in names:
                every = source.result[name]
                wide = every.dims[-2:]
                for place in np.ndindex(every.shape[:-2]):
                    here = every[place]
                    where = ", ".join(str(every[d].values[i]) for d, i in
                                      zip(every.dims, place, strict=False))  # fmt: skip
                    yield Plot(f"{source.name}: {name}{', ' * bool(where)}{where}.", [
                        {"type": "heatmap", "x": _numbers(here[wide[1]].astype(str)),
                         "y": _numbers(here[wide[0]].astype(str)), "z": _numbers(here),
                         "colorscale": "Viridis", "texttemplate": "%{z:.3g}",
                         "zmin": ranges[name][0], "zmax": ranges[name][1],
                         "colorbar": {"thickness": 12}}
                    ], _square("", "", "category"))  # fmt: skip

    return draw


#: kind of result -> its interactive plots
PLOTS: dict[str, Callable[[Sequence[Source]], Iterator[Plot]]] = {
    "scan": _scans,
    "hessian": _spectra,
    "curve": _curves,
    "robustness": _robustness,
    "trajectory": _trajectories,
    "metrics": _metrics,
    "fourier": _fourier,
    "similarity": _matrices("cosine", "sign_cosine"),
    "cka": _matrices("cka"),
    "pairs": _matrices("distance", "cosine", "barrier", "cka"),
}
