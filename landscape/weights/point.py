"""Points: dicts parameter name -> tensor, for weights or for directions in weight space.

All functions are pure. Every operation takes Points with the same names and returns a new one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ridgeline.models.errors import InputError
from ridgeline.train.files.integrity import check_real

Point = dict[str, Tensor]


def point_of(network: nn.Module) -> Point:
    """The network's parameters as a Point (a copy, without a graph).

    >>> {name: tuple(t.shape) for name, t in point_of(nn.Linear(3, 2)).items()}
    {'weight': (2, 3), 'bias': (2,)}
    """
    return {name: p.detach().clone() for name, p in network.named_parameters()}


def buffers_of(network: nn.Module) -> dict[str, Tensor]:
    """The network's buffers by name (a copy)."""
    return {name: b.detach().clone() for name, b in network.named_buffers()}


def state_at(network: nn.Module, point: Point) -> dict[str, Tensor]:
    """The network's full state dict with its parameters at a Point.

    A Point has a tied parameter once. The state dict has it under all its names.
    """
    names = {id(p): name for name, p in network.named_parameters()}
    own = network.state_dict(keep_vars=True)
    return {k: point[names[id(v)]] if id(v) in names else v.detach() for k, v in own.items()}


def select(tensors: Mapping[str, Tensor], like: Point, what: str) -> Point:
    """The tensors of a state dict that have the names of `like`, as a Point.

    Raises InputError if they do not fit `like`, or are complex, NaN or infinite.
    """
    missing = sorted(like.keys() - tensors.keys())
    if missing:
        raise InputError(f"{what} lacks {', '.join(missing[:3])} of the network's parameters")
    for name, tensor in like.items():
        if tensors[name].shape != tensor.shape:
            raise InputError(
                f"{what}: {name} is {tuple(tensors[name].shape)}, "
                f"the network has {tuple(tensor.shape)}"
            )
        check_real(name, tensors[name], what)
    return {name: tensors[name].to(tensor) for name, tensor in like.items()}


def combine(coefficients: Sequence[float | Tensor], points: Sequence[Point]) -> Point:
    """The linear combination sum_k coefficients[k] * points[k], differentiable in both.

    Terms whose coefficient is the Python number 0 are skipped. So the ends of a path are exact.

    >>> combine((0.5, 2), ({"w": torch.ones(2)}, {"w": torch.ones(2)}))
    {'w': tensor([2.5000, 2.5000])}
    """
    terms = [(c, p) for c, p in zip(coefficients, points, strict=True) if _counts(c)]
    if not terms:
        return {name: torch.zeros_like(t) for name, t in points[0].items()}
    first, *rest = terms
    total = {name: _scaled(first[0], t) for name, t in first[1].items()}
    for c, p in rest:
        total = {name: t + c * p[name] for name, t in total.items()}
    return total


def _counts(coefficient: float | Tensor) -> bool:
    return isinstance(coefficient, Tensor) or coefficient != 0


def _scaled(coefficient: float | Tensor, tensor: Tensor) -> Tensor:
    if not isinstance(coefficient, Tensor) and coefficient == 1:
        return tensor
    return coefficient * tensor


def add(a: Point, b: Point, scale: float = 1.0) -> Point:
    """A + scale * b.

    >>> add({"w": torch.ones(1)}, {"w": torch.ones(1)}, 2.0)
    {'w': tensor([3.])}
    """
    return combine((1, scale), (a, b))


def subtract(a: Point, b: Point) -> Point:
    """A - b.

    >>> subtract({"w": torch.ones(1)}, {"w": torch.ones(1)})
    {'w': tensor([0.])}
    """
    return combine((1, -1), (a, b))


def dot(a: Point, b: Point) -> float:
    """Inner product over all parameters, accumulated in float64.

    >>> dot({"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([3.0, 4.0])})
    11.0
    """
    return sum(torch.dot(a[n].double().flatten(), b[n].double().flatten()).item() for n in a)


def norm(a: Point) -> float:
    """Euclidean norm over all parameters.

    >>> norm({"w": torch.tensor([3.0]), "b": torch.tensor([4.0])})
    5.0
    """
    return dot(a, a) ** 0.5


def cosine(a: Point, b: Point) -> float:
    """Cosine of the angle between two directions; NaN if one is zero.

    >>> cosine({"w": torch.tensor([1.0, 0.0])}, {"w": torch.tensor([0.0, 2.0])})
    0.0
    """
    scale = norm(a) * norm(b)
    return dot(a, b) / scale if scale else float("nan")


def flatten(a: Point) -> Tensor:
    """One vector (P,) in the order of the Point.

    >>> flatten({"w": torch.ones(1, 2), "b": torch.zeros(1)}).tolist()
    [1.0, 1.0, 0.0]
    """
    return torch.cat([tensor.flatten() for tensor in a.values()])


def unflatten(vector: Tensor, like: Point) -> Point:
    """The Point over the names and shapes of `like` that `flatten` turns into `vector` (P,).

    >>> unflatten(torch.tensor([1.0, 2.0]), {"w": torch.zeros(1, 2)})
    {'w': tensor([[1., 2.]])}
    """
    parts = vector.split([t.numel() for t in like.values()])
    return {n: part.view(t.shape) for part, (n, t) in zip(parts, like.items(), strict=True)}
