"""What robust accuracy owes: clean at budget 0, and less with more budget or more restarts."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from ridgeline.analysis.robustness import robustness
from ridgeline.landscape.problem import Problem
from ridgeline.train.attacks import PGD, mixture
from ridgeline.train.losses import cross_entropy
from tests.conftest import make_images, make_mlp

BUDGETS = [0.0, 0.02, 0.05, 0.1, 0.2, 0.4]
SPECS = (
    "name=fgsm,eps=0.1",
    "name=rfgsm,eps=0.1",
    "name=pgd,eps=0.1,iterations=3",
    "name=pgd,eps=0.1,iterations=3,loss_type=cw,order=2",
    "name=apgd,eps=0.1,iterations=4,restarts=1",
    "name=square,eps=0.1,iterations=5",
    "name=fmn,eps=0.1,iterations=10",
    "name=fab,eps=0.1,iterations=3,restarts=1",
)


def problem(attack, **options) -> Problem:
    """A network that is right about half of its images, all of which it was labelled by."""
    network, images = make_mlp(seed=2).float(), make_images(40)
    with torch.no_grad():
        y = network(next(images.batches(40)).x).argmax(1)
    images.labels[:20] = y[:20]
    return Problem(network, images, attack, **options)


@pytest.mark.parametrize("spec", SPECS)
def test_budget_0_is_the_clean_network_exactly(spec):
    ds = robustness([problem(spec)], [0.0, 0.1])
    clean, none, some = ds["losses"].values
    np.testing.assert_array_equal(none, clean)
    np.testing.assert_array_equal(ds["correct"][1], ds["correct"][0])
    assert float(ds["accuracy"][1]) == float(ds["accuracy"][0]) > 0.4
    assert (some != clean).any()


@pytest.mark.parametrize("spec", ["name=fmn,eps=0.1,iterations=30", SPECS[3].replace("=3", "=20"),
                                  "name=pgd,eps=0.1,iterations=20,loss_type=cw"])  # fmt: skip
def test_robust_accuracy_does_not_rise_with_the_budget(spec):
    ds = robustness([problem(spec)], BUDGETS)
    accuracy = ds["accuracy"].values[1:]
    assert (np.diff(accuracy) <= 0).all()
    assert accuracy[0] > accuracy[-1] + 0.3
    if "fmn" in spec:  # one search: by example too
        assert (np.diff(ds["correct"].values[1:].astype(int), axis=0) <= 0).all()


def test_restarts_only_take_away():
    """Restarts are drawn by number, and a margin above 0 is an error: by example, exactly."""
    found = [
        problem(PGD(eps=0.08, iterations=2, restarts=n, loss="cw")).evaluate() for n in (1, 2, 5)
    ]
    for fewer, more in itertools.pairwise(found):
        assert (more.margins <= fewer.margins).all()
        assert (more.correct.int() <= fewer.correct.int()).all()
    assert (found[2].margins < found[0].margins).any()


def test_an_ensemble_of_logit_gap_200_has_the_gradient_of_its_formula():
    """Each member alone is a certainty in float32; the mixture's gradient is neither 0 nor NaN."""
    torch.manual_seed(0)
    members = [nn.Sequential(nn.Flatten(), nn.Linear(4, 3)) for _ in range(2)]
    for number, member in enumerate(members):
        with torch.no_grad():
            member[1].bias.copy_(torch.tensor([200.0, 0.0, -5.0 * number]))
    x, y = torch.full((2, 1, 2, 2), 0.5), torch.tensor([1, 2])

    def gradient(nets, at):
        at = at.clone().requires_grad_()
        losses = cross_entropy(mixture(nets)(at), y)
        assert (losses > 150).all() and losses.isfinite().all()
        return torch.autograd.grad(losses.sum(), at)[0]

    found = gradient(members, x)
    exact = gradient([m.double() for m in members], x.double())
    assert found.isfinite().all() and (found.flatten(1).norm(dim=1) > 1e-3).all()
    torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=1e-5)
    nets = [m.float() for m in members]
    moved = PGD(eps=0.1, iterations=3)(mixture(nets), x, y)
    assert (moved != x).flatten(1).any(1).all() and moved.isfinite().all()
