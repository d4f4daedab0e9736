"""Linear CKA: the similarity of the features of two networks, or of clean and attacked images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from ridgeline.analysis.statistics import jackknife
from ridgeline.landscape.problem import Problem
from ridgeline.landscape.resume import Values
from ridgeline.models.errors import InputError
from ridgeline.train.data.examples import Batch
from ridgeline.train.data.noise import Noise
from ridgeline.train.options import Opt, Options

LAYERS = (nn.Conv2d, nn.BatchNorm2d, nn.Linear, nn.MaxPool2d, nn.AvgPool2d)


def layers_of(network: nn.Module, kinds: Sequence[type[nn.Module]] = LAYERS) -> list[str]:
    """Names of the layers to compare, in module order. Raises InputError if there are none."""
    names = [n for n, m in network.named_modules() if isinstance(m, tuple(kinds))]
    if not names:
        raise InputError(f"{type(network).__name__} has no layer whose features could be compared")
    return names


def gram(features: Tensor) -> Tensor:
    """Gram matrix (N, N) of features (N, ...) with the diagonal zeroed, in float64.

    >>> gram(torch.tensor([[1.0], [2.0]])).tolist()
    [[0.0, 2.0], [2.0, 0.0]]
    """
    flat = features.flatten(1).double()
    matrix = flat @ flat.T
    return matrix.fill_diagonal_(0)


def hsic(k: Tensor, other: Tensor) -> Tensor:
    """Unbiased HSIC of Gram matrices (a, N, N) and (b, N, N) with zero diagonals, (a, b).

    Song et al. 2012, eq. 5: [tr(KL) + 1'K1 1'L1 / ((n-1)(n-2)) - 2 1'KL1 / (n-2)] / (n(n-3)).
    Raises InputError for fewer than 4 examples.
    """
    n = k.shape[-1]
    if n < 4:
        raise InputError(f"unbiased CKA needs batches of 4 or more examples, got {n}")
    rows, others = k.sum(-1), other.sum(-1)  # (a, N), (b, N)
    trace = k.flatten(1) @ other.flatten(1).T
    total = rows.sum(-1)[:, None] * others.sum(-1)[None, :] / ((n - 1) * (n - 2))
    return (trace + total - 2 / (n - 2) * rows @ others.T) / (n * (n - 3))


@dataclass(frozen=True)
class CkaOptions(Options):
    """How CKA is estimated."""

    minibatch: Annotated[
        int, Opt("examples in one unbiased estimate, all in memory together", low=4)
    ] = 200


def cka(
    first: Problem,
    second: Problem | None = None,
    *,
    minibatch: int = 200,
    kinds: Sequence[type[nn.Module]] = LAYERS,
    tick: Callable[[int], None] | None = None,
) -> xr.Dataset:
    """Linear CKA of every layer with every other (Nguyen et al. 2021, eqs. 2 to 4).

    Without `second` it compares the features of clean images (dim `layer_a`) with those of the
    same images under the problem's attack (`layer_b`), as in Gowda et al. 2024, figure 3. With
    `second` it compares two networks on the same images, each under its own attack if it has one.

    Args:
        first: The problem.
        second: The other problem, or None.
        minibatch: Examples in one estimate of HSIC, in memory together. HSIC is the mean over
            minibatches. A last minibatch of fewer than 4 examples is left out.
        kinds: Types of the layers that are compared.
        tick: Called with the number of examples after every minibatch.

    Returns:
        `cka` over (`layer_a`, `layer_b`). Its estimate is unbiased, so it may be slightly below 0.
        If both have the same layers, also `diagonal` (equal layers) with `diagonal_se`, a jackknife
        over minibatches, and `mean_diagonal`. A layer whose features are all equal or not finite
        gives NaN; then `mean_diagonal` is NaN too.

    Raises:
        InputError: without an attack and without `second`, and for fewer than 4 examples.

    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    >>> images = torch.rand(8, 1, 2, 2), torch.arange(8) % 3
    >>> problem = Problem(network, images)
    >>> round(float(cka(problem, problem)["mean_diagonal"]), 6)  # a network and itself
    1.0
    """
    if second is None and first.attack is None:
        raise InputError("clean and adversarial features need an attack")
    tick = tick or (lambda n: None)
    sides = (first.under(None), first) if second is None else (first, second)
    names = [layers_of(p.network, kinds) for p in sides]
    found: list[Values] = []
    for batch in first.images.batches(minibatch, device=first.device, dtype=first.dtype):
        if len(batch.y) < 4:
            continue
        look = partial(_overlaps, sides, names, batch)
        found.append(first.keep(f"minibatch {len(found)}", look))
        tick(len(batch.y))
    if not found:
        raise InputError("CKA needs a minibatch of 4 or more examples")
    parts = [torch.stack([each[n] for each in found]).numpy() for n in ("cross", "left", "right")]
    values = _ratio(*parts)
    ds = xr.Dataset(
        {"cka": (("layer_a", "layer_b"), values)},
        coords={"layer_a": names[0], "layer_b": names[1]},
        attrs={"minibatches": len(found)},
    )
    if names[0] == names[1]:
        ds["diagonal"] = ("layer", np.diag(values))
        several = len(found) > 1  # a single minibatch gives no standard error
        error = jackknife(_without_each(parts)) if several else np.full(len(values), np.nan)
        ds["diagonal_se"] = ("layer", error)
        ds["mean_diagonal"] = float(np.diag(values).mean())
        ds = ds.assign_coords(layer=names[0])
    return ds


def _overlaps(
    sides: Sequence[Problem], names: Sequence[Sequence[str]], batch: Batch
) -> dict[str, Tensor]:
    """HSICs of one minibatch: `cross` (a, b) of both sides, `left` (a,), `right` (b,) of each."""
    views = []
    for problem, layers in zip(sides, names, strict=True):
        predict, x = problem.predict(problem.origin), batch.x.to(problem.dtype)
        if problem.attack is not None:
            x = problem.attack(predict, x, batch.y, Noise(sides[0].seed, batch.index))
        views.append(_grams(problem, predict, x, layers))
    own = [torch.stack([hsic(k[None], k[None])[0, 0] for k in view]) for view in views]
    return {"cross": hsic(*views).cpu(), "left": own[0].cpu(), "right": own[1].cpu()}


def _ratio(cross: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """CKA from HSICs of minibatches: (n, a, b), (n, a), (n, b) -> (a, b); NaN for dead layers."""
    a, b = left.mean(0), right.mean(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return cross.mean(0) / np.sqrt(np.outer(np.where(a > 0, a, np.nan),
                                                np.where(b > 0, b, np.nan)))  # fmt: skip


def _without_each(parts: list[np.ndarray]) -> np.ndarray:
    """The diagonal's CKA with one minibatch left out, (minibatches, layers)."""
    rest = (tuple(np.delete(p, n, axis=0) for p in parts) for n in range(len(parts[0])))
    return np.stack([np.diag(_ratio(*each)) for each in rest])


def _grams(problem: Problem, predict, x: Tensor, names: Sequence[str]) -> Tensor:
    """Gram matrices (layers, N, N) of the named layers' outputs at x."""
    network, found = problem.network, {}

    def hook(name: str):
        return lambda module, inputs, output: found.__setitem__(name, gram(output.detach()))

    handles = [network.get_submodule(n).register_forward_hook(hook(n)) for n in names]
    try:
        with torch.no_grad():
            predict(x)
    finally:
        for handle in handles:
            handle.remove()
    missing = [n for n in names if n not in found]
    if missing:
        raise InputError(f"layer {missing[0]} is not called in the forward pass")
    return torch.stack([found[n] for n in names])
