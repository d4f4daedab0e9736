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
    """L(theta) = sum over examples of the loss / number of examples, in eval mode.

    `data` is anything `examples_of` reads: a pair (x, y), a DataLoader, a Dataset, or Images; x may
    be a tuple (the network's arguments) or a dict (its keyword arguments). `loss` is a name in
    LOSSES, or a callable (outputs, targets) -> (N,); attacks climb their own loss whatever it
    is. With an attack, given also as its spec ("name=pgd,threshold=8,iter_num=10,order=-1"), the
    loss is that of the images the attack finds at theta (noise keyed by `seed` and example: common
    random numbers at every theta).

    Holds a private copy of the network and evaluates that with other tensors, so nothing of the
    caller's is ever touched. `batch_size` is a memory setting that changes values by rounding alone
    (an attack in float32 may turn that into another sign). The dtype is that of the Point. `device`
    None is the network's own. `calibration` are the data that recalibrated BatchNorm statistics
    come from (None: the problem's own). `keep` remembers parts of the work (`landscape.resume`).
    A `randomised` network may draw random numbers in eval mode: they belong to `seed` and to the
    batches of 100 that `evaluate` and `adversarial` then work on.

    Raises InputError for a network that does not fit the data or cannot be measured
    (`check_network`), and for an attack on anything but images.

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
    _clones: bool = field(init=False, compare=False)  # the network overwrites what it is given
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
        """Raise InputError for an attack on no images, no logits, or too few classes."""
        if attack is None:
            return
        if not isinstance(data, Images):
            raise InputError(
                f"attacks are for images (N, C, H, W) with class labels; the data are {data!r}"
            )
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
        """The data, for what needs images; InputError for other data."""
        if not isinstance(self.data, Images):
            raise InputError(
                f"this needs images (N, C, H, W) with class labels; the data are {self.data!r}"
            )
        return self.data

    def on(self, data: Data) -> Problem:
        """The same problem on other data; BatchNorm is still calibrated on the present ones."""
        data = examples_of(data)
        self._check_attack(self.attack, data)
        return self._with(data=data, calibration=self.calibration or self.data)

    def under(self, attack: Attack | str | None) -> Problem:
        """The same problem under another attack (or its spec), or none; InputError."""
        attack = _attack_of(attack)
        self._check_attack(attack, self.data)
        return self._with(attack=attack)

    def seeded(self, seed: int) -> Problem:
        """The same problem with other random numbers."""
        return self._with(seed=check_seed(seed))

    def running(self, together: bool, batch_size: int) -> Problem:
        """The same problem whose pieces run side by side on a CPU, or one by one on all threads."""
        return self._with(together=together, batch_size=batch_size)

    def resuming(self, keep: Keep) -> Problem:
        """The same problem with a memory for finished parts of its work."""
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
        """What the problem is, for the recipe of a result computed in Python."""
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

        The Point may lie on any device. `instead` is called in the place of some modules' forward,
        by name; its first argument is the module.
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

        `instead` gives for each piece of the data what stands in for modules (`predict`).
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
        """Every batch, in order, with what the attack makes of it at a Point (or clean)."""

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
        """The clean data (or others) on the device, in their fixed order, in the network's dtype.

        Another `dtype` is for a Point that has another.
        """
        dtype = dtype or self.dtype
        return (data or self.data).batches(self.batch_size, device=self.device, dtype=dtype)

    def frozen(
        self, point: Point | None = None, buffers: Mapping[str, Tensor] | None = None, tick=None
    ) -> Problem:
        """The problem without attack on the images that the attack finds at a Point.

        Its gradient there is that of the adversarial loss (Danskin); its Hessian leaves out how
        the adversarial images move with theta.
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
