"""The scores of a problem under attacks at several budgets, and a trace of each on request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ridgeline.landscape.pieces import piece_by_piece
from ridgeline.landscape.problem import Problem
from ridgeline.landscape.resume import Values
from ridgeline.train.attacks import MinimumNorm
from ridgeline.train.attacks.record import Trace
from ridgeline.train.data.examples import Data
from ridgeline.train.evaluation import Scores, evaluate, evaluate_smallest, joined
from ridgeline.train.losses import loss_of

Tick = Callable[[int], Any]


@dataclass(frozen=True)
class AttackRun:
    """Scores at one budget and, if traced, the progress of the attack (else None).

    - `course` (passes, 3): for every pass over whole batches, the mean cross-entropy, the share of
      examples fooled so far, and the mean l_2 norm of the gradient.
    - `forward`, `backward`: passes per example.
    - `success` (N,): whether any image within the budget fooled the network.
    """

    scores: Scores
    course: Tensor | None = None
    forward: float | None = None
    backward: float | None = None
    success: Tensor | None = None


def attack_runs(
    problem: Problem, budgets: Sequence[float], tick: Tick | None = None, trace: bool = False
) -> tuple[list[AttackRun], Tensor | None]:
    """The problem's attack at each budget. A minimum-norm attack searches once for all budgets.

    For a minimum-norm attack the second value (N,) is the smallest budget that fools on each
    example, infinite if none was found. For other attacks it is None.
    """
    if isinstance(problem.attack, MinimumNorm):
        return _one_search(problem, budgets, tick, trace)
    attacks = [problem.attack if e == problem.attack.eps else problem.attack.at(e) for e in budgets]
    return [_run(problem.under(attack), tick, trace) for attack in attacks], None


def _run(problem: Problem, tick: Tick | None, trace: bool) -> AttackRun:
    """One attack; examples that are wrong without it count as successes."""
    if not trace:
        return AttackRun(problem.evaluate(tick=tick))

    loss = loss_of(problem.loss)

    def score(chunk: Data, options: dict[str, Any]) -> Values:
        record = Trace()
        found = evaluate(images=chunk, attack=problem.attack, record=record, loss=loss, **options)
        clean = evaluate(images=chunk, loss=loss, **options)
        missed = found.correct & clean.correct
        return {**vars(found), **_kept(record, len(chunk), ~missed)}

    parts = [part for _, part in piece_by_piece(problem, "traced scores", score, None, None, tick)]
    return AttackRun(joined(parts), *_course(parts))


def _one_search(
    problem: Problem, budgets: Sequence[float], tick: Tick | None, trace: bool
) -> tuple[list[AttackRun], Tensor]:
    def search(chunk: Data, options: dict[str, Any]) -> Values:
        record = Trace() if trace else None
        smallest, scores = evaluate_smallest(
            images=chunk, attack=problem.attack, budgets=budgets, record=record,
            loss=loss_of(problem.loss), **options,
        )  # fmt: skip
        found = {
            f"{name} {n}": value for n, s in enumerate(scores) for name, value in vars(s).items()
        }
        kept = _kept(record, len(chunk), smallest.isfinite()) if trace else {}
        return {"smallest": smallest, **found, **kept}

    name = f"smallest perturbations at {list(budgets)}{' traced' * trace}"

    def counted(number: int) -> None:
        if tick is not None:  # the progress bar counts one pass over the examples per budget
            tick(number * len(budgets))

    parts = [p for _, p in piece_by_piece(problem, name, search, None, None, counted)]
    smallest = torch.cat([p["smallest"] for p in parts])
    course, forward, backward, _ = _course(parts) if trace else (None,) * 4
    runs = []
    for place, eps in enumerate(budgets):
        own = [{k: p[f"{k} {place}"] for k in ("losses", "correct", "margins")} for p in parts]
        success = smallest <= eps if trace else None
        runs.append(AttackRun(joined(own), course, forward, backward, success))
    return runs, smallest


def _kept(record: Trace, count: int, success: Tensor) -> Values:
    """The numbers of a trace that are stored. A budget of 0 has no search."""
    if record.success is not None:
        success = success | record.success.cpu()
    passes = torch.tensor([record.forward, record.backward, count], dtype=torch.float64)
    return {"course": record.course, "success": success, "passes": passes}


def _course(parts: Sequence[Values]) -> tuple[Tensor, float, float, Tensor]:
    """Means over all examples. A batch whose search has ended is left out of later passes."""
    longest = max(len(p["course"]) for p in parts)
    total = torch.zeros(longest, 4, dtype=torch.float64)
    for part in parts:
        total[: len(part["course"])] += part["course"]
    forward, backward, count = sum(p["passes"] for p in parts).tolist()
    success = torch.cat([p["success"] for p in parts]).bool()
    return total[:, :3] / total[:, 3:], forward / count, backward / count, success
