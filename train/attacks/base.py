"""The base class of attacks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, fields, replace
from typing import ClassVar

import torch
from torch import Tensor

from ridgeline.models.errors import InputError
from ridgeline.train.attacks.norms import INF, check_order
from ridgeline.train.attacks.record import Trace
from ridgeline.train.data.examples import Data, Images
from ridgeline.train.data.noise import Noise, noise_for
from ridgeline.train.precision import exact
from ridgeline.train.specs import Unit

Predict = Callable[[Tensor], Tensor]
#: whether the images of this thread are known to lie in [0,1]
_known: ContextVar[bool] = ContextVar("known", default=False)
_ROUNDING = 1e-6  # allowed for images that were scaled in float32


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """A search for the perturbation with the largest loss within the ball of radius eps.

    eps is in [0,1] pixel units; `order` is inf or 2. An attack calls `predict(x) -> logits`, never
    a module. The caller sets the mode of the network (`train.undisturbed.undisturbed`).
    """

    eps: float
    order: float = INF
    #: the unit in which the user wrote eps; other bare numbers of the command have the same unit
    unit: Unit = field(default=Unit.UNSET, repr=False, compare=False, metadata={"spec": False})

    #: number of examples attacked together if a batch shares random numbers; None: any number
    chunk: ClassVar[int | None] = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "order", check_order(self.order))
        if not self.eps >= 0:
            raise InputError(f"attack threshold must not be negative, got {self.eps:g}")
        if self.order == INF and self.eps > 1:
            raise InputError(
                f"an l_inf threshold is a share of the pixel range, at most 1, got {self.eps:g}; "
                f"write {self.eps:g}/255 for grey levels"
            )

    @property
    def fewest_classes(self) -> int:
        """The number of classes below which this attack is not defined."""
        return 1

    @property
    def reach(self) -> float:
        """The largest norm of a perturbation that it returns, in [0,1] units."""
        return self.eps

    def check_classes(self, classes: int) -> None:
        """Raise InputError for a network of too few classes."""
        if classes < self.fewest_classes:
            raise InputError(f"attack {self} needs at least {self.fewest_classes} classes, "
                             f"the network has {classes}")  # fmt: skip

    def at(self, eps: float) -> Attack:
        """The same attack with another budget."""
        return replace(self, eps=eps)

    def __call__(
        self, predict: Predict, x: Tensor, y: Tensor, noise: Noise | int = 0,
        record: Trace | None = None,
    ) -> Tensor:  # fmt: skip
        """Adversarial images (N, C, H, W) for clean x in [0,1] and labels y (N,).

        The result is the worst iterate of every example, whether it fools or not. `noise` is a
        seed or the examples' noise. `record` traces the search and does not change it. With eps = 0
        the result is x itself. Raises InputError for pixels outside [0,1].
        """
        if self.eps == 0:
            return x
        if not _known.get():
            check_range(x)
        if record is not None:
            predict = record.watch(predict, x, y, self.reach, self.order)
        with exact():
            return self.perturb(predict, x.detach(), y, noise_for(x, noise)).detach()

    @abstractmethod
    def perturb(self, predict: Predict, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """The search itself, for eps > 0."""


@contextmanager
def known_range(images: Data) -> Iterator[None]:
    """Skip the range check of batches inside, if the set holds bytes.

    On an accelerator the check would make every step wait for the step before it.
    """
    known = isinstance(images, Images) and images.pixels.dtype == torch.uint8
    token = _known.set(known)
    try:
        yield
    finally:
        _known.reset(token)


def shown(attack: Attack, later: Collection[str]) -> str:
    """The repr of a dataclass, without the fields `later` if they have their default.

    Recipes contain this text. A field that was added later must not change old recipes.
    """
    values = {f.name: getattr(attack, f.name) for f in fields(attack) if f.repr}
    hidden = {f.name for f in fields(attack) if f.name in later and values[f.name] == f.default}
    said = ", ".join(f"{name}={value!r}" for name, value in values.items() if name not in hidden)
    return f"{type(attack).__name__}({said})"


def check_passes(eot: int) -> None:
    """Raise InputError for a number of passes below 1."""
    if eot < 1:
        raise InputError(f"attack eot counts forward passes, at least 1, got {eot}")


def check_range(x: Tensor) -> None:
    """Raise InputError for images that are not finite or not in [0,1].

    Many loaders return normalised images. Clipping these to [0,1] would change pixels by far more
    than eps.
    """
    low, high = (float(v) for v in x.aminmax())
    if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):
        raise InputError(
            f"attacks need images in [0,1], got pixels from {low:.4g} to {high:.4g}; leave the "
            "images in [0,1] and normalise inside the network: --normalize mean=..,std=.., or "
            "models.add_normalization(network, mean, std)"
        )


def check_step(step: float | None) -> None:
    """Raise InputError for a step that is not positive. None (the default step) is allowed."""
    if step is not None and not step > 0:
        raise InputError(f"attack step_size must be positive, got {step:g}")


def scaled(attack: Attack, eps: float) -> Attack:
    """The attack at another budget, with the same ratio of `step_size` to budget."""
    if attack.step_size is None:
        return replace(attack, eps=eps)
    if attack.eps == 0:
        raise InputError(
            "attack threshold=0 gives no ratio to scale step_size by; "
            "name the target threshold, or leave step_size out"
        )
    return replace(attack, eps=eps, step_size=attack.step_size * (eps / attack.eps) or None)
