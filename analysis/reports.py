"""Results in words: what commands print, by kind of result."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import xarray as xr

from ridgeline.analysis.budget_matrix import budgets_report
from ridgeline.analysis.sharpness import words
from ridgeline.analysis.trust_report import trust
from ridgeline.landscape.result import complete
from ridgeline.models.errors import unknown


def report(result: xr.Dataset) -> str:
    """The numbers of a result as text, with their errors. Raises InputError for other kinds."""
    kind = result.attrs.get("kind", "unknown")
    if kind not in REPORTS:
        raise unknown("kind of result to report", kind, REPORTS)
    return "\n".join(REPORTS[kind](result))


def unfinished(results: Mapping[str, xr.Dataset]) -> list[str]:
    """A line for every incomplete grid: how many of its cells are computed."""
    return [
        f"{name}: {int(ds['done'].sum())} of {ds['done'].size} cells are computed"
        for name, ds in results.items() if not complete(ds)
    ]  # fmt: skip


def _rows(ds: xr.Dataset, dim: str) -> Iterator[tuple[object, dict[str, float]]]:
    """Every entry of a dimension, with its scalar variables."""
    for value in ds[dim].values:
        row = ds.sel({dim: value})
        yield value, {k: float(v) for k, v in row.items() if v.ndim == 0 and v.dtype.kind in "fiub"}


def hessian(ds: xr.Dataset) -> Iterator[str]:
    """Eigenvalues with residuals and trace with its error, for every spectrum."""
    ds = ds.expand_dims([d for d in ("eps", "block") if d not in ds.dims])
    several = ds.sizes["eps"] * ds.sizes["block"] > 1
    for e in range(ds.sizes["eps"]):
        for b in range(ds.sizes["block"]):
            here = ds.isel(eps=e, block=b)
            if several:
                yield (f"eps {float(here['eps']):g}, {here['block'].item()} "
                       f"({int(here['parameters'])} parameters)")  # fmt: skip
            for rank in here["rank"].values if "rank" in here else []:
                row = here.sel(rank=rank)
                value, residual = float(row["eigenvalue"]), float(row["residual"])
                odd = "" if bool(row["converged"]) else "NOT CONVERGED, "
                yield (f"{rank:4d}  {value: .6e}  residual {residual:.1e}  "
                       f"{odd}{row['reason'].item()}")  # fmt: skip
            if "trace" in here:
                error, by = float(here["trace_se"]), here["trace_estimator"].item()
                yield f"trace {float(here['trace']):.6g} +- {error:.2g} ({by})"
            if not np.isnan(float(here.get("share_regular", np.nan))):
                share, rest = float(here["share_regular"]), float(here["stationarity"])
                yield (f"{share:.1%} of the inner maxima settled and strict (the rest frozen), "
                       f"gradient left there {rest:.2g} of the whole")  # fmt: skip


def curve(ds: xr.Dataset) -> Iterator[str]:
    """Barriers with their errors."""
    levels = ds if "eps" in ds.dims else ds.expand_dims("eps")
    for e in range(levels.sizes["eps"]):
        for way in ds["path"].values:
            for subset in ds["subset"].values:
                here = levels.isel(eps=e).sel(path=way, subset=subset)
                error = float(here["barrier_se"]) if "barrier_se" in here else np.nan
                shown = f" +- {error:.4f}" if np.isfinite(error) else ""
                eps = f" eps {float(here['eps']):g}" if "eps" in ds.dims else ""
                lost = int((~np.isfinite(here["loss"])).sum())
                odd = f" ({lost} of {here['loss'].size} cells hold no finite loss)" if lost else ""
                barrier = f"{float(here['barrier']):.4f}{shown}"
                yield f"{way:5s} {subset:5s}{eps} barrier {barrier} nat{odd}"


def scan(ds: xr.Dataset) -> Iterator[str]:
    """How much of the grid is computed, and the range of its values."""
    done = ds["done"].values if "done" in ds else np.ones(ds["loss"].shape, dtype=bool)
    if not done.all():
        yield f"{int(done.sum())} of {done.size} cells are computed"
    lost = int((done & ~np.isfinite(ds["loss"].values)).sum())
    if lost:
        yield f"{lost} of {done.size} cells hold no finite loss"


def trajectory(ds: xr.Dataset) -> Iterator[str]:
    """Curvature, distance and flatness by epoch."""
    for epoch, row in _rows(ds, "epoch"):
        yield (f"epoch {epoch:4d}  robust loss {row['loss']:.3f}  lambda_max "
               f"{row['lambda_max']:9.3f} (residual {row['residual']:.0e})  trace "
               f"{row['trace']:9.1f} +- {row['trace_se']:.1f}  distance {row['distance']:.2f}  "
               f"flatness {row['flatness']:.3f} +- {row['flatness_se']:.3f}  sharpness "
               f"{row['sharpness']:.3f}")  # fmt: skip
    if "barrier" in ds:
        lost = " (a loss on the way is not finite)" if ds["barrier"].isnull() else ""
        yield (f"barrier from best to last: {float(ds['barrier']):.3f} nat at t = "
               f"{float(ds['barrier_at']):.1f}{lost}")  # fmt: skip


def cka(ds: xr.Dataset) -> Iterator[str]:
    """CKA of every layer with its error."""
    if "diagonal" in ds:
        for layer, row in _rows(ds, "layer"):
            error = float(row["diagonal_se"])
            yield f"{layer:30s} {row['diagonal']:.4f}" + f" +- {error:.4f}" * (error == error)
        none = int(ds["diagonal"].isnull().sum())
        why = f" ({none} layers have no CKA: features all equal, or not finite)" if none else ""
        yield f"mean over layers {float(ds['mean_diagonal']):.4f}{why}"
    count = int(ds.attrs["minibatches"])
    yield (
        "1 minibatch: no error, which needs several (a smaller --minibatch)"
        if count == 1
        else f"{count} minibatches"
    )


def robustness(ds: xr.Dataset) -> Iterator[str]:
    """Accuracy with its interval, loss with its error, by condition."""
    for condition, row in _rows(ds, "condition"):
        yield (
            f"{condition:11s} accuracy {row['accuracy']:.4f} "
            f"[{row['accuracy_low']:.4f}, {row['accuracy_high']:.4f}]  "
            f"loss {row['loss']:.4f} +- {row['loss_se']:.4f}"
            + (f"  NRR {row['nrr']:.4f}" if condition != "clean" else "")
        )
        if np.isfinite(row.get("forward_passes", np.nan)):
            share = float(ds["success"].sel(condition=condition).mean())
            yield (f"{'':11s} {row['forward_passes']:.1f} passes forward and "
                   f"{row['backward_passes']:.1f} back per example; some image within the budget "
                   f"fools {share:.4f}")  # fmt: skip
    if "smallest_budget" in ds:
        found = ds["smallest_budget"].values
        none = int(np.isinf(found).sum())
        yield (f"smallest budget that fools: median {np.median(found):.4g}"
               + (f"; none found for {none} of {len(found)}" if none else ""))  # fmt: skip
    yield from filter(None, [ds.attrs.get("randomised")])
    yield from trust(ds)


def fourier(ds: xr.Dataset) -> Iterator[str]:
    """Error rates over frequencies, and the cutoffs at half of the accuracy."""
    yield (
        f"error rate: clean {float(ds['clean_error']):.3f}, low over high frequencies "
        f"{float(ds['low_high_ratio']):.2f}; half of the accuracy at low-pass "
        f"{float(ds['half_low']):.2f}, high-pass {float(ds['half_high']):.2f}"
    )


def _collapse(epoch: float) -> str:
    return "no collapse" if np.isnan(epoch) else f"first collapse at epoch {epoch:g}"


def generator(ds: xr.Dataset) -> Iterator[str]:
    """Transfer, robustness and gap by epoch, and whether the reference is good enough to judge."""
    for epoch, row in _rows(ds, "epoch"):
        yield (f"epoch {epoch:4d}  clean {row['clean']:.3f}  robust {row['robust']:.3f}  "
               f"transfer {row['transfer']:.3f}  strength {row['strength']:.2f}  "
               f"gap {row['gap']:.3f}  alignment {row['alignment']:.2f}")  # fmt: skip
    yield (f"reference: random signs {float(ds['random']):.3f}, strong attack "
           f"{float(ds['reference_strong']):.3f}; robust accuracy best {float(ds['best']):.3f}, "
           f"last {float(ds['last']):.3f}, {_collapse(float(ds['collapse_epoch']))}")  # fmt: skip
    if not float(ds["random"]) > float(ds["reference_strong"]):
        yield ("WARNING, the strong attack lowers the reference's accuracy no more than random "
               "signs do: transfer cannot be judged; name a trained reference")  # fmt: skip


def similarity(ds: xr.Dataset) -> Iterator[str]:
    """Cosines of every pair of networks, with the noise floor."""
    for subset in ds["subset"].values:
        for i, a in enumerate(ds["set_a"].values):
            for j, b in list(enumerate(ds["set_b"].values))[i:]:
                row = ds.sel(subset=subset).isel(set_a=i, set_b=j)
                yield (
                    f"{subset:5s} {a} / {b}{' (noise floor)' * (i == j)}: "
                    f"cosine {float(row['cosine']):.4f} +- {float(row['cosine_se']):.4f}, "
                    f"sign cosine {float(row['sign_cosine']):.4f} "
                    f"+- {float(row['sign_cosine_se']):.4f}, zero perturbations {row['zeros']:.0f}"
                )


def corruptions(ds: xr.Dataset) -> Iterator[str]:
    """Accuracy by corruption and severity, and the mean."""
    for name in ds["corruption"].values:
        row = ds["accuracy"].sel(corruption=name).values
        yield f"{name:18s} " + " ".join(f"{value:.3f}" for value in row)
    for name, row in _rows(ds, "group") if "group_accuracy" in ds else ():
        yield f"{name:18s} mean {row['group_accuracy']:.3f} +- {row['group_accuracy_se']:.3f}"
    yield (f"clean {float(ds['clean_accuracy']):.3f}, mean under corruptions "
           f"{float(ds['mean_accuracy']):.3f} +- {float(ds['mean_accuracy_se']):.3f}")  # fmt: skip


def spectrum(ds: xr.Dataset) -> Iterator[str]:
    """High-frequency share and centroid of every layer's filters."""
    for layer in ds["layer"].values:
        row = ds.sel(layer=layer)
        before = "initial_high_share" in ds
        yield (
            f"{layer:40s} K={int(row['kernel_size'])}  high-frequency share "
            f"{float(row['high_share']):.3f} +- {float(row['high_share_se']):.3f} "
            f"(white {float(row['white_high_share']):.3f}"
            + (f", initial {float(row['initial_high_share']):.3f}" if before else "")
            + f")  centroid {float(row['centroid']):.3f}"
            + ("" if bool(row["seen"]) else "  MAP SMALLER THAN KERNEL")
        )


