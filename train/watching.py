"""Measures after the epochs of a run: scores, gradients, strength of its attack, constancy."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ridgeline.models.errors import InputError
from ridgeline.train.attacks import PGD, Attack
from ridgeline.train.data.examples import Data, Images
from ridgeline.train.evaluation import Scores, attacked, evaluate
from ridgeline.train.losses import predicted
from ridgeline.train.methods.base import Method, Step, joined
from ridgeline.train.precision import exact
from ridgeline.train.ranks import Crew
from ridgeline.train.statistics import error_of_share
from ridgeline.train.undisturbed import undisturbed

log = logging.getLogger(__name__)
#: number of training images for the test whether a network is constant
_LOOK = 500
#: examples per gradient computation, which keeps their activations in memory
_AT_ONCE = 100


@dataclass(frozen=True)
class Watch:
    """What is measured every `eval_freq` epochs and after the last: scores, and on request more.

    `gradients`: number of training images for the gradient of the mean loss by the weights.
    `certificate`: number of those on which training's attack is compared with stronger ones.
    """

    eval_freq: int = 1
    gradients: Images | None = None
    certificate: Images | None = None

    def due(self, epoch: int, epochs: int) -> bool:
        """Whether an epoch (from 0) of `epochs` is evaluated."""
        return (epoch + 1) % self.eval_freq == 0 or epoch + 1 == epochs

    def look(
        self,
        method: Method,
        images: Data,
        held_out: Mapping[str, Images | None],
        step: Step,
        batch_size: int,
        crew: Crew | None = None,
    ) -> dict[str, Any]:
        """Metrics at the end of an epoch: scores on held-out images by name (PART_CONDITION_...).

        `target_eps` is the budget of `target`, in [0,1] units. `constant_classifier` says whether
        all predictions on training images are one class. Then come the further measures. The
        network and the random state do not change. A `crew` shares the held-out images.
        """

        def evaluated(some: Images) -> Mapping[str, Scores]:
            if crew is None or crew.alone:
                return method.evaluate(some, step, batch_size)
            return crew.scores(lambda own: method.evaluate(own, step, batch_size), some, batch_size)

        scores = [
            score.summary(f"{part}_{name}")
            for part, some in held_out.items()
            if some is not None
            for name, score in evaluated(some).items()
        ]
        network, more = method.judged, []
        if network is not None and isinstance(images, Images):
            some = images.subset(min(_LOOK, len(images)))
            found = constant_class(network, some, method.device, batch_size)
            more.append({"constant_classifier": found is not None})
        if network is not None and self.gradients is not None:
            more.append(gradients_along(method, network, self.gradients, step))
        own = method.training_attack(step)
        if network is not None and self.certificate is not None and own is not None:
            more.append(certificate(network, own, self.certificate, step.seed, method.device))
        target = method.setup.target
        budget = {} if target is None or not scores else {"target_eps": target.eps}
        return joined(budget, *scores, *more)


EVERY_EPOCH = Watch()


def constant_class(
    network: nn.Module, images: Images, device: torch.device | str = "cpu", batch_size: int = 500
) -> int | None:
    """The class that a network in training predicts for every image; None if there are several.

    Also None if all images are of one class, because the test then has no meaning.
    """
    if len(images.labels.unique()) == 1:
        return None
    dtype, classes = next(network.parameters()).dtype, set()
    with undisturbed(network), torch.no_grad(), exact():
        for batch in images.batches(batch_size, device=device, dtype=dtype):
            classes |= set(predicted(network(batch.x)).tolist())
            if len(classes) > 1:
                return None
    return classes.pop()


def warn_of_constant(metrics: Sequence[Mapping[str, Any]]) -> None:
    """Warn if the network was constant at the last evaluated epoch but not at the one before."""
    looked = [line for line in metrics if "constant_classifier" in line]
    if not looked or looked[-1] is not metrics[-1] or not looked[-1]["constant_classifier"]:
        return
    if len(looked) < 2 or not looked[-2]["constant_classifier"]:
        log.warning("epoch %d: %s", looked[-1]["epoch"], constant_line(looked[-1]))


def constant_line(line: Mapping[str, Any]) -> str:
    """The warning about a constant network, in one sentence."""
    classes = line["classes"]
    return (
        f"the network gives every training image the same class; its training loss is "
        f"{line['train_loss']:.4f}, that of chance ln {classes} = {math.log(classes):.4f}. Budgets "
        "that grow from 0 (--attack_threshold_schedule), a smaller learning rate or another seed "
        "may help"
    )


def gradient(
    network: nn.Module,
    images: Images,
    attack: Attack | None = None,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> dict[str, Tensor]:
    """The gradient of the mean cross-entropy over images by the trained weights, by name.

    It is computed in float64, in eval mode, on the images that the attack finds. If the attack
    finds the maximum, it is the gradient of the robust loss (Danskin's theorem). The network does
    not change.
    """
    trained = {n: p for n, p in network.named_parameters() if p.requires_grad}
    total = {n: torch.zeros_like(p, dtype=torch.float64) for n, p in trained.items()}
    dtype = next(network.parameters()).dtype
    options = {"batch_size": _AT_ONCE, "seed": seed, "device": device, "dtype": dtype}
    with undisturbed(network):
        for batch, x in attacked(network, images, attack, **options):
            for p in trained.values():
                p.requires_grad_(True)
            with torch.enable_grad(), exact():
                loss = F.cross_entropy(network(x), batch.y, reduction="sum")
                parts = torch.autograd.grad(
                    loss, list(trained.values()), allow_unused=True, materialize_grads=True
                )
            for p, name, part in zip(trained.values(), total, parts, strict=True):
                p.requires_grad_(False)
                total[name] += part.double() / len(images)
    return total


def gradients_along(
    method: Method, network: nn.Module, images: Images, step: Step
) -> dict[str, Any]:
    """`gradient_norm_CONDITION`, clean and under every attack of the evaluation, in nat.

    Also `gradient_magnitude`, the mean |gradient| of every tensor. It is of the robust loss
    (`target`) if there is one, else of the clean loss (Gowda et al. 2024, figure 6a).
    """
    attacks = {"clean": None, "target": method.setup.target, **method.attacks(step)}
    found: dict[Attack | None, dict[str, Tensor]] = {}
    line: dict[str, Any] = {}
    for name, attack in attacks.items():
        if attack is None and name != "clean":
            continue
        key = attack if attack is not None and attack.eps else None
        if key not in found:
            found[key] = gradient(network, images, key, seed=step.seed, device=method.device)
        squares = sum(g.square().sum() for g in found[key].values())
        line[f"gradient_norm_{name}"] = math.sqrt(squares)
        if name in ("clean", "target"):
            line["gradient_magnitude"] = {n: g.abs().mean().item() for n, g in found[key].items()}
    return line


def certificate(
    network: nn.Module,
    own: Attack,
    images: Images,
    seed: int,
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """Compare the attack of training with stronger ones at its budget on the same images.

    The stronger attacks are PGD with 50 steps and two restarts, and PGD with 50 steps on the margin
    (which works for a saturated cross-entropy too). For each example the worse result counts.

    - `certificate_own_...`, `certificate_strong_...`: mean loss (nat) and accuracy.
    - `certificate_gap`: share of images on which the own attack fails and a stronger one succeeds,
      with its standard error.

    Raises InputError for an attack that leaves the ball of its eps, because the stronger ones stay
    inside.
    """
    check_certified(own)
    dtype = next(network.parameters()).dtype
    options = {"batch_size": _AT_ONCE, "seed": seed, "device": device, "dtype": dtype}
    with undisturbed(network):
        weak = evaluate(network, images, own, **options)
        first, second = (
            evaluate(network, images, attack if own.eps else None, **options)
            for attack in stronger(own)
        )
    strong = Scores(
        torch.maximum(first.losses, second.losses), first.correct & second.correct,
        torch.minimum(first.margins, second.margins),
    )  # fmt: skip
    gap = (weak.correct & ~strong.correct).double().mean().item()
    return {
        "certificate_eps": own.eps,
        **weak.summary("certificate_own"),
        **strong.summary("certificate_strong"),
        "certificate_gap": gap,
        "certificate_gap_se": float(error_of_share(gap, len(images))),
    }


def check_certified(own: Attack) -> None:
    """Raise InputError for an attack of training that `certificate` does not support."""
    if own.reach > own.eps:
        raise InputError(
            "--certify_size compares the attack of training with stronger ones in the ball of its "
            f"eps, which {own} leaves: leave it out"
        )


def stronger(own: Attack) -> tuple[PGD, PGD]:
    """The attacks that `certificate` compares an attack with, at its budget."""
    ball = {"eps": own.eps, "order": own.order, "iterations": 50}
    return PGD(**ball, restarts=2), PGD(**ball, loss="cw")
