"""The outer end of a spectrum by restarted Lanczos, with the copies of repeated eigenvalues."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ridgeline.landscape.curvature.basis import Rows
from ridgeline.landscape.curvature.operators import Products
from ridgeline.train.data.noise import Purpose, stream

#: end of the spectrum -> what an eigenvalue is ranked by, the most wanted first
RANKS: dict[str, Callable[[Tensor], Tensor]] = {
    "LA": lambda values: values,
    "SA": lambda values: -values,
    "LM": lambda values: values.abs(),
}
_CHECK = 5  # products between looks at the pairs
_ROUNDINGS = 10  # of the operator's scale, that products in its precision may be off by
_IDLE = 5  # restarts without a halved residual after which none is expected any more
_NEAR = 100  # times rounding, up to which that is put down to rounding
_CERTAIN = 1000  # times that a copy of mean weight must have outgrown the rest of a random vector


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

    `scale` is the operator's, for `Rule`; `sure` (k,) says of which eigenvalues no copy can be
    missing; `floor` is the residual near rounding at which restarts no longer helped (0 if that
    was not met).
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    scale: float
    sure: Tensor
    floor: float = 0.0


class _Search(NamedTuple):
    """A Krylov space that looks for missing copies: its first row, and the pairs' ranks before."""

    first: int
    before: Tensor


