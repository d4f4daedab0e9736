"""Interactive plots by kind of result, as the data and layout that plotly.js reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from ridgeline.analysis.figures.curvature import spectra
from ridgeline.analysis.page.attack_words import number, short
from ridgeline.analysis.page.runs import metrics, trajectories
from ridgeline.analysis.page.sources import Source
from ridgeline.analysis.page.surfaces import scans
from ridgeline.analysis.page.traces import (
    COLOURS,
    Plot,
    axes,
    band,
    brief,
    line,
    looks,
    names,
    numbers,
    safe,
    square,
)

_CELLS = 6  # networks of a matrix above which its cells are too small for numbers
#: variables of matrices in words
_WORDS = {
    "cosine": "mean cosine of perturbations", "sign_cosine": "mean cosine of their signs",
    "cka": "linear centred kernel alignment", "distance": "Euclidean distance of the weights",
    "barrier": "barrier on the straight line between the weights [nat]",
}  # fmt: skip


def plots(kind: str, sources: Sequence[Source]) -> Iterator[Plot]:
    """The interactive plots of results of one kind; none for a kind that is drawn as a picture."""
    if kind in PLOTS:
        yield from PLOTS[kind](sources)


def _spectra(sources: Sequence[Source]) -> Iterator[Plot]:
    """Eigenvalues by rank with residuals, and densities with their bands."""
    ranks, densities = [], []
    every = [(s.rank, *found) for s in sources for found in spectra({s.name: s.result})]
    for place, (_, name, here) in zip(looks([rank for rank, _, _ in every]), every, strict=True):
        if "eigenvalue" in here:
            trace = line(here["rank"], here["eigenvalue"], name, place, here["residual"])
            sure = here["converged"].astype(bool).values
            shape = trace["marker"]["symbol"]
            trace["marker"] |= {"size": 7, "symbol": [shape if s else f"{shape}-open"
                                                      for s in sure]}  # fmt: skip
            ranks.append(trace)
        if "density" in here:
            x, y = here["density_x"], here["density"].values
            around = np.nan_to_num(here["density_band"].values)
            densities += [
                line(x, y + 1e-7, name, place, mode="lines"),
                band(x, np.maximum(y - around, 0) + 1e-7, y + around + 1e-7, name, place),
            ]
    if ranks:
        layout = axes("rank, the largest first", "eigenvalue [nat]")
        count = max(len(trace["x"]) for trace in ranks)
        layout["xaxis"] |= {"tick0": 1, "dtick": count // 10 + 1}
        yield Plot("Largest eigenvalues of the Hessian, in nat per squared unit of weight. Bars "
                   "are residuals, hollow points did not converge.", ranks, layout,
                   names(sources))  # fmt: skip
    if densities:
        layout = axes("eigenvalue [nat]", "spectral density [1/nat]")
        layout["yaxis"] |= {"type": "log", "exponentformat": "power"}
        yield Plot("Spectral density: which share of all eigenvalues lies where, with its 95 % "
                   "band.", densities, layout, names(sources))  # fmt: skip


def _curves(sources: Sequence[Source]) -> Iterator[Plot]:
    """Loss over t, for every path, part of the data and budget."""
    for source in sources:
        lines, place = [], 0
        ds = source.result if "eps" in source.result.dims else source.result.expand_dims("eps")
        for level in range(ds.sizes["eps"]):
            for path in ds["path"].values:
                word = {"curve": "trained curve", "line": "straight line"}.get(path, path)
                for subset in ds["subset"].values:
                    here = ds.isel(eps=level).sel(path=path, subset=subset)
                    budget = f", ε = {float(here['eps']):g}" if "eps" in here.coords else ""
                    lines.append(line(here["t"], here["loss"], f"{word}{budget}", place,
                                      here["loss_se"],
                                      "dot" if subset == "train" else "solid"))  # fmt: skip
                place += 1
        ends = list(source.ends.values())
        where = f": 0 is {ends[0]}, 1 is {ends[1]}" if len(ends) == 2 else ", from end to end"
        yield Plot(
            f"{source.name}: loss along the paths, with standard errors. Test images solid, "
            "training images dotted.", lines, axes(f"place on the path{where}", "loss [nat]"),
            names([source]),
        )  # fmt: skip


def _robustness(sources: Sequence[Source]) -> Iterator[Plot]:
    """Accuracies as bars with their intervals, in groups by attack and budget."""
    held = {}
    for source in sources:
        ds, held[source.name] = source.result, {}
        for row in range(ds.sizes["condition"]):
            here = ds.isel(condition=row)
            eps = float(here["eps"])
            group = (0.0, "", "clean") if eps == 0 or here["condition"].item() == "clean" else (
                eps, short(source.attack), f"{short(source.attack)}<br>ε = {number(eps)}"
            )  # fmt: skip
            values = [100 * float(here[n]) for n in ("accuracy", "accuracy_low", "accuracy_high")]
            held[source.name].setdefault(group, values)
    groups = sorted({group for found in held.values() for group in found},
                    key=lambda g: (g[1], g[0]))  # fmt: skip
    bars = []
    places = looks([s.rank for s in sources])
    for place, (name, found) in zip(places, held.items(), strict=True):
        middle, low, high = np.array(list(found.values())).reshape(-1, 3).T
        again = place // len(COLOURS)
        bars.append({
            "type": "bar", "name": safe(name), "x": [g[2] for g in found], "meta": again,
            "y": numbers(middle),
            "marker": {"color": COLOURS[place % len(COLOURS)],
                       "pattern": {"shape": ("", "/", "x", ".")[again % 4]}},
            "error_y": {"type": "data", "symmetric": False, "thickness": 1,
                        "array": numbers(high - middle), "arrayminus": numbers(middle - low)},
            "hovertemplate": "%{y:.1f} %",
        })  # fmt: skip
    layout = axes("", "accuracy [%]", barmode="group")
    layout["yaxis"]["range"] = [0, 100]
    layout["xaxis"] |= {"categoryorder": "array", "categoryarray": [g[2] for g in groups]}
    yield Plot("Accuracy with its 95 % interval, clean and by attack and budget ε (in units of the "
               "pixel range).", bars, layout, names(sources))  # fmt: skip


def _fourier(sources: Sequence[Source]) -> Iterator[Plot]:
    """A map of error rates per network, and accuracy after low and high pass."""
    for source in sources:
        ds = source.result
        layout = square("horizontal frequency", "vertical frequency")
        yield Plot(f"{source.name}: error rate by frequency. One range of colours for all maps.", [
            {"type": "heatmap", "x": numbers(ds["column"]), "y": numbers(ds["row"]),
             "z": numbers(100 * ds["error"]), "zmin": 0, "zmax": 100, "colorscale": "Viridis",
             "colorbar": {"title": {"text": "error rate [%]", "side": "right"}, "thickness": 12}}
        ], layout, names([source]))  # fmt: skip
    lines = [
        line(s.result["cutoff"], 100 * s.result["pass_accuracy"].sel(filter=f), s.name, place,
             100 * s.result["pass_accuracy_se"].sel(filter=f), dash)
        for place, s in zip(looks([s.rank for s in sources]), sources, strict=True)
        for f, dash in zip(s.result["filter"].values, ("solid", "dot"), strict=False)
    ]  # fmt: skip
    if lines:
        kinds = " solid, ".join(f"{f} pass" for f in sources[0].result["filter"].values[:2])
        yield Plot(f"Accuracy on images that keep only some frequencies: {kinds} dotted.", lines,
                   axes("cut-off, as a share of the highest frequency", "accuracy [%]"),
                   names(sources))  # fmt: skip


def _matrices(*variables: str) -> Callable[[Sequence[Source]], Iterator[Plot]]:
    """A heat map per matrix; all of one measure have one range of colours."""

    def draw(sources: Sequence[Source]) -> Iterator[Plot]:
        values = {n: np.concatenate([s.result[n].values.ravel() for s in sources])
                  for n in variables}  # fmt: skip
        ranges = {n: numbers([np.min(v[np.isfinite(v)], initial=np.inf),
                              np.max(v[np.isfinite(v)], initial=-np.inf)])
                  for n, v in values.items()}  # fmt: skip
        for source in sources:
            for name in variables:
                every = source.result[name]
                for place in np.ndindex(every.shape[:-2]):
                    where = ", ".join(str(every[d].values[i]) for d, i in
                                      zip(every.dims, place, strict=False))  # fmt: skip
                    caption = f"{source.name}: {_WORDS[name]}{', ' * bool(where)}{where}."
                    yield Plot(caption, [_heat(every[place], *ranges[name])],
                               _by_name(every[place]), names([source]))  # fmt: skip

    return draw


def _heat(here, low: float | None, high: float | None) -> dict:
    rows, columns = here.shape
    cells = {"texttemplate": "%{z:.3g}"} if max(rows, columns) <= _CELLS else {}
    return {"type": "heatmap", "x": list(range(columns)), "y": list(range(rows)),
            "z": numbers(here), "colorscale": "Viridis", "zmin": low, "zmax": high, **cells,
            "text": [[f"{safe(a)}, {safe(b)}" for b in here[here.dims[1]].values]
                     for a in here[here.dims[0]].values],
            "hovertemplate": "%{text}: %{z:.4g}<extra></extra>",
            "colorbar": {"thickness": 12}}  # fmt: skip


def _by_name(here) -> dict:
    """Axes of a matrix with the names of its rows and columns, the first row at the top."""
    layout = square("", "")
    for axis, dim in (("xaxis", here.dims[1]), ("yaxis", here.dims[0])):
        labels = [brief(n) for n in here[dim].values]
        layout[axis] |= {"tickvals": list(range(len(labels))), "ticktext": labels,
                         "showgrid": False, "zeroline": False}  # fmt: skip
    layout["yaxis"]["autorange"] = "reversed"
    return layout


#: kind of result -> its interactive plots
PLOTS: dict[str, Callable[[Sequence[Source]], Iterator[Plot]]] = {
    "scan": scans,
    "hessian": _spectra,
    "curve": _curves,
    "robustness": _robustness,
    "trajectory": trajectories,
    "metrics": metrics,
    "fourier": _fourier,
    "similarity": _matrices("cosine", "sign_cosine"),
    "cka": _matrices("cka"),
    "pairs": _matrices("distance", "cosine", "barrier", "cka"),
}
