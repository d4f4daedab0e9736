"""Minimum-norm attacks: closed forms on linear networks, agreement with a sweep, the curve."""

from __future__ import annotations

import logging
import math

import numpy as np
import pytest
import torch
from torch import nn

from ridgeline.analysis.robustness import robustness
from ridgeline.analysis.statistics import wilson
from ridgeline.landscape.problem import Problem
from ridgeline.models import InputError
from ridgeline.train.attacks import MinimumNorm, mixture, parse_attack
from ridgeline.train.attacks.fab import FAB
from ridgeline.train.attacks.fmn import FMN
from ridgeline.train.attacks.minimum_norm import Smallest, within_budget
from ridgeline.train.attacks.norms import row_norm
from tests.conftest import make_images, make_mlp


def linear(classes: int, seed: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, classes)).double()


def images(count: int = 40):
    generator = torch.Generator().manual_seed(0)
    return 0.3 + 0.4 * torch.rand(count, 1, 6, 6, generator=generator, dtype=torch.float64)


def closed_form(network, x, y, order):
    """Min over wrong classes j of (z_y - z_j) / ||w_j - w_y|| in the dual norm."""
    weight, logits = network[1].weight.detach(), network(x).detach()
    rows = weight[None] - weight[y][:, None]
    dual = rows.abs().sum(2) if order == math.inf else rows.norm(dim=2)
    away = (logits.gather(1, y[:, None]) - logits) / dual
    return away.scatter(1, y[:, None], math.inf).amin(1)


@pytest.mark.parametrize("order", [math.inf, 2])
@pytest.mark.parametrize("classes", [2, 3, 5, 10])
def test_fmn_reaches_the_closed_form_of_linear_networks(classes, order):
    """Every example within 5e-4 above the distance, none below. The range never binds."""
    network, x = linear(classes), images()
    y = network(x).argmax(1)
    exact = closed_form(network, x, y, order)
    attack = FMN(eps=0.1, order=order, targets=9)
    assert isinstance(attack, MinimumNorm)
    found = attack.smallest(network, x, y)
    ratio = found.budget / exact
    assert ratio.min() >= 1 - 1e-9
    assert ratio.max() <= 1 + 5e-4
    assert (network(found.images).argmax(1) != y).all()
    torch.testing.assert_close(row_norm(found.images - x, order), found.budget)
    # as published it may end at another class's boundary, never below the nearest one
    published = FMN(eps=0.1, order=order).smallest(network, x, y).budget / exact
    assert published.min() >= 1 - 1e-9
    assert published.median() <= 1 + 5e-4
    if classes == 2:
        assert published.max() <= 1 + 5e-4


