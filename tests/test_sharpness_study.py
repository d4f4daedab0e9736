"""Boundary, spikes and gap beside the battery; the documentation's table."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ridgeline.analysis.sharpness.boundary import boundary
from ridgeline.analysis.sharpness.spikes import spikes
from ridgeline.analysis.sharpness.study import check_also, study
from ridgeline.landscape.curvature.operators import Hessian, dense
from ridgeline.landscape.problem import Problem
from ridgeline.landscape.sharpness import MEASURES
from ridgeline.landscape.sharpness.battery import BatteryOptions
from ridgeline.landscape.sharpness.options import SharpnessOptions
from ridgeline.landscape.weights.point import unflatten
from ridgeline.models import InputError
from ridgeline.train.attacks import PGD
from ridgeline.train.data.examples import Images
from tests.test_sharpness import images, mlp

ROOT = Path(__file__).resolve().parent.parent


def linear() -> tuple[nn.Module, torch.Tensor]:
    """Two classes whose logits are 0 and w'(x - 1/2)."""
    w = torch.tensor([0.5, -1.0, 2.0, 0.25], dtype=torch.float64)
    layer = nn.Linear(4, 2).double()
    with torch.no_grad():
        layer.weight.copy_(torch.stack([torch.zeros(4), w]))
        layer.bias.copy_(torch.stack([torch.tensor(0.0), -w.sum() / 2]))
    return nn.Sequential(nn.Flatten(), layer), w


def around_half() -> Images:
    x = 0.5 + torch.tensor([[0.02, 0.0, 0.03, 0.0], [-0.01, 0.02, -0.05, 0.01]]).double()
    return Images(x.view(2, 1, 2, 2), torch.tensor([1, 0]), torch.arange(2), "near", 2)


@pytest.mark.parametrize("order", [-1, 2])
def test_distance_to_the_boundary_of_a_linear_classifier(order):
    network, w = linear()
    data, eps = around_half(), 0.1
    problem = Problem(network, data, f"name=pgd,eps={eps},step_size=0.9,iterations=5,order={order}")
    ds = boundary(problem, points=5)
    margins = ((data.pixels.flatten(1) - 0.5) @ w).abs()
    expected = margins / (eps * (w.abs().sum() if order == -1 else w.norm()))
    found = ds["boundary_distance"].sel(direction="adversarial").values
    assert found == pytest.approx(expected.numpy(), abs=10 / 40 / 2**12)
    # along u the margins shrink by the dual norm
    dual = w.norm(1 if order == -1 else 2)
    moved = F.softplus(-margins + eps * dual).mean()
    assert float(ds["plane_loss"].sel(a=1, b=0)) == pytest.approx(moved.item(), rel=1e-6)
    assert float(ds["plane_loss"].sel(a=0, b=0)) == pytest.approx(
        problem.under(None).evaluate().loss
    )
    assert float(ds["plane_accuracy"].sel(a=0, b=0)) == 1
    assert float(ds["plane_accuracy"].sel(a=1, b=0)) == 0


def test_boundary_is_zero_where_wrong_and_infinite_where_never():
    network, _ = linear()
    data = around_half()
    wrong = Images(data.pixels, 1 - data.labels, data.index, "wrong", 2)
    problem = Problem(network, wrong, "name=pgd,eps=0.1,iterations=3")
    assert (boundary(problem, points=3)["boundary_distance"].values == 0).all()
    with torch.no_grad():
        network[1].weight.zero_()
        network[1].bias.copy_(torch.tensor([0.0, 1.0]))
    ds = boundary(Problem(network, data, "name=pgd,eps=0.1,iterations=3"), points=3)
    assert np.isinf(ds["boundary_distance"].values[:, 0]).all()
    with pytest.raises(InputError, match="needs an attack"):
        boundary(Problem(network, data))


def test_spikes_move_along_eigenvectors_by_an_equal_rise():
    problem = Problem(mlp(), images())
    ds = spikes(problem, count=3, rise=0.2)
    matrix = dense(Hessian(problem))
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    assert ds["spike_eigenvalue"].values == pytest.approx(values.flip(0)[:3].numpy(), rel=1e-3)
    step = math.sqrt(2 * 0.2 / values[-1]) * vectors[:, -1]
    theta = torch.cat([t.flatten() for t in problem.origin.values()])
    base, labels = problem.evaluate(), problem.images.labels
    found = {}
    for sign in (-1, 1):
        there = problem.evaluate(unflatten(theta + sign * step, problem.origin))
        change = there.correct.double() - base.correct.double()
        found[there.loss - base.loss] = [change[labels == k].mean().item() for k in range(3)]
    top = ds.sel(spike=1)
    assert sorted(top["spike_rise"].values) == pytest.approx(sorted(found), rel=1e-3)
    for side in (-1, 1):
        here = top.sel(side=side)
        nearest = min(found, key=lambda r: abs(r - float(here["spike_rise"])))
        assert here["spike_change"].values == pytest.approx(found[nearest])


def test_gap_is_test_loss_less_training_loss():
    problem, held_out = Problem(mlp(), images(), "name=pgd,eps=0.1,iterations=3"), images(seed=1)
    ds = study(problem, BatteryOptions(("sam",), ("plain",)), SharpnessOptions(), held_out)
    for loss, one in (("clean", problem.under(None)), ("robust", problem)):
        own, test = one.evaluate(), one.on(held_out).evaluate()
        row = ds.sel(loss=loss)
        assert float(row["gap"]) == test.loss - own.loss
        assert float(row["gap_se"]) == pytest.approx(math.hypot(own.loss_se, test.loss_se))
        assert float(row["test_accuracy"]) == test.accuracy
    assert "plane_loss" not in ds


def test_finished_measures_are_kept(tmp_path):
    """A second study answers from the records of the first."""
    from ridgeline.landscape.resume import Parts

    problem = Problem(mlp(), images(), "name=pgd,eps=0.1,iterations=3")
    options = BatteryOptions(("lambda_max", "sam", "robust_flatness_worst"), ("plain",))
    one, two = (
        study(problem, options, SharpnessOptions(steps=2), keep=Parts(tmp_path / "parts"))
        for _ in range(2)
    )
    assert one.identical(two)  # the seconds too, which no second computation would repeat


@pytest.mark.parametrize(
    ("options", "says"),
    [({"also": ("boundary",)}, "--also boundary needs --attack"),
     ({"measures": ("robust_flatness_worst",)}, "needs --attack"), ({}, None)],
)  # fmt: skip
def test_an_attack_of_budget_0_is_refused(options, says):
    """Sees the columns of the robust loss left out in silence."""
    battery = BatteryOptions(**options)
    with pytest.raises(InputError, match="budget of 0 leaves the clean loss"):
        check_also(battery, PGD(eps=0.0, iterations=1))
    check_also(battery, PGD(eps=0.1, iterations=1))
    if says is None:
        check_also(battery, None)
    else:
        with pytest.raises(InputError, match=says):
            check_also(battery, None)


def test_the_documentation_says_of_every_measure_whether_it_is_invariant():
    text = (ROOT / "docs" / "sharpness.md").read_text()
    said = dict(re.findall(r"^\| `(\w+)` \|.*\| (yes|no)(?:, whole layers)? \|$", text, flags=re.M))
    assert said == {n: "yes" if m.invariant else "no" for n, m in MEASURES.items()}
