"""The perturbation question: exact answers for linear networks, and the null by enumeration."""

from __future__ import annotations

import itertools
import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

from ridgeline.analysis.figures import draw
from ridgeline.analysis.line_fit import line, relative_line
from ridgeline.analysis.perturbation_pairs import MEASURES, compare
from ridgeline.analysis.probes import probe_directions
from ridgeline.analysis.random_signs import cosine_null, sign_null
from ridgeline.analysis.scattering import PARTS, scattering
from ridgeline.landscape.curvature.operators import Hessian, dense
from ridgeline.landscape.gradient import loss_gradient
from ridgeline.landscape.problem import Problem
from ridgeline.landscape.result import load_result, save_result
from ridgeline.landscape.weights.directions import between, random_direction, unit
from ridgeline.landscape.weights.point import add, flatten, norm, unflatten
from ridgeline.models import InputError
from ridgeline.train.attacks import FGSM, PGD
from ridgeline.train.data.noise import another_seed
from tests.conftest import make_conv_bn, make_images, make_mlp

ATTACK = PGD(eps=0.1, iterations=4)


class Logistic(nn.Module):
    """Two-class logistic regression: logits (0, w'x). Its attack's signs are those of w."""

    def __init__(self, w: torch.Tensor):
        super().__init__()
        self.w = nn.Parameter(w)

    def forward(self, x):
        z = x.flatten(1) @ self.w
        return torch.stack([torch.zeros_like(z), z], dim=1)


def test_signs_of_a_linear_classifier_flip_at_the_crossings_of_its_weights():
    w = torch.linspace(-2.05, 1.85, 40).double()
    problem = Problem(Logistic(w), make_images(9, (1, 5, 8), 2), FGSM(eps=0.1), batch_size=4)
    d = torch.where(torch.arange(40) % 2 == 0, 1.0, -1.0).double()
    steps = [0.0, 1.0, 3.0, 6.0, 20.0]
    ds = scattering(problem, {"d": {"w": 3 * d}}, steps)
    crossing = -w / (d / math.sqrt(40))  # the distance at which a weight is 0, if positive
    for step in steps:
        flipped = ((crossing > 0) & (crossing < step)).double().mean().item()
        here = ds.sel(direction="d", distance=step).squeeze("eps")
        for pair in ("same_seed", "other_seed"):
            assert float(here["flipped"].sel(pair=pair)) == pytest.approx(flipped, abs=1e-15)
            for name in ("cosine", "sign_cosine"):
                assert float(here[name].sel(pair=pair)) == pytest.approx(1 - 2 * flipped, abs=1e-12)
                assert float(here[f"{name}_se"].sel(pair=pair)) == pytest.approx(0, abs=1e-12)
        assert float(here["flipped"].sel(pair="two_seeds")) == 0  # FGSM draws nothing
        assert float(here["zero"].max()) == 0
    assert float(ds["flipped"].max()) == 21 / 40
    assert ds["length"].item() == pytest.approx(3 * math.sqrt(40))
    np.testing.assert_allclose(ds["relative_distance"] * w.norm().item(), steps, rtol=1e-14)


def test_the_frozen_part_of_least_squares_is_its_hessian_times_the_step():
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 3)).double()
    problem = Problem(net, make_images(20, classes=3), ATTACK, loss="squared_error", batch_size=7)
    d = unit(random_direction(problem.origin, 5, "none"))
    ds = scattering(problem, {"d": d}, [0.0, 0.1, 0.5, 2.0], budgets=[0.0, 0.1], draws=1)
    for eps in (0.0, 0.1):
        attack = ATTACK.at(eps) if eps else None
        h = dense(Hessian(problem.under(attack).frozen()))
        slope = (h @ flatten(d)).norm().item()
        here = ds.sel(direction="d", eps=eps)
        frozen = here.sel(part="frozen")
        np.testing.assert_allclose(frozen["scatter"], slope * ds["distance"], rtol=1e-8, atol=1e-12)
        assert float(frozen["slope"]) == pytest.approx(slope, rel=1e-8)
        assert abs(float(frozen["intercept"])) < 1e-8 * slope
    clean = ds.sel(direction="d", eps=0.0)
    assert (clean["scatter"].sel(part="moving") == 0).all()  # exactly
    np.testing.assert_array_equal(*(clean["scatter"].sel(part=p) for p in ("total", "frozen")))
    assert clean["cosine"].isnull().all() and clean["sign_cosine"].isnull().all()
    assert (clean["flipped"].sel(pair="same_seed") == 0).all()
    assert (clean["zero"].sel(pair="same_seed") == 1).all()
    assert (clean["left_out"].sel(pair="same_seed") == 20).all()
    assert np.isnan(clean["null_cosine"]) and np.isfinite(ds["null_cosine"].sel(eps=0.1))


