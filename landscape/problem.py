"""A Problem: network, data and loss, and the attack that may define the loss."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ridgeline.landscape.pieces import Instead, piece_by_piece
from ridgeline.landscape.resume import Keep, Values, at_once
from ridgeline.landscape.weights.point import Point, buffers_of, point_of
from ridgeline.models.copying import NOTHING, Replacements, Replicas, copy_of, device_named
from ridgeline.models.errors import InputError
from ridgeline.train.attacks import Attack, Predict, parse_attack
from ridgeline.train.data.any_data import examples_of
from ridgeline.train.data.examples import Batch, Data, Images, arguments_of, map_tensors
from ridgeline.train.data.network_check import check_network, overwrites
from ridgeline.train.data.noise import CHUNK, STREAMS, check_seed
from ridgeline.train.evaluation import Scores, attacked, evaluate, joined
from ridgeline.train.files.integrity import tensors_digest
from ridgeline.train.losses import Loss, loss_of, name_of
from ridgeline.train.precision import exact
from ridgeline.train.undisturbed import undisturbed


@dataclass(frozen=True, repr=False)
class Problem:
    """L(theta): the mean of the loss over the examples, with the network in eval mode.

    The problem evaluates a private copy of the network, so the caller's never changes. Values have
    the dtype of the Point. Raises InputError for a network that does not fit the data or cannot be
    measured (`check_network`), and for an attack on anything but images.

    Args:
        network: The network.
        data: A pair (x, y), a DataLoader, a Dataset, or Images (`examples_of`). x may be a tuple
            (the network's arguments) or a dict (its keyword arguments).
        attack: None, an attack or its spec ("name=pgd,threshold=8,iter_num=10,order=-1"). The loss
            is then that of the images the attack finds at theta. The attack maximises its own loss.
        seed: With the example, it determines the attack's noise: the same at every theta.
        batch_size: Examples at a time. It changes rounding alone (which can flip a sign in an
            attack in float32).
        device: None: the network's.
        calibration: The data of recalibrated BatchNorm statistics; None: `data`.
        loss: A name in LOSSES, or a callable (outputs, targets) -> (N,).
        keep: Stores finished parts of the work (`landscape.resume`).
        randomised: The network may draw random numbers in eval mode. They depend on `seed` and on
            the batch: 100 examples in `evaluate` and `adversarial`.

    >>> network = nn.Linear(1, 1, bias=False)
    >>> problem = Problem(network, (torch.ones(1, 1), torch.zeros(1, 1)), loss="squared_error")
    >>> problem.evaluate({"weight": torch.tensor([[3.0]])}).loss  # of w^2
    9.0
    """

    network: nn.Module
    data: Data
    attack: Attack | None = None
    seed: int = 0
    batch_size: int = 100
    device: torch.device | str | None = None
    calibration: Data | None = None
    loss: str | Loss = "cross_entropy"
    keep: Keep = field(default=at_once, compare=False)
    randomised: bool = False
    origin: Point = field(init=False)
    replicas: Replicas = field(init=False, compare=False)
    together: bool = field(default=True, init=False, compare=False)
    _clones: bool = field(init=False, compare=False)  # the network overwrites its inputs
    buffers: Mapping[str, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        if not isinstance(self.network, nn.Module):
            kind = type(self.network).__name__
            raise InputError(f"the network must be a torch.nn.Module, got {kind}")
        loss = loss_of(self.loss)
        check_seed(self.seed)
        if self.batch_size < 1:
            raise InputError(f"batch_size must be at least 1, got {self.batch_size}")
        data, attack = examples_of(self.data), _attack_of(self.attack)
        if self.calibration is not None:
            self._set(calibration=examples_of(self.calibration, "calibration"))
        plain = self.loss == "cross_entropy" and isinstance(data, Images)
        check_network(self.network, data, None if plain else loss, self.randomised)
        self._check_attack(attack, data)
        first = next(self.network.parameters())
        device = device_named(first.device if self.device is None else self.device)
        network = copy_of(self.network).eval().requires_grad_(False).to(device)
        self._set(
            network=network, replicas=Replicas(network), _clones=overwrites(network, data),
            data=data, attack=attack, device=device,
            origin=point_of(network), buffers=buffers_of(network),
        )  # fmt: skip

    def __repr__(self) -> str:
        loss = f"loss {name_of(self.loss)}" + (f" under {self.attack}" if self.attack else "")
        size = sum(t.numel() for t in self.origin.values())
        what = f"{type(self.network).__name__} with {size} parameters, {self.data!r}, {loss}"
        return f"Problem({what}, {str(self.dtype).removeprefix('torch.')} on {self.device})"

    def _check_attack(self, attack: Attack | None, data: Data) -> None:
        """Raise InputError for an attack on other data than images, or on too few classes."""
        if attack is None:
            return
        if not isinstance(data, Images):
            raise InputError(f"attacks are for images (N, C, H, W) with class labels, got {data!r}")
        if getattr(attack, "eot", 1) > 1 and not self.randomised:
            raise InputError(
                f"attack eot={attack.eot} averages over passes that draw random numbers, and this "
                "network draws none; leave eot out (randomised=True, test_ensemble --randomised "
                "True, is for networks that do)"
            )
        if self.loss != "cross_entropy":
            check_network(self.network, data, randomised=self.randomised)
        if data.num_classes < attack.fewest_classes:  # the network may know more classes
            batch = data.batch(torch.arange(1), *_place(self.network))
            with undisturbed(self.network), torch.no_grad():
                attack.check_classes(self.network(batch.x).shape[1])

    def _set(self, **changes: Any) -> None:
        for name, value in changes.items():
            object.__setattr__(self, name, value)

    def _with(self, **changes: Any) -> Problem:
        """The same problem with other fields; the private network is shared, not copied again."""
        other = copy.copy(self)
        other._set(**changes)
        return other

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the network's parameters."""
        return next(iter(self.origin.values())).dtype

    @property
    def chunk(self) -> int | None:
        """The number of examples that share random numbers; None: any."""
        own = None if self.attack is None else self.attack.chunk
        return own or (CHUNK if self.randomised else None)

    @property
    def images(self) -> Images:
        """The data, if they are images; InputError for other data."""
        if not isinstance(self.data, Images):
            raise InputError(f"this needs images (N, C, H, W) with class labels, got {self.data!r}")
        return self.data

    def on(self, data: Data) -> Problem:
        """The same problem on other data. BatchNorm calibration keeps the present data."""
        data = examples_of(data)
        self._check_attack(self.attack, data)
        return self._with(data=data, calibration=self.calibration or self.data)

    def under(self, attack: Attack | str | None) -> Problem:
        """The same problem under another attack (or its spec), or none. Raises InputError."""
        attack = _attack_of(attack)
        self._check_attack(attack, self.data)
        return self._with(attack=attack)

    def seeded(self, seed: int) -> Problem:
        """The same problem with other random numbers."""
        return self._with(seed=check_seed(seed))

    def running(self, together: bool, batch_size: int) -> Problem:
        """The same problem with its pieces in parallel on a CPU, or one by one on all threads."""
        return self._with(together=together, batch_size=batch_size)

    def resuming(self, keep: Keep) -> Problem:
        """The same problem; `keep` stores finished parts of its work."""
        return self._with(keep=keep)

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Problem:
        """The same problem on another device, in another dtype."""
        device, dtype = torch.device(device or self.device), dtype or self.dtype
        if (device, dtype) == (self.device, self.dtype):
            return self
        network = copy_of(self.network).to(device, dtype)
        return self._with(
            network=network,
            replicas=Replicas(network),
            device=device,
            origin=point_of(network),
            buffers=buffers_of(network),
        )

    def recipe(self) -> dict[str, Any]:
        """A description of the problem, for the recipe of a result computed in Python."""
        return {
            "network": type(self.network).__name__,
            "weights": tensors_digest({**self.origin, **self.buffers}),
            "data": {"dataset": self.data.name, "examples": len(self.data),
                     "sha256": self.data.sha256},
            "attack": None if self.attack is None else repr(self.attack),
            "loss": name_of(self.loss),
            "dtype": str(self.dtype),
            "seed": self.seed,
            "streams": STREAMS,
            **({"randomised": True} if self.randomised else {}),
        }  # fmt: skip

    def predict(
        self, point: Point, buffers: Mapping[str, Tensor] | None = None,
        instead: Replacements = NOTHING,
    ) -> Predict:  # fmt: skip
        """The function x -> outputs at a Point, in its dtype; differentiable in both.

        The Point may be on any device. `instead` maps names of modules to functions that replace
        their forward; the first argument of such a function is the module.
        """
        dtype = next(iter(point.values())).dtype
        buffers = self.buffers if buffers is None else buffers
        state = {
            **{k: b.to(dtype) if b.is_floating_point() else b for k, b in buffers.items()},
            **{k: t.to(self.device) for k, t in point.items()},
        }

        def outputs(x: Any) -> Tensor:
            positional, named = arguments_of(map_tensors(torch.clone, x) if self._clones else x)
            return self.replicas.call(state, positional, named, instead)

        return exact()(outputs)

    def evaluate(
        self, point: Point | None = None, buffers: Mapping[str, Tensor] | None = None, tick=None,
        instead: Instead | None = None,
    ) -> Scores:  # fmt: skip
        """Loss and correctness of every example at a Point (default: the network's own).

        `instead` gives for each piece of the data the functions that replace modules (`predict`).
        """

        def score(chunk: Data, options: dict[str, Any]) -> Values:
            return vars(
                evaluate(images=chunk, attack=self.attack, loss=loss_of(self.loss), **options)
            )

        found = [part for _, part in piece_by_piece(
            self, "scores", score, point, buffers, tick, instead)]  # fmt: skip
        return joined(found)

    def adversarial(
        self, point: Point | None = None, buffers: Mapping[str, Tensor] | None = None, tick=None
    ) -> Iterator[tuple[Batch, Tensor]]:
        """Every batch, in order, with its adversarial images at a Point (or the clean ones)."""

        def perturbed(chunk: Data, options: dict[str, Any]) -> Values:
            return {"x": next(attacked(images=chunk, attack=self.attack, **options))[1]}

        dtype = next(iter((point or self.origin).values())).dtype
        if self.attack is None:
            for batch in self.batches(dtype):
                if tick is not None:
                    tick(len(batch.index))
                yield batch, batch.x
            return
        for chunk, found in piece_by_piece(self, "images", perturbed, point, buffers, tick):
            batch = chunk.whole(self.device, dtype)
            yield batch, found["x"].to(batch.x)

    def batches(
        self, dtype: torch.dtype | None = None, data: Data | None = None
    ) -> Iterator[Batch]:
        """The clean data (or others) on the device, in fixed order, in `dtype` (or the network's).

        A Point of another dtype needs that `dtype`.
        """
        dtype = dtype or self.dtype
        return (data or self.data).batches(self.batch_size, device=self.device, dtype=dtype)

    def frozen(
        self, point: Point | None = None, buffers: Mapping[str, Tensor] | None = None, tick=None
    ) -> Problem:
        """The problem without attack on the images that the attack finds at a Point.

        Its gradient there is that of the adversarial loss (Danskin's theorem). Its Hessian treats
        the adversarial images as constants.
        """
        if self.attack is None:
            return self
        found = [x.cpu() for _, x in self.adversarial(point, buffers, tick)]
        return self.on(replace(self.images, pixels=torch.cat(found))).under(None)


def _place(network: nn.Module) -> tuple[torch.device, torch.dtype]:
    first = next(network.parameters())
    return first.device, first.dtype


def _attack_of(attack: Attack | str | None) -> Attack | None:
    return parse_attack(attack, "attack") if isinstance(attack, str) else attack
