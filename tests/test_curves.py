"""Curves: exact lengths, and a barrier whose error is that of paired examples."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import ridgeline as rl
from tests.conftest import make_images, make_mlp


@pytest.fixture
def problem():
    network, images = make_mlp(hidden=4), make_images(15)
    return rl.Problem(network, images, "name=fgsm,threshold=0.05", batch_size=4)


def moved(problem, seed, scale=1.0):
    d = rl.random_direction(problem.origin, seed, "layer", "layer")
    return {n: t + scale * d[n] for n, t in problem.origin.items()}


def length(a, b):
    return sum((a[n] - b[n]).square().sum() for n in a).sqrt().item()


def test_arc_length_of_a_chain_is_the_sum_of_its_segments(problem):
    a, b, c = problem.origin, moved(problem, 1), moved(problem, 2, 3.0)
    found = rl.curve("poly_chain", [a, b, c]).arc_length([0.0, 0.25, 0.5, 1.0])
    first, second = length(a, b), length(b, c)
    np.testing.assert_allclose(found, [0, first / 2, first, first + second], rtol=1e-12)


def test_arc_length_of_a_parabola_is_its_closed_form():
    points = [{"w": torch.tensor(p, dtype=torch.float64)} for p in ([0, 0], [0.5, 0], [1.0, 1.0])]
    found = rl.curve("bezier", points).arc_length([0.5, 1.0])  # (t, t^2)
    exact = [0.5 * t * np.sqrt(1 + 4 * t**2) + np.arcsinh(2 * t) / 4 for t in (0.5, 1.0)]
    np.testing.assert_allclose(found, exact, rtol=1e-6)


def test_the_error_of_a_barrier_is_paired_over_examples(problem):
    end = moved(problem, 3, 4.0)
    path = rl.curve("bezier", [problem.origin, moved(problem, 4, 2.0), end])
    t = [0.0, 0.25, 0.5, 0.75, 1.0]
    ds = rl.scan_curve(problem, path, t, {"a": problem.images}, budgets=[0.0, 0.05],
                       batchnorm="keep")  # fmt: skip
    assert ds["loss"].dims == ("eps", "path", "subset", "t")
    for eps in (0.0, 0.05):
        here = problem.under(problem.attack.at(eps) if eps else None)
        losses = [here.evaluate(path(x)).losses.numpy() for x in t]
        rises = [np.mean(v - (1 - x) * losses[0] - x * losses[-1])
                 for x, v in zip(t, losses, strict=True)]  # fmt: skip
        at = int(np.argmax(rises))
        pairs = losses[at] - (1 - t[at]) * losses[0] - t[at] * losses[-1]
        cell = ds.sel(eps=eps, path="curve", subset="a")
        assert float(cell["barrier"]) == pytest.approx(rises[at], abs=1e-12)
        assert float(cell["barrier_at"]) == t[at]
        expected = pairs.std(ddof=1) / np.sqrt(len(pairs))
        assert float(cell["barrier_se"]) == pytest.approx(expected, abs=1e-12)
    assert (ds["loss"].sel(eps=0.05) > ds["loss"].sel(eps=0.0)).all()
    np.testing.assert_allclose(ds["arc_length"].sel(path="line")[-1], length(problem.origin, end))


def test_a_convex_loss_has_no_barrier():
    images = make_images(12)
    network = nn.Sequential(nn.Flatten(), nn.Linear(images.pixels[0].numel(), 4)).double()
    problem = rl.Problem(network, images)
    ends = [moved(problem, 1, 3.0), moved(problem, 2, 5.0)]
    ds = rl.scan_curve(problem, rl.curve("bezier", [ends[0], ends[0], ends[1]]),
                       [0.0, 0.3, 0.5, 1.0], {"a": images}, batchnorm="keep")  # fmt: skip
    assert float(ds["barrier"].sel(path="line", subset="a")) == pytest.approx(0, abs=1e-12)
    assert float(ds["barrier_at"].sel(path="line", subset="a")) in (0.0, 1.0)


def test_budgets_need_an_attack(problem):
    with pytest.raises(rl.InputError, match="need an attack"):
        rl.scan_curve(problem.under(None), rl.curve("bezier", [problem.origin] * 2), [0.0, 1.0],
                      {"a": problem.images}, budgets=[0.0, 0.1])  # fmt: skip


@pytest.mark.parametrize("t", [[0.2, 0.5, 0.8], [1.0, 0.5, 0.0], [0.0, 0.5], [0.0]])
def test_a_barrier_needs_both_ends_in_order(problem, t):
    with pytest.raises(rl.InputError, match="increase from 0 to 1"):
        rl.scan_curve(problem, rl.curve("bezier", [problem.origin] * 2), t, {"a": problem.images})