def test_parts_are_the_plain_differences_of_gradients():
    """Against gradients by `torch.func`, place by place and seed by seed."""
    problem = Problem(make_mlp(), make_images(12), ATTACK, seed=3, batch_size=5)
    d = unit(random_direction(problem.origin, 7, "none"))
    ds = scattering(problem, {"d": d}, [0.02, 0.3], draws=2).squeeze(["direction", "eps"])

    def gradient(point, images):
        def loss(p):
            logits = torch.func.functional_call(problem.network, p, (images,))
            return nn.functional.cross_entropy(logits, problem.images.labels)

        return flatten(torch.func.grad(loss)(point))

    def attacked(point, number):
        seeded = problem.seeded(another_seed(3, number))
        return torch.cat([x for _, x in seeded.adversarial(point)])

    theta = problem.origin
    for step in (0.02, 0.3):
        place = add(theta, d, step)
        found: dict[str, list[float]] = {part: [] for part in PARTS}
        for seed in (0, 1):
            x, moved = attacked(theta, seed), attacked(place, seed)
            base = gradient(theta, x)
            found["total"].append((gradient(place, moved) - base).norm().item())
            found["frozen"].append((gradient(place, x) - base).norm().item())
            found["moving"].append((gradient(place, moved) - gradient(place, x)).norm().item())
            other = gradient(place, attacked(place, 1 - seed))
            found["reseeded"].append((other - base).norm().item())
        here = ds["scatter"].sel(distance=step)
        for part, values in found.items():
            assert float(here.sel(part=part)) == pytest.approx(np.mean(values), rel=1e-10), part
        total, frozen, moving = (float(here.sel(part=p)) for p in ("total", "frozen", "moving"))
        assert abs(frozen - moving) <= total <= frozen + moving
        assert moving > 0
    floor = (gradient(theta, attacked(theta, 0)) - gradient(theta, attacked(theta, 1))).norm()
    assert float(ds["scatter_floor"]) == pytest.approx(floor.item(), rel=1e-10)


def test_at_distance_0_the_same_seed_finds_the_same_and_two_seeds_the_floor():
    problem = Problem(
        make_mlp(), make_images(), PGD(eps=0.1, iterations=1, step_size=0.05), batch_size=4
    )
    ds = scattering(problem, ["random"], [0.0, 0.5], draws=3).squeeze(["direction", "eps"])
    start = ds.sel(distance=0)
    same = start.sel(pair="same_seed")
    assert float(same["cosine"]) == pytest.approx(1, abs=1e-14)
    assert float(same["sign_cosine"]) == pytest.approx(1, abs=1e-14)
    assert float(same["flipped"]) == 0
    assert (start["scatter"].sel(part=["total", "frozen", "moving"]) == 0).all()
    assert float(start["gradient_cosine"]) == pytest.approx(1, abs=1e-14)
    for name in MEASURES:
        floor = float(ds[f"floor_{name}"])
        assert float(start[name].sel(pair="two_seeds")) == floor
        assert float(start[name].sel(pair="other_seed")) == pytest.approx(floor, abs=1e-14)
    assert 0 < float(ds["floor_flipped"]) < 0.5  # one step leaves much of the random start
    assert float(ds["floor_cosine"]) < 0.99
    assert float(start["scatter"].sel(part="reseeded")) == pytest.approx(
        float(ds["scatter_floor"]), rel=1e-12
    )
    assert float(start["loss"]) == pytest.approx(problem.evaluate().loss, rel=0.02)


def test_one_draw_gives_no_floor_and_the_first_seed_of_many():
    problem = Problem(make_mlp(), make_images(), ATTACK)
    one = scattering(problem, ["random"], [0.3], draws=1)
    assert one["cosine"].sel(pair=["other_seed", "two_seeds"]).isnull().all()
    assert one["floor_cosine"].isnull().all() and one["scatter_floor"].isnull().all()
    assert one["scatter"].sel(part="reseeded").isnull().all()
    place = add(problem.origin, unit(random_direction(problem.origin, 0, "none")), 0.3)
    assert one["loss"].item() == pytest.approx(problem.evaluate(place).loss, rel=1e-12)


