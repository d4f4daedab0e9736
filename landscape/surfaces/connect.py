"""A curve of low loss between two networks, from Python."""

from __future__ import annotations

from torch import nn

from ridgeline.landscape.problem import Problem
from ridgeline.landscape.surfaces.curve import CurveTraining
from ridgeline.landscape.weights.paths import CURVES, Path, straight
from ridgeline.landscape.weights.point import Point, point_of, select
from ridgeline.models.errors import InputError, unknown
from ridgeline.train.loop import fit
from ridgeline.train.optimizers import parse_optimizer


def connect(
    problem: Problem,
    end: Point | nn.Module | Problem,
    *,
    bends: int = 1,
    curve_type: str = "bezier",
    epochs: int = 20,
    batch_size: int = 128,
    optimizer: str = "name=sgd,lr=0.1,momentum=0.9,weight_decay=1e-6",
    seed: int | None = None,
) -> Path:
    """Train a curve of low loss from a problem's network to another.

    The loss is the problem's, under its attack, on its own data. Measure the curve with
    `scan_curve` or `scan`.

    Args:
        problem: The problem, whose network is one end.
        end: The other end, of the same architecture.
        bends: Number of free control points, which start on the straight line. The ends are fixed.
        curve_type: bezier or poly_chain.
        epochs: Epochs of training.
        batch_size: Examples in a training step.
        optimizer: Spec of the optimiser.
        seed: Seed of training; None: the problem's.

    Returns:
        The curve.

    Raises:
        InputError: for an end of another architecture, and for options out of range.
        Diverged: if training diverges.

    References:
        Garipov et al. 2018.

    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> problem = Problem(network, (torch.rand(6, 1, 2, 2), torch.arange(6) % 2))
    >>> end = {name: value + 1 for name, value in problem.origin.items()}
    >>> trained = connect(problem, end, epochs=1)
    >>> torch.equal(trained(1.0)["1.weight"], end["1.weight"])  # the ends are fixed
    True
    """
    if curve_type not in CURVES:
        raise unknown("curve_type", curve_type, CURVES)
    for name, value in (("bends", bends), ("epochs", epochs), ("batch_size", batch_size)):
        if value < 1:
            raise InputError(f"{name} must be at least 1, got {value}")
    if isinstance(end, nn.Module):
        end = point_of(end)
    elif isinstance(end, Problem):
        end = end.origin
    end = select(end, problem.origin, "the other end")
    knots = straight(problem.origin, end, bends + 2)
    fixed = [1, *(0 for _ in range(bends)), 1]
    method = CurveTraining(
        problem.network, knots, fixed, curve_type, problem.attack, problem.device, problem.loss
    )
    fit(
        method, problem.data, None, epochs=epochs, batch_size=batch_size,
        optimizer=parse_optimizer(optimizer), clock="batch", device=problem.device,
        seed=problem.seed if seed is None else seed,
    )  # fmt: skip
    path = method.path
    return type(path)([{n: t.detach().clone() for n, t in knot.items()} for knot in path.knots])
