"""Accuracy of a network or an ensemble, clean and under attack."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import xarray as xr
from torch import Tensor, nn

from ridgeline.analysis.attack_runs import AttackRun, attack_runs
from ridgeline.analysis.attack_strength import convergence, transfer
from ridgeline.analysis.calibration import by_class, calibration
from ridgeline.analysis.masking import masking
from ridgeline.analysis.names import distinct_numbers
from ridgeline.analysis.statistics import wilson
from ridgeline.analysis.training.overfitting import nrr
from ridgeline.landscape.problem import Problem
from ridgeline.models.errors import InputError
from ridgeline.train.attacks import Attack, mixture
from ridgeline.train.data.network_check import draws_numbers
from ridgeline.train.evaluation import Scores
from ridgeline.train.options import Opt, Options

ALSO = {
    "masking": "five signs that gradients are masked, at the budget of --attack",
    "convergence": "is --attack as strong as more steps, more restarts, margin and APGD",
    "transfer": "accuracy of each checkpoint on the images made for each other",
    "calibration": "ECE and reliability diagram",
    "classes": "accuracy of every class",
}


@dataclass(frozen=True)
class CloserLook(Options):
    """Further measures besides accuracy and loss."""

    trace: Annotated[
        bool, Opt("save loss, gradient norm and success by pass, and count the passes")
    ] = False
    also: Annotated[
        tuple[str, ...], Opt("further measures, separated by commas", choices=ALSO)
    ] = ()

    randomised: Annotated[
        bool,
        Opt("the network draws random numbers when it predicts: each image is judged by one draw; "
            "give the attack eot=N"),
    ] = False  # fmt: skip

    def check_judge(self, attack: Attack | None, networks: int) -> None:
        """Raise InputError for an attack that leaves the ball of its eps, or a missing attack.

        Also for a transfer matrix of a single network.
        """
        lacking = [word for word in self.also if word in ("masking", "convergence", "transfer")]
        if lacking and (attack is None or not attack.eps):
            raise InputError(f"--also {lacking[0]} needs --attack, with a budget above 0")
        if "transfer" in self.also and networks < 2:
            raise InputError("--also transfer needs two or more checkpoints")
        if self.randomised:
            self._check_randomised(attack)
        if attack is None and self.trace:
            raise InputError("--trace needs --attack: there is no search to follow")
        if attack is not None and attack.reach > attack.eps:
            raise InputError(f"--attack: {attack} leaves the ball of its eps and cannot judge; "
                             "use pgd, apgd or autoattack")  # fmt: skip

    def checked(self, problems: Sequence[Problem]) -> Sequence[Problem]:
        """The problems. Raises InputError for `randomised` if no network draws random numbers."""
        if self.randomised and not any(draws_numbers(p.network, p.data) for p in problems):
            raise InputError("--randomised: two passes over the same images give the same outputs; "
                             "leave it out for networks that draw no random numbers")  # fmt: skip
        return problems

    def _check_randomised(self, attack: Attack | None) -> None:
        if attack is not None and not hasattr(attack, "eot"):
            raise InputError(
                "--randomised: of a network that draws random numbers only pgd, fgsm and apgd can "
                f"follow the expected loss (eot=N), got {attack}"
            )
        for word in ("masking", "transfer"):
            if word in self.also:
                raise InputError(f"--also {word} compares single predictions: "
                                 "leave it out with --randomised")  # fmt: skip

    def says(self, attack: Attack | None, seed: int) -> str:
        """A note on the meaning of the numbers of a randomised network."""
        text = f"randomised network: every image is judged by one draw, seed {seed}"
        if attack is None:
            return text
        if attack.eot == 1:
            return f"{text}; WARNING, the attack follows single draws: give it eot=20"
        return f"{text}; gradients of the attack are means over {attack.eot} passes"


class Ensemble(nn.Module):
    """Several networks of any architectures as one: the mixture of their predictions."""

    def __init__(self, members: Sequence[nn.Module]):
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        """Log of the mean predictive probability (N, classes) of all members."""
        return mixture(list(self.members))(x)


def ensemble(problems: Sequence[Problem]) -> Problem:
    """The problem of the mixture of several problems' networks. All else is the first problem's.

    Raises InputError if the problems have different images or classes.
    """
    first, *others = problems
    for other in others:
        if (other.images.sha256, other.images.num_classes) != (
            first.images.sha256, first.images.num_classes
        ):  # fmt: skip
            raise InputError("the members of an ensemble need the same images and classes")
    return replace(first, network=Ensemble([p.network for p in problems])) if others else first


def robustness(
    problems: Sequence[Problem],
    budgets: Sequence[float] | None = None,
    tick: Callable[[int], None] | None = None,
    closer: CloserLook | None = None,
) -> xr.Dataset:
    """Clean and adversarial scores of the mixture of networks (one problem per member).

    Args:
        problems: One problem for each member of the mixture.
        budgets: Attack budgets in [0,1] units; None: the attack's own.
        tick: Called with the number of examples after every batch.
        closer: Further measures.

    Returns:
        Over `condition` (clean; with an attack adversarial, or eps=... for each of several
        budgets): the budget `eps`, `accuracy` with its 95 % Wilson interval, and `loss` with its
        standard error. `nrr` is the harmonic mean of the clean and this accuracy (NaN for clean;
        Gowda et al. 2024, section 4). `losses` and `correct` are per example.

        A minimum-norm attack (fmn, fab) searches once for all budgets. It adds `smallest_budget`
        per example, the smallest budget that fools (infinite: none found). It also adds the
        security curve: `security` over `radius`, with its Wilson interval.

        `closer.trace` adds the progress of the attack. Over `condition`: `forward_passes` and
        `backward_passes` per example. Over `call` (passes over whole batches): the mean
        cross-entropy `call_loss`, the share `call_fooled` of examples fooled so far, and the mean
        l_2 norm `call_gradient`. `success` per example: whether any image within the budget fooled.
        `correct` refers only to the worst iterate.

        `closer.also` adds the results of `masking`, `convergence`, `transfer`, `calibration` and
        `by_class`.

    Raises:
        InputError: for an attack that leaves its ball.
    """
    together = ensemble(problems)
    attack = together.attack
    closer = closer or CloserLook()
    closer.check_judge(attack, len(problems))
    closer.checked(problems)
    names, levels, found, smallest = ["clean"], [0.0], [], None
    scores = [together.under(None).evaluate(tick=tick)]
    if attack is not None:
        budgets = [attack.eps] if budgets is None else list(budgets)
        names += (
            ["adversarial"]
            if len(budgets) == 1
            else [f"eps={eps}" for eps in distinct_numbers(budgets)]
        )
        levels += budgets
        found, smallest = attack_runs(together, budgets, tick, closer.trace)
        scores += [run.scores for run in found]
    rows = [_row(score) for score in scores]
    clean = rows[0]["accuracy"]
    ratios = [np.nan, *(nrr(clean, row["accuracy"]) for row in rows[1:])]
    ds = xr.Dataset(
        {
            **{name: ("condition", [row[name] for row in rows]) for name in rows[0]},
            "nrr": ("condition", ratios),
            "losses": (("condition", "example"), np.stack([s.losses for s in scores])),
            "correct": (("condition", "example"), np.stack([s.correct for s in scores])),
        },
        coords={
            "condition": names, "eps": ("condition", levels, {"units": "[0,1]"}),
            "index": ("example", together.images.index.numpy()),
        },
    )  # fmt: skip
    more = [] if smallest is None else [security(smallest.numpy())]
    more += [_courses(found, scores[0])] if closer.trace and found else []
    more += [_also(word, problems, together, scores) for word in closer.also]
    ds = xr.merge([ds, *more], join="exact") if more else ds
    return (
        ds.assign_attrs(randomised=closer.says(attack, together.seed)) if closer.randomised else ds
    )


def _also(
    word: str, problems: Sequence[Problem], together: Problem, scores: Sequence[Scores]
) -> xr.Dataset:
    images = together.images
    return {
        "masking": lambda: masking(together),
        "convergence": lambda: convergence(together),
        "transfer": lambda: transfer(problems),
        "calibration": lambda: calibration(scores),
        "classes": lambda: by_class(scores, images.labels.numpy(), images.num_classes),
    }[word]()


def security(smallest: np.ndarray) -> xr.Dataset:
    """The security curve of the smallest budgets (N,) that fool: accuracy at every budget.

    `security` over `radius`, in 101 steps from 0 to the largest budget found, is the share of
    examples whose smallest budget is larger, with its 95 % Wilson interval. `smallest_budget` is
    per example.
    """
    finite = smallest[np.isfinite(smallest)]
    radii = np.linspace(0, finite.max() if len(finite) and finite.max() > 0 else 1, 101)
    hits = [int((smallest > r).sum()) for r in radii]
    low, high = np.array([wilson(count, len(smallest)) for count in hits]).T
    return xr.Dataset(
        {
            "smallest_budget": ("example", smallest, {"units": "[0,1]"}),
            "security": ("radius", np.array(hits) / len(smallest)),
            "security_low": ("radius", low),
            "security_high": ("radius", high),
        },
        coords={"radius": ("radius", radii, {"units": "[0,1]"})},
    )


def _courses(runs: Sequence[AttackRun], clean: Scores) -> xr.Dataset:
    """The progress of each attack over `condition`; NaN for clean, which has no attack."""
    longest = max(len(run.course) for run in runs)
    course = np.full((1 + len(runs), longest, 3), np.nan)
    for row, run in enumerate(runs, start=1):
        course[row, : len(run.course)] = run.course
    passes = np.array([(np.nan, np.nan), *((run.forward, run.backward) for run in runs)])
    success = np.stack([~clean.correct.numpy(), *(run.success.numpy() for run in runs)])
    names = ("call_loss", "call_fooled", "call_gradient")
    return xr.Dataset(
        {
            **{n: (("condition", "call"), course[:, :, k]) for k, n in enumerate(names)},
            "forward_passes": ("condition", passes[:, 0]),
            "backward_passes": ("condition", passes[:, 1]),
            "success": (("condition", "example"), success),
        }
    )


def _row(scores: Scores) -> dict[str, float]:
    low, high = wilson(int(scores.correct.sum()), len(scores.correct))
    return {
        "accuracy": scores.accuracy,
        "accuracy_low": low,
        "accuracy_high": high,
        "loss": scores.loss,
        "loss_se": scores.loss_se,
    }