def test_batch_size_and_budgets_beside_it_do_not_change_a_number():
    def look(size, budgets):
        problem = Problem(make_conv_bn(), make_images(13), ATTACK, batch_size=size)
        options = {"budgets": budgets, "batchnorm": "recalibrate"}
        return scattering(problem, ["random", "gradient"], [0.0, 0.1, 0.4], **options)

    whole, ragged = look(13, [0.05]), look(4, [0.1, 0.05]).sel(eps=[0.05])
    xr.testing.assert_allclose(whole, ragged, rtol=1e-8, atol=1e-10)


def test_directions_by_name_are_what_they_say(images):
    problem = Problem(make_mlp(), images, ATTACK)
    found = probe_directions(
        problem, ["random", "random:2", "gradient", "eigenvector", "eigenvector:2"]
    )
    frozen = problem.frozen()
    h = Hessian(frozen)
    torch.testing.assert_close(found["gradient"], h.gradient())
    vectors = torch.linalg.eigh(dense(h)).eigenvectors
    for rank, name in ((1, "eigenvector"), (2, "eigenvector:2")):
        assert abs(vectors[:, -rank] @ flatten(found[name])) == pytest.approx(1, abs=1e-5)
    a, b = flatten(found["random"]), flatten(found["random:2"])
    assert abs(a @ b / a.norm() / b.norm()) < 5 / math.sqrt(len(a))
    rise = problem.under(None).evaluate
    climbed = frozen.evaluate(add(problem.origin, unit(found["gradient"]), 0.01)).loss
    assert climbed > frozen.evaluate().loss and rise().loss < frozen.evaluate().loss


def test_gradient_of_the_loss_is_that_of_the_operator(images):
    problem = Problem(make_conv_bn(), images, batch_size=9)
    losses, gradient = loss_gradient(problem)
    torch.testing.assert_close(losses, problem.evaluate().losses, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, flatten(Hessian(problem).gradient()).double())
    moved = add(problem.origin, problem.origin, 0.1)
    other, _ = loss_gradient(problem, moved, images=images.pixels.clone())
    torch.testing.assert_close(other, problem.evaluate(moved).losses, rtol=1e-12, atol=0)
    assert not any(t.requires_grad for t in moved.values())


def test_what_is_not_finite_stays_so():
    """A network that breaks at one place: NaN there and in the fit, numbers elsewhere."""
    w = torch.linspace(-1, 1, 36).double()
    problem = Problem(Logistic(w), make_images(9, classes=2), ATTACK)
    d = {"w": torch.ones_like(w)}
    ds = scattering(problem, {"d": d}, [0.1, 0.2, 1.7e308]).squeeze(["direction", "eps"])
    near, far = ds.isel(distance=slice(0, 2)), ds.sel(distance=1.7e308)
    assert near["cosine"].notnull().all() and near["scatter"].notnull().all()
    for name in MEASURES:
        assert np.isnan(far[name].sel(pair="same_seed")), name
        assert np.isnan(far[name].sel(pair="two_seeds")), name
    assert far["scatter"].isnull().all() and np.isnan(far["loss"])
    assert ds["intercept"].isnull().all()
    tame = scattering(problem, {"d": d}, [0.1, 0.2, 1.7e308], fit_to=0.2)
    assert tame["intercept"].notnull().all() and tame["intercept_se"].isnull().all()


def test_a_zero_perturbation_has_no_cosine_and_flips_nothing():
    a = torch.tensor([[[1.0, -1.0]], [[0.0, 0.0]], [[1.0, 0.0]]]).transpose(0, 1)
    b = torch.tensor([[[1.0, 1.0]], [[1.0, -1.0]], [[-1.0, 1.0]]]).transpose(0, 1)
    found = compare(a.contiguous(), b.contiguous(), [(0, 0)])
    assert found["left_out"] == 1
    assert found["cosine"] == pytest.approx((0 - 1 / math.sqrt(2)) / 2)
    assert found["flipped"] == pytest.approx((0.5 + 0 + 0.5) / 3)
    assert found["zero"] == pytest.approx((0 + 1 + 0.5) / 3)
    broken = torch.where(a == 0, torch.nan, a)
    assert all(math.isnan(compare(broken, b, [(0, 0)])[name]) for name in MEASURES)
    assert all(math.isnan(v) for v in compare(a, b, []).values())