def distance(ds: xr.Dataset) -> Iterator[str]:
    """Distance of every parameter tensor, and of all."""
    for name, row in _rows(ds, "parameter"):
        yield (f"{name:30s} distance {row['distance']:10.4f}  relative {row['relative']:8.4f}  "
               f"cosine {row['cosine']:8.4f}")  # fmt: skip
    yield (f"{'total':30s} distance {float(ds['total_distance']):10.4f}  "
           f"relative {float(ds['total_relative']):8.4f}")  # fmt: skip


def spectral_bias(ds: xr.Dataset) -> Iterator[str]:
    """The rank correlation with its interval."""
    yield (f"Spearman rho {float(ds['rho']):.2f} [{float(ds['rho_low']):.2f}, "
           f"{float(ds['rho_high']):.2f}], p {float(ds['p_value']):.2g}, "
           f"{ds.sizes['network']} networks")  # fmt: skip


def overfitting(ds: xr.Dataset) -> Iterator[str]:
    """Best, last and gap of every method, in percent with their intervals over seeds."""
    width = max(6, *(len(str(m)) for m in ds["label"].values))
    yield (f"{'method':{width}s}  robust best      last             gap              clean last  "
           "NRR    seeds")  # fmt: skip
    for method in ds["label"].values:
        row = ds.sel(label=method)
        shown = "  ".join(
            f"{100 * float(row[c]):5.1f} +- {100 * float(row[f'{c}_ci']):5.1f}"
            for c in ("best", "last", "gap")
        )
        seeds = int(row["best_by_seed"].notnull().sum())
        yield (f"{method!s:{width}s}  {shown}  {100 * float(row['clean_last']):5.1f}      "
               f"{float(row['nrr_last']):.3f}  {seeds}")  # fmt: skip
    if bool((ds["chosen_on_test_by_seed"] == 1).any()):
        yield "some best epochs were chosen on the test set: train with --val_fraction"
    yield "accuracies in %, +- the 95 % interval over seeds"


