"""Planes through several networks: exact positions, exact residuals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import ridgeline as rl
from ridgeline.landscape.surfaces.planes import (
    along_trajectory,
    orthogonal,
    plane_through,
    positions,
    trajectory_plane,
)
from ridgeline.landscape.weights.directions import random_direction, unit
from ridgeline.landscape.weights.point import add, cosine, dot, norm, subtract
from tests.conftest import make_images, make_mlp


@pytest.fixture
def problem():
    return rl.Problem(make_mlp(hidden=3), make_images(8))


def directions(problem, count):
    return [random_direction(problem.origin, n, "none") for n in range(count)]


def test_gram_schmidt_makes_right_angles_and_keeps_the_span(problem):
    a, b, c = directions(problem, 3)
    b = add(b, a, 50.0)  # nearly parallel to a
    found = orthogonal([a, b, c])
    for n, first in enumerate(found):
        for second in found[:n]:
            assert abs(cosine(first, second)) < 1e-14
    assert norm(subtract(found[0], a)) == 0
    rest = subtract(b, found[1])  # lies along a
    assert abs(cosine(rest, a)) == pytest.approx(1, abs=1e-12)
    with pytest.raises(rl.InputError, match="direction 3 lies in the span"):
        orthogonal([a, b, add(a, b, 2.0)])


def test_a_plane_through_three_networks_holds_them(problem):
    a, b = directions(problem, 2)
    second, third = add(problem.origin, a, 0.3), add(add(problem.origin, a, 0.2), b, 0.7)
    plane, placed = plane_through(problem, second, third)
    np.testing.assert_allclose(placed["off_plane"], 0, atol=1e-10)
    np.testing.assert_allclose(placed["position"][0], 0, atol=1e-12)
    assert placed["position"].values[1] == pytest.approx([0.3 * norm(a), 0], abs=1e-10)
    assert placed["from_origin"].values[2] == pytest.approx(norm(subtract(third, problem.origin)))
    for row, point in zip(placed["position"].values, (problem.origin, second, third), strict=True):
        assert norm(subtract(plane(*row), point)) < 1e-10
    with pytest.raises(rl.InputError, match="direction 1 has no length: its ends"):
        plane_through(problem, problem.origin, second)
    with pytest.raises(rl.InputError, match="lies in the span"):
        plane_through(problem, second, add(problem.origin, a, -2.0))


def test_checkpoints_that_lie_in_a_plane_are_found_there(problem):
    a, b = orthogonal(directions(problem, 2))
    a, b = unit(a), unit(b)
    places = [(3.0, 0.0), (2.0, 1.0), (1.0, -1.0), (0.5, 0.2)]
    points = [add(add(problem.origin, a, x), b, y) for x, y in places]
    plane, placed = trajectory_plane(problem, points)
    np.testing.assert_allclose(placed["off_plane"], 0, atol=1e-10)
    assert float(placed["explained"].sum()) == pytest.approx(1, abs=1e-12)
    exact = np.linalg.svd(np.array(places))[1] ** 2
    np.testing.assert_allclose(placed["explained"], exact / exact.sum(), rtol=1e-10)
    for row, point in zip(placed["position"].values, [*points, problem.origin], strict=True):
        assert norm(subtract(plane(*row), point)) < 1e-10
    above = [add(p, unit(orthogonal([a, b, directions(problem, 3)[2]])[2]), 0.25) for p in points]
    np.testing.assert_allclose(positions(plane, above)["off_plane"], 0.25, rtol=1e-9)
    with pytest.raises(rl.InputError, match="fewer than 2 dimensions"):
        trajectory_plane(problem, points[:1])
    with pytest.raises(rl.InputError, match="fewer than 2 dimensions"):
        trajectory_plane(problem, [add(problem.origin, a, s) for s in (1.0, 2.0)])


def test_loss_of_checkpoints_stands_beside_that_of_the_plane(problem):
    points = [add(problem.origin, d, s) for d, s in
              zip(directions(problem, 3), (0.3, 0.1, 0.2), strict=True)]  # fmt: skip
    plane, placed = trajectory_plane(problem, points)
    found = along_trajectory(problem, plane, placed, [*points, problem.origin])
    expected = [problem.evaluate(p).loss for p in [*points, problem.origin]]
    np.testing.assert_allclose(found["true_loss"], expected, rtol=1e-12)
    assert abs(found["plane_loss"] - found["true_loss"]).max() > 1e-4
    assert float(found["plane_loss"][-1]) == pytest.approx(expected[-1], rel=1e-12)
    axes = plane.knots[1:]
    assert abs(dot(*axes)) < 1e-12 and norm(axes[0]) == pytest.approx(1)


def test_planes_refuse_what_spans_none(problem):
    a, _ = directions(problem, 2)
    for wrong, said in (
        ([], "one or more directions"),
        ([a, add(a, a)], "parallel"),
        ([{n: 0 * t for n, t in a.items()}], "no finite length"),
        ([{"x": torch.ones(3)}], "another network"),
    ):
        with pytest.raises(rl.InputError, match=said):
            rl.plane(problem, *wrong)
    with pytest.raises(rl.InputError, match="1 or more dimensions"):
        rl.random_plane(problem, 0)
    three = rl.random_plane(problem, 3)
    assert rl.scan(problem, three, 2)["loss"].dims == ("eps", "x1", "x2", "x3")
