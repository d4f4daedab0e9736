"""The outer end of a spectrum by restarted Lanczos, with the copies of repeated eigenvalues."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from landscape.operators import Products
from train.noise import Purpose, stream

#: end of the spectrum -> what an eigenvalue is ranked by, the most wanted first
RANKS: dict[str, Callable[[Tensor], Tensor]] = {
    "LA": lambda values: values,
    "SA": lambda values: -values,
    "LM": lambda values: values.abs(),
}
_CHECK = 5  # products between looks at the pairs
_ROUNDINGS = 10  # of the operator's scale, that products in its precision may be off by
_CERTAIN = 10  # how far a copy would outgrow the rest of a random vector before it is ruled out


@dataclass(frozen=True)
class Rule:
    """When a pair has converged: its residual is at most tol * max(|value|, scale / 100).

    `scale` is the largest magnitude of the operator's Ritz values: an eigenvalue 0 could never
    meet a share of itself. What rounding leaves (`epsilon` of the products' dtype) is allowed
    whatever `tol` asks; tol = 0 asks for that.
    """

    tol: float
    epsilon: float

    def rounding(self, scale: float) -> float:
        """The residual that rounding of the products alone can leave."""
        return _ROUNDINGS * self.epsilon * scale

    def asked(self, values: Tensor, scale: float) -> Tensor:
        """The residuals (k,) that the tolerance asks for."""
        return self.tol * values.abs().clamp_min(scale / 100)

    def allowed(self, values: Tensor, scale: float) -> Tensor:
        """The residuals (k,) up to which pairs have converged."""
        return self.asked(values, scale).clamp_min(self.rounding(scale))


class Ritz(NamedTuple):
    """Approximate eigenpairs, most wanted first: values (k,), unit vectors (P, k), residuals (k,).

    `scale` is the operator's, for `Rule`; `complete` says that missing copies of repeated
    eigenvalues were looked for until none could be left.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    scale: float
    complete: bool


class _Search(NamedTuple):
    """A Krylov space that looks for missing copies: its first row, and the pairs' ranks before."""

    first: int
    before: Tensor


def outermost(
    operator: Products, k: int, which: str, rule: Rule, restarts: int, seed: int
) -> Ritz:  # fmt: skip
    """The k outermost eigenpairs by thick-restart Lanczos (Wu and Simon 2000), as far as it came.

    A Krylov space meets an eigenvalue once, however often it is repeated. When all pairs have
    converged, a random vector orthogonal to what is kept therefore starts another one, in which a
    missing copy is outermost; it goes on until the copy would have outgrown all else (Chebyshev
    polynomials, Saad 1980). What turns up is iterated in its turn, until nothing does. Copies of
    the last value change nothing and are not looked for.
    """
    rank, capacity = RANKS[which], min(operator.shape[0], 2 * k + 20)
    space, search = _Space(operator, capacity, seed), None
    space.draw()
    for _ in range(restarts):
        while not space.full:
            space.extend()
            if not space.full and (space.count % _CHECK or space.count < k):
                continue
            values, weights = space.ritz(rank)
            ranks, tolerance = rank(values), rule.allowed(values[:k], space.scale)
            if search and (ranks[:k] > search.before + tolerance).any():
                search = None  # a pair has come that was missing
            residuals = space.residuals(values[:k], weights[:, :k], tolerance)
            if not (residuals <= tolerance).all():
                continue
            above = ranks[:k][ranks[:k] > ranks[k - 1] + tolerance[-1]]
            done = space.exhausted or not len(above)
            if search and not done:
                rest = rank(torch.linalg.eigvalsh(space.projected(search.first)))
                low = -rest.max() if which == "LM" else ranks.min()
                done = space.since_draw >= _growth(above[-1], rest.max(), low, operator.shape[0])
            if done:
                return Ritz(values[:k], space.vectors(weights[:, :k]), residuals, space.scale, True)
            if search is None:
                space.compress(values, weights, k + (capacity - k) // 4)
                search = _Search(space.count, ranks[:k])
                space.draw()
        values, weights = space.ritz(rank)
        space.restart(values, weights, k, k + (capacity - k) // 2)
        search = search and _Search(space.count, search.before)
    values, vectors = values[:k], space.basis[:k].T.clone()
    return Ritz(values, vectors, space.distances(values), space.scale, False)


def _growth(target: Tensor, high: Tensor, low: Tensor, size: int) -> float:
    """Steps after which a random vector of that size is mostly an eigenvector of rank `target`.

    All other ranks lie in low..high; infinite if that includes the target.
    """
    if target <= high:
        return math.inf
    middle, half = (high + low) / 2, ((high - low) / 2).clamp_min(1e-300)
    return math.acosh(_CERTAIN * size**0.5) / math.acosh((target - middle) / half)


class _Space:
    """An orthonormal basis V (n, P) on the host in float64, its images H V, and V H V'.

    Rows are orthogonalised twice against all others. The last row may still lack its image;
    `count` rows have one.
    """

    def __init__(self, operator: Products, capacity: int, seed: int):
        size = operator.shape[0]
        self.operator, self.seed, self.capacity = operator, seed, capacity
        self.basis = torch.empty(capacity, size, dtype=torch.float64)
        self.images = torch.empty(capacity, size, dtype=operator.dtype)
        self.matrix = torch.zeros(capacity, capacity, dtype=torch.float64)
        self.count = self.draws = self.since_draw = 0
        self.scale = 0.0

    @property
    def full(self) -> bool:
        """Whether no row is left."""
        return self.count == self.capacity

    @property
    def exhausted(self) -> bool:
        """Whether the basis spans everything."""
        return self.count == self.operator.shape[0]

    def draw(self) -> None:
        """The next row: a random vector, a function of the seed and the number of draws."""
        noise = stream(self.seed, Purpose.LANCZOS_START, self.draws)
        self.draws, self.since_draw = self.draws + 1, 0
        self._append(torch.from_numpy(noise.standard_normal(self.operator.shape[0])))

    def extend(self) -> None:
        """The image of the last row, and what of it is new as the next row."""
        n = self.count
        image = self.operator.matvec(self.basis[n]).cpu()
        self.images[n] = image
        image = image.double()
        column = self.basis[: n + 1] @ image
        self.matrix[n, : n + 1] = self.matrix[: n + 1, n] = column
        self.count, self.since_draw = n + 1, self.since_draw + 1
        self.scale = max(self.scale, torch.linalg.vector_norm(image).item())
        if not self.full:
            self._append(image)

    def ritz(self, rank: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Ritz values (n,) in order of rank, and their weights (n, n) in the basis."""
        values, weights = torch.linalg.eigh(self.matrix[: self.count, : self.count])
        order = torch.argsort(rank(values), descending=True, stable=True)
        self.scale = max(self.scale, values.abs().max().item())
        return values[order], weights[:, order]

    def projected(self, first: int) -> Tensor:
        """The operator on the rows from `first` on."""
        return self.matrix[first : self.count, first : self.count]