def kinked(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    one, two, three = layers = [nn.Linear(36, 64), nn.Linear(64, 64), nn.Linear(64, 4)]
    for layer in layers:
        nn.init.normal_(layer.weight, std=1.5 * (2 / layer.in_features) ** 0.5)
        nn.init.normal_(layer.bias, std=0.5)
    return nn.Sequential(nn.Flatten(), one, nn.ReLU(), two, nn.ReLU(), three)


def test_fmn_finds_every_image_of_a_network_with_many_kinks():
    """Sees a radius that tangents at kinks keep small: 33 of these 300 counted as robust."""
    network = kinked(0)
    x = torch.rand(300, 1, 6, 6)
    y = network(x).argmax(1)
    found = FMN(eps=0.1, order=2, iterations=50).smallest(network, x, y)
    assert found.budget.isfinite().all()
    assert (network(found.images).argmax(1) != y).all()
    torch.testing.assert_close((found.images - x).flatten(1).norm(dim=1), found.budget)


@pytest.mark.parametrize("order", [math.inf, 2])
@pytest.mark.parametrize("targets", [0, 9])
def test_fab_reaches_the_closed_form_of_linear_networks(targets, order):
    network, x = linear(5), images()
    y = network(x).argmax(1)
    found = FAB(eps=0.1, order=order, targets=targets, restarts=1).smallest(network, x, y)
    ratio = found.budget / closed_form(network, x, y, order)
    assert ratio.min() >= 1 - 1e-6  # the library computes in float32
    assert ratio.max() <= 1 + 1e-3


@pytest.mark.parametrize("order", [math.inf, 2])
@pytest.mark.parametrize("kind", [FAB, FMN])
def test_what_fools_in_float32_fools_in_float64_too(kind, order):
    """Sees a search end within rounding of the boundary, where another batch size decides."""
    network = kinked(1)
    x = torch.rand(1000, 1, 6, 6)
    y = network(x).argmax(1)
    more = {"restarts": 1} if kind is FAB else {}
    found = kind(eps=1, order=order, iterations=100, **more).smallest(network, x, y)
    some = found.budget.isfinite()
    assert some.double().mean() > 0.7
    exact = network.double()(found.images[some].double())
    assert (exact.argmax(1) != y[some]).all()


def test_what_is_wrong_needs_no_budget_and_what_never_falls_has_an_infinite_one():
    network, x = linear(4), images(12)
    right = network(x).argmax(1)
    constant = lambda z: torch.tensor([[1.0, 0.0]]).to(z) + 0 * z.sum()  # noqa: E731
    for attack in (FMN(eps=0.1, iterations=5), FAB(eps=0.1, iterations=5, restarts=1)):
        assert attack.smallest(network, x, (right + 1) % 4).budget.tolist() == [0.0] * 12
        never = attack.smallest(lambda z: constant(z).expand(len(z), 2), x, 0 * right)
        assert never.budget.isinf().all()
        assert never.images.isfinite().all()


def test_images_within_a_budget_are_what_was_found_or_a_step_that_helps():
    network, x = linear(4), images(12)
    y = network(x).argmax(1)
    found = FMN(eps=0.1).smallest(network, x, y)
    eps = found.budget.median().item()
    at = within_budget(network, x, y, found, eps, math.inf)
    near = found.budget <= eps
    assert torch.equal(at[near], found.images[near])
    assert torch.equal(network(at).argmax(1) != y, near)
    assert (row_norm(at - x, math.inf) <= eps + 1e-15).all()
    back = Smallest(x - (found.images - x), torch.full_like(found.budget, math.inf))
    assert torch.equal(within_budget(network, x, y, back, eps, math.inf), x)  # it would not help


@pytest.mark.parametrize("order", ["inf", "2"])
def test_one_search_agrees_with_a_sweep_of_pgd(order):
    """On a network with hidden units the two disagree on at most one example at any budget."""
    network, data = make_mlp(seed=2).float(), make_images(40)
    own = Problem(network, data).evaluate()
    data = data.take(own.correct.nonzero().flatten()) if own.correct.sum() > 9 else relabelled(
        network, data)  # fmt: skip
    attack = "name=fmn,eps=0.1,targets=3" + (",order=2" if order == "2" else "")
    budgets = [0.05, 0.1, 0.2, 0.4] if order == "2" else [0.01, 0.02, 0.05, 0.1]
    one = robustness([Problem(network, data, attack)], budgets)
    sweep = "name=pgd,eps=0.1,iterations=60,restarts=3,loss_type=cw"
    sweep += ",order=2" if order == "2" else ""
    many = robustness([Problem(network, data, sweep)], budgets)
    differ = np.abs(one["correct"].values.astype(int).sum(1) - many["correct"].values.sum(1))
    assert differ.max() <= 1
    # success at eps is a smallest budget of at most eps, at every budget
    for row, eps in enumerate(one["eps"].values[1:], start=1):
        assert (one["correct"].values[row] == (one["smallest_budget"].values > eps)).all()


def relabelled(network, data):
    """The same images under the network's own predictions."""
    from dataclasses import replace

    x = next(data.batches(len(data))).x
    with torch.no_grad():
        return replace(data, labels=network(x).argmax(1))


def test_the_security_curve_counts_budgets_with_wilson_intervals():
    network = make_mlp(seed=2).float()
    data = relabelled(network, make_images(30))
    ds = robustness([Problem(network, data, "name=fmn,eps=0.1,iterations=30")], [0.02, 0.1])
    smallest = ds["smallest_budget"].values
    assert ds["security"].dims == ("radius",) and ds.sizes["radius"] == 101
    assert float(ds["security"][0]) == 1  # nothing is wrong from the start
    assert float(ds["radius"][-1]) == smallest[np.isfinite(smallest)].max()
    for r in (0, 17, 60, 100):
        hits = int((smallest > float(ds["radius"][r])).sum())
        assert float(ds["security"][r]) == hits / 30
        low, high = wilson(hits, 30)
        assert (float(ds["security_low"][r]), float(ds["security_high"][r])) == (low, high)
    assert (np.diff(ds["security"]) <= 0).all()
    assert ds["accuracy"].values[1:].tolist() == [(smallest > e).mean() for e in (0.02, 0.1)]


@pytest.mark.parametrize("name", ["fmn", "fab"])
def test_a_batch_size_changes_no_smallest_budget(name):
    network, data = make_mlp(), relabelled(make_mlp().float(), make_images(23))
    spec = f"name={name},eps=0.1,iterations=15"
    whole, ragged = (
        robustness([Problem(network, data, spec, batch_size=size)]) for size in (23, 5)
    )
    np.testing.assert_allclose(whole["smallest_budget"], ragged["smallest_budget"], rtol=1e-9)


def test_ensembles_have_smallest_budgets_too():
    members = [make_mlp(seed=s).float() for s in (1, 2)]
    data = make_images(12)
    ds = robustness([Problem(m, data, "name=fmn,eps=0.1,iterations=20") for m in members])
    batch = next(data.batches(12))
    found = FMN(eps=0.1, iterations=20).smallest(mixture(members), batch.x, batch.y)
    np.testing.assert_allclose(ds["smallest_budget"], found.budget.numpy(), rtol=1e-5)


@pytest.mark.parametrize("classes", [2, 3])
def test_autoattack_leaves_out_what_few_classes_do_not_allow_and_says_so(classes, caplog):
    from ridgeline.train.attacks.autoattack import _say_left_out

    _say_left_out.cache_clear()
    network, x = linear(classes), images(30)
    y = network(x).argmax(1)
    network, x = network.float(), x.float()
    exact = closed_form(network, x, y, math.inf)
    eps = exact.median().item()
    with caplog.at_level(logging.WARNING):
        found = parse_attack(f"name=autoattack,eps={eps}")(network, x, y)
    said = [r.getMessage() for r in caplog.records if "targeted APGD is left out" in r.getMessage()]
    assert len(said) == 1 and f"with {classes} classes" in said[0]
    fooled = network(found).argmax(1) != y
    clear = (exact / eps - 1).abs() > 0.01
    assert torch.equal(fooled[clear], (exact <= eps)[clear])


def test_apgd_t_goes_through_the_wrong_classes():
    """On a linear network each class is a binary problem: what lies in the ball is found."""
    network, x = linear(5).float(), images(30).float()
    y = network(x).argmax(1)
    exact = closed_form(network, x, y, math.inf)
    eps = exact.median().item()
    found = parse_attack(f"name=apgd_t,eps={eps},iterations=50")(network, x, y)
    fooled = network(found).argmax(1) != y
    clear = (exact / eps - 1).abs() > 0.01
    assert torch.equal(fooled[clear], (exact <= eps)[clear])
    assert row_norm(found - x, math.inf).max() <= eps + 1e-6


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("name=fmn,eps=0.1,iterations=0", "iter_num must be at least 1"),
        ("name=fmn,eps=0.1,targets=-1", "targets 0"),
        ("name=fmn,eps=0.1,gamma=1", "gamma lie between"),
        ("name=fmn,eps=0.1,stride=0", "stride must be positive"),
        ("name=fab,eps=0.1,restarts=0", "at least 1"),
        ("name=apgd_t,eps=0.1,targets=0", "at least 1"),
        ("name=apgd_t,eps=0.1,rho=1", "between 0 and 1"),
    ],
)
def test_malformed_searches_are_refused(spec, message):
    with pytest.raises(InputError, match=message):
        parse_attack(spec)