@pytest.mark.parametrize("pixels", [[0.5] * 4, [0.0, 0.5, 1.0, 0.5], [0.0, 0.0, 1.0], [0.0, 0.4]])
def test_the_null_of_random_signs_is_exact(pixels):
    """Against every pair of sign vectors."""
    ways = [(0, 1) if p == 0 else (-1, 0) if p == 1 else (-1, 1) for p in pixels]
    every = torch.tensor(list(itertools.product(*ways))).double()
    a = every.repeat_interleave(len(every), dim=0)
    b = every.repeat(len(every), 1)
    lengths = a.norm(dim=1) * b.norm(dim=1)
    cosines = ((a * b).sum(1) / lengths)[lengths > 0]
    truth = {
        "sign_cosine": cosines,
        "flipped": (a * b == -1).double().mean(1),
        "zero": (a * b == 0).double().mean(1),
    }
    found = sign_null(torch.tensor(pixels).view(1, 1, 1, -1).double())
    for name, values in truth.items():
        mean, spread = found[name]
        assert mean == pytest.approx(values.mean().item(), abs=1e-12), name
        assert spread == pytest.approx(values.std(correction=0).item(), abs=1e-12), name


def test_the_null_where_nothing_is_clipped_is_the_textbook_one_and_the_draws_agree():
    clean = make_images(400, (1, 12, 12)).pixels
    found = sign_null(clean)
    assert found["sign_cosine"] == pytest.approx((0, 1 / 12), abs=1e-12)
    assert found["flipped"] == pytest.approx((0.5, 1 / 24), abs=1e-12)
    assert found["zero"] == (0, 0)
    clean[:, :, :6] = 0.0  # half of every image is black
    exact = sign_null(clean)["sign_cosine"]
    drawn = cosine_null(clean, torch.arange(400), 0.1, seed=0)
    assert abs(drawn["mean"] - exact[0]) < 4 * drawn["se"]
    assert exact[0] > 0.15  # far from orthogonal
    assert drawn["sd"] == pytest.approx(exact[1], rel=0.05)
    assert drawn["se"] == pytest.approx(exact[1] / math.sqrt(400 * 8), rel=0.2)


def test_the_line_and_its_errors():
    x = np.array([0.1, 0.5, 1.0, 2.0])
    y = 3 + 2 * x + np.array([0.1, -0.2, 0.15, -0.05])
    coefficients, covariance = np.polyfit(x, y, 1, cov=True)
    intercept, slope, *errors = line(x, y)
    assert (slope, intercept) == pytest.approx(tuple(coefficients))
    assert tuple(errors[::-1]) == pytest.approx(tuple(np.sqrt(np.diag(covariance))))
    weights = 1 / y  # numpy's weights are those of residuals, not of their squares
    coefficients, covariance = np.polyfit(x, y, 1, w=weights, cov=True)
    intercept, slope, *errors = relative_line(x, y)
    assert (slope, intercept) == pytest.approx(tuple(coefficients))
    assert tuple(errors[::-1]) == pytest.approx(tuple(np.sqrt(np.diag(covariance))))
    assert relative_line(x, 0 * x) == (0, 0, 0, 0)
    assert relative_line(x, y - y[0]) == line(x, y - y[0])
    assert line(x[:2], y[:2])[2:] == pytest.approx((np.nan, np.nan), nan_ok=True)
    assert np.isnan(line(x[:1], y[:1])).all()
    assert np.isnan(line(x, np.where(x == 1, np.nan, y))).all()


