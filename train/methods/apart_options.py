"""The options of APART, and the values that follow from them in a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ridgeline.models.errors import InputError
from ridgeline.train.attacks.norms import INF
from ridgeline.train.methods.base import Setup
from ridgeline.train.options import Opt, Options
from ridgeline.train.schedules.shapes import Triangle
from ridgeline.train.specs import radius

_APART = {"method": ("apart",)}
_LEARNS = {"method": ("apart", "fgsm_plus")}


@dataclass(frozen=True)
class ApartOptions(Options):
    """The generator of APART and its training, or a baseline instead."""

    method: Annotated[
        str, Opt("method that makes the training images", choices={
            "apart": "", "fgsm": "", "fgsm_plus": "learnable step", "pgd": ""})
    ] = "apart"  # fmt: skip
    eps: Annotated[
        str | float | None, Opt("radius in training; None: the one of --attack")
    ] = None  # fmt: skip
    memory: Annotated[bool, Opt("apart: store a perturbation per training image", only=_APART)] = (
        True
    )
    layerwise: Annotated[bool, Opt("apart: noise at the input of every block", only=_APART)] = True
    save_memory: Annotated[
        bool,
        Opt("apart: checkpoints hold the memory, as large as the training images in float32",
            decides=False, only={**_APART, "memory": ()}),
    ] = True  # fmt: skip
    step: Annotated[
        str | float | None,
        Opt("fix the generator's step at this radius; None: learnable (fgsm: eps)"),
    ] = None
    iter_num: Annotated[int, Opt("pgd: steps of eps/4", low=1, only={"method": ("pgd",)})] = 10
    max_lr_alpha: Annotated[
        float, Opt("apart, fgsm_plus: peak learning rate of the scalars", low=0, only=_LEARNS)
    ] = 5e-8
    weight_decay_alpha: Annotated[
        float,
        Opt("L2 coefficient of the scalars (the paper's code: 1200 in effect, 400 by its text)",
            low=0, only=_LEARNS),
    ] = 1200.0  # fmt: skip
    cycle_epochs: Annotated[
        float | None, Opt("epochs of a triangular cycle; None: the run", above=0)
    ] = None
    cycle_momentum: Annotated[
        bool, Opt("momentum falls by 0.1 while the learning rate rises")
    ] = True  # fmt: skip

    def check(self) -> None:
        """Raise InputError for a fixed step of pgd and for a cycle length without cycles."""
        if self.step is not None and self.method not in ("apart", "fgsm"):
            raise InputError(
                f"--step fixes the step of apart and fgsm; --method {self.method} has its own"
            )
        if self.method in ("fgsm", "pgd") and not self.cycle_momentum:
            self.refuse(["cycle_epochs"], f"on --method {self.method} without --cycle_momentum")

    def radii(self, setup: Setup) -> tuple[float, float | None]:
        """`eps` and the fixed step in [0,1] units. Bare numbers are in the unit of --attack.

        Raises InputError without an attack and for a radius that is not valid for l_inf.
        """
        if setup.attack is None:
            raise InputError("--attack names the attack of the evaluation and must not be None")
        if setup.attack.order != INF:
            raise InputError("--attack: the generator needs an l_inf ball; use order=-1")
        beside = setup.attack.unit
        eps = setup.attack.eps if self.eps is None else radius(self.eps, "--eps", beside)
        if not 0 < eps <= 1:
            raise InputError(f"--eps must be positive and at most 1, the pixel range, got {eps:g}")
        step = eps if self.method == "fgsm" else None
        return eps, step if self.step is None else radius(self.step, "--step", beside)

    def cycle(self, setup: Setup) -> float:
        """Epochs of a triangular cycle."""
        return float(max(setup.epochs, 1) if self.cycle_epochs is None else self.cycle_epochs)

    def momentum(self, setup: Setup) -> Triangle | None:
        """The optimiser's momentum over the run; None: not changed. Raises InputError."""
        if not self.cycle_momentum:
            return None
        highest = setup.optimizer and setup.optimizer.options.get("momentum")
        if not highest or highest < 0.1:
            raise InputError(
                "--cycle_momentum needs an --optim with momentum=0.1 or more; or --nocycle_momentum"
            )
        return Triangle(low_v=highest, up_v=highest - 0.1, cycle_freq=self.cycle(setup))