def outermost(
    operator: Products, k: int, which: str, rule: Rule, restarts: int, seed: int, copies: float
) -> Ritz:
    """The k outermost eigenpairs by thick-restart Lanczos (Wu and Simon 2000), as far as it came.

    A Krylov space meets an eigenvalue once, however often it is repeated. When all pairs have
    converged, a random vector orthogonal to what is kept therefore starts another one, in which a
    missing copy is outermost; it goes on until the copy would have outgrown all else (Chebyshev
    polynomials, Saad 1980), or has taken the share `copies` of the products made before. What
    turns up is iterated in its turn, until nothing does. Copies of the last value change nothing
    and are not looked for.
    """
    rank, capacity = RANKS[which], min(operator.shape[0], 2 * k + 20)
    floor, best, idle, spent, limit = 0.0, math.inf, 0, 0, 0.0
    space, search = _Space(operator, capacity, seed), None
    space.draw()
    for _ in range(restarts):
        while not space.full:
            space.extend()
            spent += 1
            if not space.full and (space.count % _CHECK or space.count < k):
                continue
            values, weights = space.ritz(rank)
            ranks = rank(values)
            tolerance = rule.allowed(values[:k], space.scale).clamp_min(floor)
            if search and (ranks[:k] > search.before + tolerance).any():
                search = None  # a pair has come that was missing
            residuals = space.residuals(values[:k], weights[:, :k], tolerance)
            if not (residuals <= tolerance).all():
                continue
            sure = ranks[:k] <= ranks[k - 1] + tolerance[-1]
            sure |= space.exhausted or (search is not None and space.closed)
            if search and not sure.all():
                rest = rank(torch.linalg.eigvalsh(space.projected(search.first)))
                # the kept vectors do not show the other end of the spectrum: the scale bounds it
                needed = [_growth(float(r), float(rest.max()), -space.scale, len(space))
                          for r in ranks[:k]]  # fmt: skip
                sure |= torch.tensor(needed).clamp_min(_CHECK) < space.since_draw
            if sure.all() or (search and space.since_draw >= limit):
                vectors = space.vectors(weights[:, :k])
                return Ritz(values[:k], vectors, residuals, space.scale, sure, floor)
            if search is None:
                limit = max(copies * spent, 2 * _CHECK)
                space.compress(values, weights, k + (capacity - k) // 4)
                search = _Search(space.count, ranks[:k])
                space.draw()
        values, weights = space.ritz(rank)
        space.compress(values, weights, k + (capacity - k) // 2)
        residuals = space.restart(values[:k], following=search is not None)
        worst = residuals.max().item()
        idle, best = (0, worst) if worst < best / 2 else (idle + 1, best)
        if idle >= _IDLE and worst <= _NEAR * rule.rounding(space.scale):
            floor = max(floor, 2 * worst)  # further restarts add rounding and take nothing away
        # all but the pairs themselves tells what else there is, not the few rows since the restart
        search = search and _Search(k, search.before)
    sure = torch.zeros(k, dtype=torch.bool)
    return Ritz(
        values[:k],
        space.vectors(torch.eye(k, dtype=torch.float64)),
        residuals,
        space.scale,
        sure,
        floor,
    )


def _growth(target: float, high: float, low: float, size: int) -> float:
    """Steps after which a random vector of that size is mostly an eigenvector of rank `target`.

    All other ranks lie in low..high; infinite if that includes the target.
    """
    if target <= high:
        return math.inf
    half = max((high - low) / 2, 1e-300)
    beyond = math.acosh(max(1 + (target - high) / half, 1 + 1e-12))
    return math.acosh(_CERTAIN * size**0.5) / beyond


class _Space:
    """An orthonormal basis V (n, P), its images H V where it lies, and V H V' on the host.

    `count` rows have images; one more waits for its own unless the basis is full. `closed` says
    that the Krylov space of the last draw came to its end, so that another was begun.
    """

    def __init__(self, operator: Products, capacity: int, seed: int):
        size = operator.shape[0]
        self.operator, self.seed, self.capacity = operator, seed, capacity
        self.basis = Rows(operator, capacity, beside=capacity)
        self.images = torch.empty(capacity, size, dtype=operator.dtype, device=self.basis.device)
        self.matrix = torch.zeros(capacity, capacity, dtype=torch.float64)
        self.count = self.draws = self.since_draw = 0
        self.scale, self.closed = 0.0, False
        self._epsilon = torch.finfo(operator.dtype).eps
        self._rest: Tensor | None = None

    def __len__(self) -> int:
        return self.operator.shape[0]

    @property
    def full(self) -> bool:
        """Whether no row is left."""
        return self.count == self.capacity

    @property
    def exhausted(self) -> bool:
        """Whether the basis spans everything."""
        return self.count == len(self)

    def draw(self) -> None:
        """The next row: a random vector, a function of the seed and the number of draws."""
        noise = stream(self.seed, Purpose.LANCZOS_START, self.draws).standard_normal(len(self))
        self.draws, self.since_draw, self.closed = self.draws + 1, 0, False
        self._append(self._rest_of(self.basis.own(torch.from_numpy(noise))), 0.0)

    def extend(self) -> None:
        """The image of the last row, and what of it is new as the next row."""
        n = self.count
        self.images[n] = self.operator.matvec(self.basis[n]).to(self.images.device)
        image = self.images[n].double()
        self.count, self.since_draw = n + 1, self.since_draw + 1
        self.matrix[n, : n + 1] = self.matrix[: n + 1, n] = self.basis.dots(n + 1, image)
        self.scale = max(self.scale, torch.linalg.vector_norm(image).item())
        self._rest = self._rest_of(image)
        if not self.full:
            self._append(self._rest, Rule(0, self._epsilon).rounding(self.scale))

    def ritz(self, rank: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Ritz values (n,) in order of rank, and their weights (n, n) in the basis."""
        values, weights = torch.linalg.eigh(self.matrix[: self.count, : self.count])
        order = torch.argsort(rank(values), descending=True, stable=True)
        self.scale = max(self.scale, values.abs().max().item())
        return values[order], weights[:, order]

    def projected(self, first: int) -> Tensor:
        """The operator on the rows from `first` on."""
        return self.matrix[first : self.count, first : self.count]

    def residuals(self, values: Tensor, weights: Tensor, tolerance: Tensor) -> Tensor:
        """||Hv - value v|| (k,) of Ritz vectors; all infinite if the last exceeds its tolerance."""
        last = self._distances(values[-1:], weights[:, -1:])
        if last > tolerance[-1]:
            return torch.full_like(values, torch.inf)
        return self._distances(values, weights)

    def vectors(self, weights: Tensor) -> Tensor:
        """The combinations (P, k) of the basis with these weights (n, k)."""
        return self.basis.combined(weights)

    def compress(self, values: Tensor, weights: Tensor, keep: int) -> None:
        """The basis of the first `keep` Ritz vectors."""
        keep, n = min(keep, self.count), self.count
        mix, rows = weights[:, :keep].T.to(self.basis.device), self.basis.values

        def mixed(cut: slice) -> None:
            row = (mix @ rows[:n, cut].double()).to(rows.dtype)
            image = (mix @ self.images[:n, cut].double()).to(self.images.dtype)
            rows[:keep, cut], self.images[:keep, cut] = row, image

        self.basis.by_pieces(mixed)
        self.matrix.zero_()
        self.matrix[:keep, :keep] = torch.diag(values[:keep])
        self.count = keep

    def restart(self, values: Tensor, following: bool) -> Tensor:
        """The next row after `compress`; returns the residuals (k,) of the first pairs.

        It is the largest of their residuals, or what the last image left if `following` it.
        """
        k = len(values)
        distances = self._distances(values, torch.eye(self.count, dtype=torch.float64)[:, :k])
        worst = int(distances.argmax())
        rest = self.images[worst].double() - values[worst].item() * self.basis[worst].double()
        rest = self._rest if following else rest
        self._append(self._rest_of(rest), 1e-10 * torch.linalg.vector_norm(rest).item())
        return distances

    def _append(self, row: Tensor, least: float) -> None:
        """An orthogonal row, or a random one if its length is at most `least`."""
        length = torch.linalg.vector_norm(row).item()
        if length <= least:
            self.draw()
            self.closed = True
        else:
            self.basis[self.count] = row / length

    def _rest_of(self, vector: Tensor) -> Tensor:
        """What of a vector is orthogonal to all rows."""
        return self.basis.rest_of(self.count, vector)

    def _distances(self, values: Tensor, weights: Tensor) -> Tensor:
        square = torch.zeros(len(values), dtype=torch.float64, device=self.basis.device)
        n = self.count
        mix, scaled = (w.T.to(self.basis.device) for w in (weights, weights * values))

        def add(cut: slice) -> None:
            off = mix @ self.images[:n, cut].double()
            off -= scaled @ self.basis.values[:n, cut].double()
            square.add_(off.square_().sum(1))

        self.basis.by_pieces(add)
        return square.sqrt().cpu()