def test_a_relative_distance_is_a_share_of_the_weights(tmp_path):
    problem = Problem(make_mlp(), make_images(8), ATTACK)
    end = Problem(make_mlp(seed=1), make_images(8)).origin
    way = between(problem.origin, end)
    share = norm(way) / norm(problem.origin)
    ds = scattering(problem, {"between": way}, [share / 2, share], relative=True)
    assert float(ds["distance"][1]) == pytest.approx(float(ds["length"][0]))
    arrived = float(ds["loss"].isel(direction=0, eps=0, distance=1))
    both = [problem.seeded(another_seed(0, n)).evaluate(end).loss for n in (0, 1)]
    assert arrived == pytest.approx(np.mean(both), rel=1e-6)
    save_result(ds, tmp_path / "s.nc")
    xr.testing.assert_identical(load_result(tmp_path / "s.nc", "scattering"), ds)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"distances": [0.2, 0.1]}, "distances must be increasing"),
        ({"distances": [-0.1, 0.1]}, "distances must be increasing"),
        ({"distances": []}, "distances must be increasing"),
        ({"distances": [0.1, math.inf]}, "distances must be increasing"),
        ({"draws": 0}, "draws must be at least 1, got 0"),
        ({"fit_to": 0.0}, "fit_to must be positive"),
        ({"batchnorm": "keeep"}, "did you mean 'keep'"),
        ({"budgets": [0.1, 0.1]}, "different numbers"),
        ({"budgets": []}, "different numbers"),
        ({"budgets": [-0.1]}, "budgets: attack threshold must not be negative"),
        ({"directions": ["randm"]}, "did you mean 'random'"),
        ({"directions": ["random:0"]}, "numbers start at 1"),
        ({"directions": ["gradient:2"]}, "there is one gradient"),
        ({"directions": ["random", "random:1"]}, "directions must differ"),
        ({"directions": "random"}, "must be a list of names"),
        ({"directions": {}}, "must be a list of names"),
        ({"directions": {"d": {"w": torch.ones(2)}}}, "of another network"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_computed(options, said, monkeypatch):
    problem = Problem(make_mlp(), make_images(), ATTACK)
    monkeypatch.setattr(Problem, "adversarial", lambda *a, **k: pytest.fail("computed"))
    with pytest.raises(InputError, match=said):
        scattering(**{"problem": problem, "directions": ["random"], "distances": [0.1], **options})


def test_directions_of_no_length_and_missing_attacks_are_refused():
    problem = Problem(make_mlp(), make_images())
    zero = {n: torch.zeros_like(t) for n, t in problem.origin.items()}
    for bad in (zero, {n: t + math.nan for n, t in zero.items()}):
        with pytest.raises(InputError, match="nothing can move along it"):
            scattering(problem, {"d": bad}, [0.1])
    with pytest.raises(InputError, match="need a problem under an attack"):
        scattering(problem, ["random"], [0.1], budgets=[0.1])
    bare = scattering(problem, ["random"], [0.1])
    assert bare["eps"].values.tolist() == [0.0]
    assert (bare["scatter"].sel(part="moving") == 0).all()
    assert unflatten(flatten(zero), zero).keys() == zero.keys()


def test_the_figure_shows_what_the_result_holds():
    problem = Problem(make_mlp(), make_images(8), ATTACK)
    ds = scattering(problem, ["random", "gradient"], [0.0, 0.1, 0.3, 1.0], budgets=[0.0, 0.1])
    figure = draw({"net": ds}, measure="flipped")
    assert len(figure.axes) == 4
    top, bottom = figure.axes[1], figure.axes[3]
    moved = ds.sel(eps=0.1).isel(distance=slice(1, None))
    drawn = {line.get_label(): line.get_ydata() for line in top.lines}
    for name in ("random", "gradient"):
        wanted = moved["flipped"].sel(direction=name, pair="same_seed")
        np.testing.assert_array_equal(drawn[name], wanted)
    assert set(drawn["two attack seeds at θ"]) == {float(moved["floor_flipped"])}
    wanted = moved["scatter"].sel(direction="random", part="moving").values
    assert any(np.array_equal(line.get_ydata(), wanted) for line in bottom.lines)
    single = draw({"net": ds.sel(eps=[0.1])})
    assert single.get_figwidth() == 3.25  # one column
    with pytest.raises(InputError, match="measure"):
        draw({"net": ds}, measure="cosin")
    with pytest.raises(InputError, match="no distance above 0"):
        draw({"net": ds.isel(distance=[0])})
    plt.close("all")


def test_grey_marks_a_place_without_a_finite_loss():
    problem = Problem(
        Logistic(torch.linspace(-1, 1, 36).double()), make_images(9, classes=2), ATTACK
    )
    d = {"w": torch.ones(36).double()}
    ds = scattering(problem, {"d": d}, [0.1, 1.0, 1.7e308])
    top, bottom = draw(ds).axes
    for axes in (top, bottom):
        assert "no finite loss" in axes.get_legend_handles_labels()[1]
    plt.close("all")


def test_the_null_is_of_the_norm_of_the_attack_and_its_spread_of_one_image():
    """Only this sees the spread between images in it, and l_2 budgets that move every pixel."""
    clean = torch.full((200, 1, 20, 20), 0.5, dtype=torch.float64)
    clean[:100] = 0
    drawn = cosine_null(clean, torch.arange(200), 0.1, seed=0)
    assert drawn["sd"] == pytest.approx(sign_null(clean)["sign_cosine"][1], rel=0.1)
    grey = torch.rand(60, 1, 28, 28, generator=torch.Generator().manual_seed(0)).double()
    found = cosine_null(grey, torch.arange(60), 0.5, seed=0, order=2)
    assert abs(found["mean"]) < 0.02
    assert cosine_null(grey, torch.arange(60), 0.5, seed=0)["mean"] > 0.1
