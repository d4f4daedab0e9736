"""The outermost eigenpairs by restarted Lanczos, with copies of repeated eigenvalues."""

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

#: end of the spectrum -> rank of an eigenvalue; the largest ranks are wanted
RANKS: dict[str, Callable[[Tensor], Tensor]] = {
    "LA": lambda values: values,
    "SA": lambda values: -values,
    "LM": lambda values: values.abs(),
}
_CHECK = 5  # products between two checks of the pairs
_ROUNDINGS = 10  # units of rounding, times the operator's scale: the error of a product
_IDLE = 5  # restarts that have not halved the residual: further ones will not either
_NEAR = 100  # times the rounding error: a residual below this is attributed to rounding
_CERTAIN = 1000  # how much larger than the rest of a random vector a copy's part must have grown


@dataclass(frozen=True)
class Rule:
    """When a pair has converged: its residual is at most tol * max(|value|, scale / 100).

    `scale` is the largest magnitude of the operator's Ritz values. Without it an eigenvalue 0
    could never converge. A residual within rounding (`epsilon` of the products' dtype) is always
    allowed; tol = 0 allows only that.
    """

    tol: float
    epsilon: float

    def rounding(self, scale: float) -> float:
        """The residual that rounding of the products alone can cause."""
        return _ROUNDINGS * self.epsilon * scale

    def asked(self, values: Tensor, scale: float) -> Tensor:
        """The residuals (k,) that the tolerance asks for."""
        return self.tol * values.abs().clamp_min(scale / 100)

    def allowed(self, values: Tensor, scale: float) -> Tensor:
        """The residuals (k,) up to which pairs have converged."""
        return self.asked(values, scale).clamp_min(self.rounding(scale))


class Ritz(NamedTuple):
    """Approximate eigenpairs in order of rank: values (k,), unit vectors (P, k), residuals (k,).

    `scale` is the operator's, for `Rule`. `sure` (k,) is True where no copy of the eigenvalue can
    be missing. `floor` is the residual near rounding at which restarts no longer helped (0 if
    they always did).
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    scale: float
    sure: Tensor
    floor: float = 0.0


class _Search(NamedTuple):
    """A Krylov space that searches missing copies: its first row, and the pairs' ranks before."""

    first: int
    before: Tensor


def outermost(
    operator: Products, k: int, which: str, rule: Rule, restarts: int, seed: int, copies: float
) -> Ritz:
    """The k outermost eigenpairs by thick-restart Lanczos (Wu and Simon 2000), converged or not.

    A Krylov space contains only one vector for an eigenvalue, even if the eigenvalue is repeated.
    So there is a search for missing copies:

    1. When all pairs have converged, a random vector orthogonal to them starts a second Krylov
       space. In it, a missing copy is outermost.
    2. The search ends when the copy would be much larger than the rest of the random vector
       (Chebyshev polynomials, Saad 1980). It also ends after the share `copies` of the products
       made before.
    3. A copy that is found is iterated until it converges. Then the search starts again.

    Copies of the last value would not change the result and are not searched.
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
                search = None  # a missing pair was found
            residuals = space.residuals(values[:k], weights[:, :k], tolerance)
            if not (residuals <= tolerance).all():
                continue
            sure = ranks[:k] <= ranks[k - 1] + tolerance[-1]
            sure |= space.exhausted or (search is not None and space.closed)
            if search and not sure.all():
                rest = rank(torch.linalg.eigvalsh(space.projected(search.first)))
                # the basis may not contain the other end of the spectrum: the scale bounds it
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
            floor = max(floor, 2 * worst)  # further restarts only add rounding
        # the rest of the spectrum is judged by all rows but the pairs, not by the newest alone
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
    """Lanczos steps that turn a random vector (`size`,) into an eigenvector of rank `target`.

    All other ranks lie in low..high. Infinite if that range includes the target.
    """
    if target <= high:
        return math.inf
    half = max((high - low) / 2, 1e-300)
    beyond = math.acosh(max(1 + (target - high) / half, 1 + 1e-12))
    return math.acosh(_CERTAIN * size**0.5) / beyond


class _Space:
    """An orthonormal basis V (n, P), its images H V on the same device, and V H V' on the host.

    `count` rows have images. One further row has none yet, unless the basis is full. `closed`
    says that the Krylov space became invariant, so a random row started another one.
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
        """Append a random row, determined by the seed and the number of draws."""
        noise = stream(self.seed, Purpose.LANCZOS_START, self.draws).standard_normal(len(self))
        self.draws, self.since_draw, self.closed = self.draws + 1, 0, False
        self._append(self._rest_of(self.basis.own(torch.from_numpy(noise))), 0.0)

    def extend(self) -> None:
        """Compute the image of the last row; append its component orthogonal to the basis."""
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
        """The operator projected on the rows from `first` on: V H V' of these rows."""
        return self.matrix[first : self.count, first : self.count]

    def residuals(self, values: Tensor, weights: Tensor, tolerance: Tensor) -> Tensor:
        """||Hv - value v|| (k,) of Ritz vectors; all infinite if the last has not converged."""
        last = self._distances(values[-1:], weights[:, -1:])
        if last > tolerance[-1]:
            return torch.full_like(values, torch.inf)
        return self._distances(values, weights)

    def vectors(self, weights: Tensor) -> Tensor:
        """The combinations (P, k) of the basis with these weights (n, k)."""
        return self.basis.combined(weights)

    def compress(self, values: Tensor, weights: Tensor, keep: int) -> None:
        """Replace the basis by the first `keep` Ritz vectors."""
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
        """Append a row after `compress`; return the residuals (k,) of the first pairs.

        The row is the largest residual vector. With `following` it continues the last image.
        """
        k = len(values)
        distances = self._distances(values, torch.eye(self.count, dtype=torch.float64)[:, :k])
        worst = int(distances.argmax())
        rest = self.images[worst].double() - values[worst].item() * self.basis[worst].double()
        rest = self._rest if following else rest
        self._append(self._rest_of(rest), 1e-10 * torch.linalg.vector_norm(rest).item())
        return distances

    def _append(self, row: Tensor, least: float) -> None:
        """Append a row, or a random one if the row's length is at most `least`."""
        length = torch.linalg.vector_norm(row).item()
        if length <= least:
            self.draw()
            self.closed = True
        else:
            self.basis[self.count] = row / length

    def _rest_of(self, vector: Tensor) -> Tensor:
        """The component of a vector that is orthogonal to all rows."""
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
