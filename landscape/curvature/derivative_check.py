"""Check second derivatives on a few examples, before any number is computed from them.

PyTorch's second derivatives are wrong for some operations (fused weight normalisation), missing
for others, and may be wrong in one memory layout only. A user's own autograd function may treat
its derivative as a constant. None of this raises an error by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ridgeline.landscape.curvature.double_backward import Way
from ridgeline.landscape.problem import Problem
from ridgeline.landscape.weights.point import Point
from ridgeline.models.errors import InputError, is_out_of_memory
from ridgeline.train.data.examples import Images, map_tensors
from ridgeline.train.data.noise import Purpose, stream
from ridgeline.train.precision import exact, products

#: allowed error of a product, relative to its length: far above the rounding error of a
#: well-scaled function, far below the error of a wrong derivative
ALLOWED = {torch.float64: 1e-4, torch.float32: 1e-2}
_EXAMPLES = (1, 2)  # some libraries use another kernel for a single example
_ASIDE = 1e-3  # shift of the weights and images, relative to each tensor's size
_STEP = 1e-8  # of the finite difference in float64, relative to each tensor
_FLOOR = 0.1  # a tensor's part of a product counts as at least this share of the whole
_DRAWS = 3  # of images and directions, before a way is rejected
_NOISE = 10  # an error counts beyond this many times the difference of the one-sided slopes

#: the name of the images among the tensors
IMAGE = "the images"

Parts = dict[str, Tensor]  # a vector by tensor, each in units of that tensor's size


class Trust(NamedTuple):
    """The way of evaluation that passed, and its errors on the examples tried.

    `asymmetry` is |u'Hv - v'Hu| for random u and v, divided by the mean length of Hu and Hv.
    `departure` compares Hv with the slope of the gradient, tensor by tensor: the largest relative
    distance that kinks do not explain (NaN if the network does not run in float64).
    """

    way: Way
    asymmetry: float
    departure: float


def trusted(
    problem: Problem,
    point: Point,
    names: Sequence[str],
    ways: Sequence[Way],
    *,
    buffers: Mapping[str, Tensor] | None = None,
    by_image: bool = False,
    curved: bool = True,
) -> Trust:
    """The first of the ways whose second derivatives at a Point are right; InputError if none is.

    They are taken by the tensors `names`, and by the images too with `by_image`. The function is a
    well-scaled one of the logits, so a confident network loses no digits. Without `curved` it is
    half the square of the logits' change, with Hessian J'J. Checked with one example and with two:

    - H is symmetric.
    - Hv is the slope of PyTorch's own first derivative, by differences to both sides in float64.
      Where the two sides differ there is a kink, and the way is not rejected for it.
    - The channels-last layout agrees with the contiguous one.
    """
    allowed = ALLOWED.get(next(iter(point.values())).dtype, ALLOWED[torch.float32])
    counts = sorted({min(n, len(problem.data)) for n in _EXAMPLES})

    @cache
    def trial(count: int, draw: int) -> _Trial:
        return _Trial(problem, point, names, buffers, by_image, curved, count, draw)

    said = ""
    with _full_precision():
        for way in ways:
            try:
                found = [_judge(partial(trial, count), way, allowed) for count in counts]
            except RuntimeError as error:  # a derivative that is missing, a `view` of one layout
                if is_out_of_memory(error):
                    raise
                said = " ".join(str(error).split())
                continue
            worst = max(found, key=lambda f: not f.passes(allowed))
            if worst.passes(allowed):
                departures = np.array([f.departure for f in found])
                return Trust(way, max(f.asymmetry for f in found), departures.max())
            if not np.isfinite(worst.asymmetry):
                said = "they are NaN or infinite, as weights or images may be"
                continue
            said = (
                f"u'Hv and v'Hu differ by {worst.asymmetry:.1%}, Hv and the slope of the gradient "
                f"by {worst.departure:.1%} at {worst.where} (allowed {allowed:.2%})"
            )
            if allowed != ALLOWED[torch.float64]:
                said += "; if rounding is the cause, --precision float64 helps"
    raise InputError(f"no right second derivatives of this network can be had: {said}")


class _Judgement(NamedTuple):
    asymmetry: float
    departure: float
    where: str

    def passes(self, allowed: float) -> bool:
        return self.asymmetry <= allowed and not self.departure > allowed


def _judge(trial: Callable[[int], _Trial], way: Way, allowed: float) -> _Judgement:
    """The judgement of the first draw that passes, or of the last.

    Rounding can put a unit on the other side of its kink, on one draw but not on every one.
    """
    for draw in range(_DRAWS):
        found = trial(draw).judge(way)
        if found.passes(allowed):
            break
    return found


class _Trial:
    """A smooth, well-scaled function of a few examples, and its second derivative in every way.

    Weights and images are shifted a little away from 0. Black pixels and weights that are still 0
    would put units exactly on their kinks.
    """

    def __init__(self, problem, point, names, buffers, by_image, curved, count, draw):
        self.problem, self.buffers, self.curved = problem, buffers, curved
        self.dtype = next(iter(point.values())).dtype
        draws = stream(0, Purpose.SYMMETRY, count, draw)

        def beside(t: Tensor, inward: Tensor) -> Tensor:
            shift = torch.from_numpy(draws.random(t.shape, np.float32)).to(t)
            return t + _ASIDE * shift * inward

        x = problem.data.batch(torch.arange(count), problem.device, self.dtype).x
        if isinstance(problem.data, Images):
            self.x = beside(x, 1 - 2 * x)  # within [0,1]
        else:  # whole numbers are indices (tokens): they cannot be shifted
            self.x = map_tensors(
                lambda t: beside(t, _outward(t)) if t.is_floating_point() else t, x
            )
        self.point = {n: beside(t, _outward(t)) for n, t in point.items()}
        self.place = {n: self.point[n] for n in names} | ({IMAGE: self.x} if by_image else {})
        self.sizes = {n: _size(t) for n, t in self.place.items()}
        self.u, self.v = (
            {n: torch.from_numpy(draws.standard_normal(t.shape, np.float32)).to(t.device)
             for n, t in self.place.items()}
            for _ in range(2)
        )  # fmt: skip
        self._found: dict[Way, tuple[Parts, Parts]] = {}
        self._slope: tuple[Parts, Parts] | None = None

    def judge(self, way: Way) -> _Judgement:
        """The errors of a way: asymmetry, distance from the slope and between layouts."""
        hu, hv = self._products(way)
        gap = abs(_dot(self.u, hv) - _dot(self.v, hu))
        length = (_dot(hu, hu) ** 0.5 + _dot(hv, hv) ** 0.5) / 2
        worst = _departure(hv, *self._slopes())
        if way.channels_last:
            plain = self._products(way._replace(channels_last=False))[1]
            layout = _departure(hv, plain, {n: 0 * t for n, t in plain.items()})
            worst = max(worst, layout, key=_extent)
        return _Judgement(gap / length if gap else 0.0, *worst)

    def _products(self, way: Way) -> tuple[Parts, Parts]:
        """Hu and Hv, in the operator's dtype and the given way."""
        if way not in self._found:
            leaves = {n: way.leaf(t) for n, t in self.place.items()}
            predict = self.problem.predict({**self.point, **_weights(leaves)}, self.buffers)
            first = self._gradient(way.logits(predict, leaves.get(IMAGE, self.x)), leaves, True)
            self._found[way] = tuple(self._second(first, leaves, w) for w in (self.u, self.v))
        return self._found[way]

    def _second(self, first: list[Tensor], leaves: Parts, along: Parts) -> Parts:
        cotangents = [along[n].to(t) * self.sizes[n] for n, t in leaves.items()]
        live = [(g, c) for g, c in zip(first, cotangents, strict=True) if g.requires_grad]
        if not live:
            return {n: torch.zeros_like(t, dtype=torch.float64) for n, t in leaves.items()}
        outputs, cotangents = zip(*live, strict=True)
        parts = torch.autograd.grad(
            outputs, list(leaves.values()), cotangents, retain_graph=True,
            allow_unused=True, materialize_grads=True,
        )  # fmt: skip
        return self._scaled(parts)

    def _slopes(self) -> tuple[Parts, Parts]:
        """Slope of the first derivative along v, and the disagreement of its two sides.

        In float64, contiguous, by PyTorch's own kernels. NaN if the network cannot run so.
        """
        if self._slope is None:
            try:
                below, here, above = self._first_derivatives()
            except (RuntimeError, TypeError):
                below = here = above = {n: t.double() * np.nan for n, t in self.place.items()}
            ahead = {n: (above[n] - here[n]) / _STEP for n in here}
            behind = {n: (here[n] - below[n]) / _STEP for n in here}
            mean = {n: (ahead[n] + behind[n]) / 2 for n in here}
            self._slope = mean, {n: (ahead[n] - behind[n]).abs() for n in here}
        return self._slope

    def _first_derivatives(self) -> list[Parts]:
        origin = {n: t.double() for n, t in self.point.items()}
        found, start = [], None
        for step in (0, -_STEP, _STEP):
            leaves = {
                n: (t.double() + step * self.sizes[n] * self.v[n]).contiguous().requires_grad_()
                for n, t in self.place.items()
            }
            predict = self.problem.predict({**origin, **_weights(leaves)}, self.buffers)
            with torch.enable_grad():
                logits = predict(leaves.get(IMAGE, map_tensors(_doubled, self.x)))
            start = logits.detach() if start is None else start
            found.append(self._scaled(self._gradient(logits, leaves, False, start)))
        here, below, above = found
        return [below, here, above]

    def _gradient(
        self, logits: Tensor, leaves: Parts, again: bool, start: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """First derivative of the function; `start` are the logits without any step."""
        start = logits.detach() if start is None else start
        if not logits.requires_grad:
            return tuple(torch.zeros_like(t) for t in leaves.values())
        change = (logits - start) / (start.square().mean().sqrt() or 1)
        value = change.square().sum() / 2
        if self.curved:
            pull = stream(0, Purpose.SYMMETRY, 0).standard_normal(logits.shape)
            value = value + (torch.from_numpy(pull).to(logits) * change).sum()
        return torch.autograd.grad(
            value, list(leaves.values()), create_graph=again,
            allow_unused=True, materialize_grads=True,
        )  # fmt: skip

    def _scaled(self, parts: Sequence[Tensor]) -> Parts:
        sizes = self.sizes.items()
        return {n: size * t.detach().double() for (n, size), t in zip(sizes, parts, strict=True)}


def _departure(found: Parts, expected: Parts, doubt: Parts) -> tuple[float, str]:
    """The largest relative error of a tensor's part beyond its `doubt`, and that tensor."""
    whole = _dot(expected, expected) ** 0.5
    each = []
    for name, truth in expected.items():
        distance = (found[name] - truth).norm().item() - _NOISE * doubt[name].norm().item()
        length = truth.norm().item() + _FLOOR * whole
        each.append((distance / length if distance else 0.0, name))
    far, where = max(each, key=_extent)
    return far if np.isnan(far) else max(0.0, far), where


def _extent(departure: tuple[float, str]) -> float:
    """The rank of a departure. NaN ranks lowest: there was nothing to compare."""
    return float(np.nan_to_num(departure[0]))


def _outward(tensor: Tensor) -> Tensor:
    """The direction away from 0, scaled by the root mean square of the tensor."""
    return torch.where(tensor < 0, -1, 1) * _size(tensor)


def _doubled(tensor: Tensor) -> Tensor:
    return tensor.double().contiguous() if tensor.is_floating_point() else tensor


def _size(tensor: Tensor) -> float:
    """Root mean square of the entries, a hundredth if all are 0."""
    return tensor.double().square().mean().sqrt().item() or 0.01


def _weights(leaves: Parts) -> Parts:
    return {n: t for n, t in leaves.items() if n != IMAGE}


def _dot(a: Parts, b: Parts) -> float:
    return sum((a[n].double() * b[n].double()).sum().item() for n in a)


@contextmanager
def _full_precision() -> Iterator[None]:
    """No TF32, even if the user allows it for products: rounding must not hide a wrong kernel."""
    with products(rounded=False), exact():
        yield
