"""Pairwise matrices of many networks: distance, perturbations, barrier and features."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Annotated, Any

import numpy as np
import scipy  # its parts are loaded when used
import torch
import xarray as xr
from torch import Tensor

from ridgeline.analysis.cka import cka, layers_of
from ridgeline.landscape.problem import Problem
from ridgeline.landscape.resume import Keep, at_once
from ridgeline.landscape.weights.point import combine, norm, subtract
from ridgeline.models.errors import InputError
from ridgeline.train.options import Opt, Options
from ridgeline.train.statistics import mean_and_error

#: measure of a pair -> whether a larger value means more similar
MATRICES = {"distance": False, "cosine": True, "barrier": False, "cka": True}


@dataclass(frozen=True)
class PairOptions(Options):
    """The resolution of the barrier, and the minibatch of CKA."""

    places: Annotated[int, Opt("points between two networks for the barrier", low=1)] = 9
    minibatch: Annotated[int, Opt("examples in one estimate of CKA", low=4)] = 200


def pairs(
    problems: Mapping[str, Problem],
    *,
    places: int = 9,
    minibatch: int = 200,
    keep: Keep = at_once,
    tick: Callable[[int], Any] | None = None,
) -> xr.Dataset:
    """Four matrices over `network_a` and `network_b`; `dendrogram_of` sorts them.

    Args:
        problems: The networks by name, each with its attack if it has one.
        places: Number of points between two networks at which the loss is computed.
        minibatch: Examples in one estimate of CKA.
        keep: Stores finished pairs (`landscape.resume`).
        tick: Called with the number of examples after every pair.

    Returns:
        `distance`: Euclidean distance of the parameters.
        `cosine`: mean over examples of the cosine of the adversarial perturbations, with
        `cosine_se`. NaN without an attack.
        `barrier`: largest rise of the loss along the straight line of weights, above the straight
        line between the two end losses. In nats, not below 0. BatchNorm keeps the statistics of
        the first network. With an attack it is the robust loss, attacked at every point.
        `cka`: linear CKA of equal layers on clean images, mean over layers.
        Distance, barrier and CKA are NaN for two different architectures.

    Raises:
        InputError: for fewer than 2 networks.
    """
    names = list(problems)
    if len(names) < 2:
        raise InputError(f"pairs need 2 or more networks, got {len(names)}")
    tick = tick or (lambda n: None)
    moved = {n: _perturbations(p) for n, p in problems.items()}
    shapes = [{n: t.shape for n, t in p.origin.items()} for p in problems.values()]
    # the losses of the ends, once each; before all pairs, because `keep` needs one order of calls
    ends = {n: p.evaluate().loss for (n, p), s in zip(problems.items(), shapes, strict=True)
            if shapes.count(s) > 1}  # fmt: skip
    size = len(names)
    table = {n: np.full((size, size), np.nan) for n in (*MATRICES, "cosine_se")}
    for number in range(size):
        table["distance"][number, number] = table["barrier"][number, number] = 0.0
        table["cka"][number, number] = 1.0
        if moved[names[number]] is not None:
            table["cosine"][number, number], table["cosine_se"][number, number] = 1.0, 0.0
    for i, j in combinations(range(size), 2):
        a, b = names[i], names[j]

        def look(a=a, b=b, i=i, j=j):
            found = _alike(moved[a], moved[b])
            if shapes[i] == shapes[j]:
                found |= _near(problems[a], problems[b], (ends[a], ends[b]), places, minibatch)
            return found

        found = keep(f"{a} and {b}", look)
        for name, matrix in table.items():
            matrix[i, j] = matrix[j, i] = float(found[name])
        tick(len(problems[a].data))
    dims = ("network_a", "network_b")
    return xr.Dataset(
        {n: (dims, v) for n, v in table.items()}, coords={"network_a": names, "network_b": names}
    )


def dendrogram_of(matrix: np.ndarray, alike: bool) -> np.ndarray:
    """Average linkage (n - 1, 4), in scipy's format, of a matrix of (dis)similarities (n, n).

    `alike`: larger means more similar, and 1 - value is the distance. Raises InputError for NaN
    entries.

    >>> far = np.array([[0.0, 1.0, 5.0], [1.0, 0.0, 5.0], [5.0, 5.0, 0.0]])
    >>> dendrogram_of(far, alike=False)[0, :3].tolist()  # networks 0 and 1, at distance 1
    [0.0, 1.0, 1.0]
    """
    far = 1 - matrix if alike else matrix
    if not np.isfinite(far).all():
        raise InputError("a dendrogram needs a number for every pair")
    far = (far + far.T) / 2
    np.fill_diagonal(far, 0)
    close = scipy.spatial.distance.squareform(far.clip(0), checks=False)
    return scipy.cluster.hierarchy.linkage(close, method="average")


def _perturbations(problem: Problem) -> Tensor | None:
    if problem.attack is None:
        return None
    return torch.cat(
        [(x - batch.x).flatten(1).double().cpu() for batch, x in problem.adversarial()]
    )


def _alike(one: Tensor | None, two: Tensor | None) -> dict[str, float]:
    """The measures that need only the perturbations of two networks; the others are NaN."""
    found = dict.fromkeys((*MATRICES, "cosine_se"), float("nan"))
    if one is not None and two is not None:
        cosines = torch.nn.functional.cosine_similarity(one, two)
        found["cosine"], found["cosine_se"] = mean_and_error(cosines)
    return found


def _near(
    first: Problem, other: Problem, ends: tuple[float, float], places: int, minibatch: int
) -> dict[str, float]:
    """The measures of two networks of one architecture; `ends` are their losses."""
    found = {"distance": norm(subtract(other.origin, first.origin)),
             "barrier": _barrier(first, other, ends, places)}  # fmt: skip
    layers = [layers_of(p.network) for p in (first, other)]
    if layers[0] == layers[1] and len(first.data) >= 4:
        clean = [p.under(None) for p in (first, other)]
        found["cka"] = float(cka(*clean, minibatch=minibatch)["mean_diagonal"])
    return found


def _barrier(first: Problem, other: Problem, ends: tuple[float, float], places: int) -> float:
    highest = 0.0
    for t in np.linspace(0, 1, places + 2)[1:-1]:
        point = combine((1 - t, float(t)), (first.origin, other.origin))
        highest = max(highest, first.evaluate(point).loss - (1 - t) * ends[0] - t * ends[1])
    return float(highest)