def scattering(ds: xr.Dataset) -> Iterator[str]:
    """Similarity and scatter by direction and distance, and the noise floor."""
    for eps in ds["eps"].values:
        level = ds.sel(eps=eps)
        floor, gradient = float(level["floor_cosine"]), float(level["gradient_norm"])
        yield (f"eps {eps:g}: cosine of two attack seeds at the weights {floor:.3f}, gradient "
               f"{gradient:.3g}")  # fmt: skip
        for name in ds["direction"].values:
            here = level.sel(direction=name)
            for n, far in enumerate(ds["distance"].values):
                row, scatter = here.isel(distance=n), here["scatter"].isel(distance=n)
                same = row.sel(pair="same_seed")
                yield (f"{name:12s} distance {far:8.4g}  cosine {float(same['cosine']):.3f} +- "
                       f"{float(same['cosine_se']):.3f}  flipped {float(same['flipped']):.3f}  "
                       f"scatter {float(scatter.sel(part='total')):.3g} (frozen "
                       f"{float(scatter.sel(part='frozen')):.3g}, moving "
                       f"{float(scatter.sel(part='moving')):.3g})")  # fmt: skip
            total = here.sel(part="total")
            yield (f"{name:12s} scatter = {float(total['intercept']):.3g} +- "
                   f"{float(total['intercept_se']):.2g} + ({float(total['slope']):.3g} +- "
                   f"{float(total['slope_se']):.2g}) distance")  # fmt: skip


#: kind of result -> its lines of text
REPORTS: dict[str, Callable[[xr.Dataset], Iterator[str]]] = {
    "hessian": hessian,
    "scan": scan,
    "curve": curve,
    "trajectory": trajectory,
    "cka": cka,
    "robustness": robustness,
    "budgets": budgets_report,
    "fourier": fourier,
    "generator": generator,
    "similarity": similarity,
    "corruptions": corruptions,
    "spectrum": spectrum,
    "distance": distance,
    "spectral_bias": spectral_bias,
    "overfitting": overfitting,
    "scattering": scattering,
    **words.REPORTS,
}
