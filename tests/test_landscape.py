"""Directions, paths, scans, BatchNorm statistics, curves and result files."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

from ridgeline.landscape.batchnorm import recalibrated, statistics_at
from ridgeline.landscape.problem import Problem
from ridgeline.landscape.result import (
    claim,
    complete,
    empty_cells,
    load_result,
    recipe_of,
    result_path,
    save_result,
    stamp,
)
from ridgeline.landscape.surfaces.axes import grid
from ridgeline.landscape.surfaces.cell import variables_of
from ridgeline.landscape.surfaces.curve import CurveTraining, Knots, knots_in
from ridgeline.landscape.surfaces.curve_scan import scan_curve
from ridgeline.landscape.surfaces.scan import scan
from ridgeline.landscape.weights.directions import between, random_direction, unit
from ridgeline.landscape.weights.paths import Bezier, Plane, PolygonalChain, curve, straight
from ridgeline.landscape.weights.point import add, buffers_of, dot, norm, point_of
from ridgeline.models import InputError
from ridgeline.train.attacks import PGD
from ridgeline.train.files.locks import release_all
from ridgeline.train.loop import fit
from ridgeline.train.optimizers import parse_optimizer
from tests.conftest import make_conv_bn, make_images, make_mlp

ATTACK = PGD(eps=0.1, iterations=3)


def test_filter_normalisation_gives_every_filter_the_weights_norm():
    point = point_of(make_conv_bn())
    d = random_direction(point, seed=4)
    for name, weight in point.items():
        if weight.ndim == 1:
            assert d[name].abs().max() == 0
        else:
            ratio = d[name].flatten(1).norm(dim=1) / weight.flatten(1).norm(dim=1)
            torch.testing.assert_close(ratio, torch.ones_like(ratio), rtol=1e-12, atol=0)
    layer = random_direction(point, 4, "layer", "layer")
    for name, weight in point.items():
        assert layer[name].norm() == pytest.approx(weight.norm().item(), rel=1e-12)
    signs = random_direction(point, 4, "filter", "elementwise")
    torch.testing.assert_close(signs["conv.bias"].abs(), point["conv.bias"].abs())
    plain = random_direction(point, 4, "none", scale=2.0)
    count = sum(t.numel() for t in point.values())
    assert norm(plain) / 2 == pytest.approx(count**0.5, rel=0.2)


def test_directions_repeat_by_seed_and_differ_between_seeds():
    point = point_of(make_mlp())
    a, b, c = (random_direction(point, s) for s in (1, 1, 2))
    assert all(torch.equal(a[n], b[n]) for n in a)
    assert abs(dot(a, c)) < 0.5 * norm(a) * norm(c)
    with pytest.raises(InputError, match="allowed: filter, layer, none"):
        random_direction(point, 0, "filters")


def test_filter_normalised_line_ignores_relu_rescaling():
    """Scale a ReLU layer by a and the next by 1/a: same function, same filter-normalised line."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 5), nn.ReLU(), nn.Linear(5, 4)).double()
    scaled = copy.deepcopy(network)
    with torch.no_grad():
        scaled[1].weight.mul_(7)
        scaled[1].bias.mul_(7)
        scaled[3].weight.div_(7)
    losses = []
    for net in (network, scaled):
        problem = Problem(net, make_images(15))
        path = Plane([problem.origin, random_direction(problem.origin, 3)])
        losses.append(scan(problem, path, {"x1": [-1, 0, 0.5, 1]})["loss"].values)
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-10)


def test_between_and_unit():
    a, b = point_of(make_mlp(seed=1)), point_of(make_mlp(seed=2))
    end = add(a, between(a, b))
    assert all(torch.allclose(end[n], b[n], rtol=0, atol=1e-15) for n in a)
    assert norm(unit(a, 3.0)) == pytest.approx(3.0)


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("kind", ["bezier", "poly_chain", "bezier_curve"])
def test_curve_ends_are_exact_and_coefficients_sum_to_one(kind, count):
    knots = [point_of(make_mlp(seed=s).float()) for s in range(count)]
    path = curve(kind, knots)
    for t, end in ((0.0, knots[0]), (1.0, knots[-1])):
        assert all(torch.equal(path(t)[n], end[n]) for n in end)
    for t in np.linspace(0, 1, 21):
        assert sum(path.coefficients(float(t))) == pytest.approx(1, abs=1e-12)


def test_polygonal_chain_passes_through_its_knots():
    path = PolygonalChain([{}] * 4)
    assert path.coefficients(1 / 3) == pytest.approx([0, 1, 0, 0], abs=1e-12)
    assert path.coefficients(0.1) == pytest.approx([0.7, 0.3, 0, 0])
    assert path.coefficients(1.0) == [0, 0, 0, 1]


def test_straight_knots_make_the_straight_segment():
    """The reference initialises in reverse order and dwells near the middle."""
    a, b = point_of(make_mlp(seed=1)), point_of(make_mlp(seed=2))
    path = Bezier(straight(a, b, 5))
    for t in (0.1, 0.25, 0.5, 0.9):
        expected = add(a, between(a, b), t)
        assert all(torch.allclose(path(t)[n], expected[n], atol=1e-14) for n in a)


def test_scan_centre_is_the_plain_loss_and_axes_are_not_swapped():
    problem = Problem(make_mlp(), make_images(20), ATTACK)
    d1, d2 = (random_direction(problem.origin, s) for s in (1, 2))
    ds = scan(problem, Plane([problem.origin, d1, d2]), {"x1": [-1, 0, 1], "x2": [0, 0.5]})
    assert ds["loss"].dims == ("eps", "x1", "x2")
    centre = ds.sel(x1=0, x2=0).isel(eps=0)
    assert float(centre["loss"]) == problem.evaluate().loss
    assert float(centre["accuracy"]) == problem.evaluate().accuracy
    corner = problem.evaluate(add(add(problem.origin, d1), d2, 0.5))
    assert float(ds["loss"].sel(x1=1, x2=0.5).isel(eps=0)) == pytest.approx(corner.loss, rel=1e-12)
    losses = problem.evaluate().losses.numpy()
    assert float(centre["loss_se"]) == pytest.approx(losses.std(ddof=1) / len(losses) ** 0.5)


def test_scan_of_a_quadratic_is_its_parabola():
    """Cross-entropy of log-probabilities -w_k^2/2 is a quadratic: the scan must trace it."""

    class Bowl(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.tensor([0.3, -0.2], dtype=torch.float64))

        def forward(self, x):
            q = 0.5 * (2 * self.w[0] ** 2 + 5 * self.w[1] ** 2)
            p = torch.exp(-q).expand(len(x))
            return torch.stack([p.log(), (1 - p).log()], 1)

    images = make_images(6, classes=2)
    images = replace(images, labels=torch.zeros(6, dtype=torch.long))
    problem = Problem(Bowl(), images)
    e = [{"w": torch.eye(2, dtype=torch.float64)[k]} for k in (0, 1)]
    axis = grid(-1, 1, 0.25, "axis")
    ds = scan(problem, Plane([problem.origin, *e]), {"x1": axis, "x2": axis})
    x1, x2 = np.meshgrid(0.3 + axis, -0.2 + axis, indexing="ij")
    np.testing.assert_allclose(ds["loss"].values[0], x1**2 + 2.5 * x2**2, rtol=1e-12)


def test_adversary_modes():
    problem = Problem(make_mlp(), make_images(20), ATTACK)
    path = Plane([problem.origin, random_direction(problem.origin, 1)])
    axis = np.linspace(-1, 1, 7)
    modes = {
        m: scan(problem, path, {"x1": axis}, adversary=m, anchor_every=3)["loss"].values[0]
        for m in ("moving", "frozen", "anchored", "max")
    }
    clean = scan(problem.under(None), path, {"x1": axis})["loss"].values[0]
    assert modes["frozen"][3] == pytest.approx(modes["moving"][3], rel=1e-12)
    assert (modes["max"] >= np.maximum(modes["moving"], modes["frozen"]) - 1e-12).all()
    # frozen images are weaker than the network's own, attack noise aside
    assert (modes["frozen"] <= modes["moving"] + 1e-3).all()
    assert (modes["moving"] > clean).all()
    # blocks 0-2, 3-5, 6: the anchor is the middle cell, where the attack is fresh
    for anchor in (1, 4, 6):
        assert modes["anchored"][anchor] == pytest.approx(modes["moving"][anchor], rel=1e-12)
    with pytest.raises(InputError, match="adversary mode"):
        scan(problem, path, {"x1": axis}, adversary="fresh")


def test_budget_axis():
    problem = Problem(make_mlp(), make_images(12), ATTACK)
    path = Plane([problem.origin, random_direction(problem.origin, 1)])
    ds = scan(problem, path, {"x1": [0.0, 1.0]}, budgets=[0.0, 0.05, 0.1])
    assert list(ds["eps"].values) == [0.0, 0.05, 0.1]
    assert float(ds["loss"].sel(eps=0, x1=0)) == problem.under(None).evaluate().loss
    assert (np.diff(ds["loss"].values, axis=0) > 0).all()
    with pytest.raises(InputError, match="need an attack"):
        scan(problem.under(None), path, {"x1": [0.0]}, budgets=[0.1])


def test_a_scan_cut_off_is_completed_to_the_same_numbers(tmp_path):
    problem = Problem(make_mlp(), make_images(12), ATTACK)
    path = Plane([problem.origin, random_direction(problem.origin, 1)])
    axes = {"x1": np.linspace(-1, 1, 5)}
    whole = scan(problem, path, axes)
    file = tmp_path / "scan.nc"
    counted = itertools.count()

    class Cut(Exception):
        pass

    def save(ds):
        save_result(stamp(ds, "scan", {"a": 1}), file)

    real = Problem.evaluate

    def failing(self, *args, **kwargs):
        if next(counted) == 3:
            raise Cut
        return real(self, *args, **kwargs)

    half = empty_cells({n: whole[n] for n in whole.dims}, variables_of(problem))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Problem, "evaluate", failing)
        with pytest.raises(Cut):
            scan(problem, path, axes, cells=half)
    save(half)
    resumed = load_result(file)
    assert int((~resumed["done"]).sum()) == int(np.isnan(resumed["loss"]).sum()) == 2
    assert not complete(resumed)
    xr.testing.assert_equal(scan(problem, path, axes, cells=resumed, save=save), whole)
    assert complete(load_result(file))


def test_grid_holds_zero_and_both_ends():
    points = grid(-1, 1, 0.05, "axis")
    assert len(points) == 41
    assert 0.0 in points
    assert (points[0], points[-1]) == (-1.0, 1.0)
    for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.25):
        assert grid(0, 1, step, "t")[-1] == 1.0
    assert grid(0, 1, 0.3, "t")[-1] == pytest.approx(0.9)
    for bad in ((0, 1, 0), (1, 0, 0.1), (0, 1, -0.1)):
        with pytest.raises(InputError):
            grid(*bad, "t")


def full_batch_statistics(network, images, point):
    """Train-mode statistics of all images as one batch, the definition of recalibration."""
    seen = {}
    twin = copy.deepcopy(network).train()
    twin.load_state_dict({**twin.state_dict(), **point})
    for name, module in twin.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_pre_hook(
                lambda m, i, name=name: seen.update(
                    {name: (i[0].mean((0, 2, 3)), i[0].var((0, 2, 3), unbiased=False))}
                )
            )
    with torch.no_grad():
        twin(images.pixels)
    return seen


@pytest.mark.parametrize("batch_size", [40, 7])
def test_recalibrated_statistics_are_those_of_one_full_batch(batch_size):
    network, images = make_conv_bn(), make_images(40)
    problem = Problem(network, images, batch_size=batch_size)
    point = add(problem.origin, random_direction(problem.origin, 1), 0.7)
    buffers = recalibrated(problem, point)
    for name, (mean, variance) in full_batch_statistics(network, images, point).items():
        torch.testing.assert_close(buffers[f"{name}.running_mean"], mean)
        torch.testing.assert_close(buffers[f"{name}.running_var"], variance)
    kept = statistics_at(problem, point, "keep")
    assert all(torch.equal(kept[n], b) for n, b in network.named_buffers())
    with pytest.raises(InputError, match="allowed: keep, recalibrate"):
        statistics_at(problem, point, "forget")


def test_diagnostics_leave_weights_and_buffers_alone_also_after_an_exception(monkeypatch):
    network = make_conv_bn().train()
    before = copy.deepcopy(network.state_dict())
    problem = Problem(network, make_images(15), ATTACK, batch_size=4)
    inside = {k: v.clone() for k, v in problem.network.state_dict().items()}
    path = Plane([problem.origin, random_direction(problem.origin, 1)])
    scan(problem, path, {"x1": [-1, 1]}, batchnorm="recalibrate")
    monkeypatch.setattr(
        "ridgeline.landscape.problem.evaluate",
        lambda *a, **k: (_ for _ in ()).throw(RuntimeError("cut")),
    )
    with pytest.raises(RuntimeError, match="cut"):
        scan(problem, path, {"x1": [-1, 1]}, batchnorm="recalibrate")
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert all(torch.equal(v, inside[k]) for k, v in problem.network.state_dict().items())
    assert network.training


def test_curve_training_lowers_the_barrier_and_leaves_the_ends():
    images = make_images(80)
    ends = []
    for seed in (0, 1):
        network = make_mlp(hidden=12, seed=seed).float()
        from ridgeline.train.methods import Standard

        fit(
            Standard(network), images, images, epochs=60, batch_size=20, seed=seed,
            optimizer=parse_optimizer("name=adam,lr=0.02"),
        )  # fmt: skip
        ends.append(point_of(network))
    method = CurveTraining(network, straight(*ends, 3), [1, 0, 1])
    before = scan_curve(Problem(network, images), method.path, grid(0, 1, 0.1, "t"), {"a": images})
    fit(
        method, images, images, epochs=150, batch_size=20, clock="batch",
        optimizer=parse_optimizer("name=adam,lr=0.02"),
    )  # fmt: skip
    after = scan_curve(Problem(network, images), method.path, grid(0, 1, 0.1, "t"), {"a": images})
    for k, end in ((0, ends[0]), (2, ends[1])):
        assert all(torch.equal(method.network.points()[k][n], end[n]) for n in end)
    barrier = after["barrier"].sel(subset="a")
    assert float(barrier.sel(path="line")) > 0.05
    assert float(barrier.sel(path="curve")) < 0.5 * float(barrier.sel(path="line"))
    np.testing.assert_allclose(
        before["loss"].sel(path="curve"), before["loss"].sel(path="line"), rtol=1e-4
    )
    np.testing.assert_allclose(after["loss"].sel(path="line"), before["loss"].sel(path="line"))
    losses = after["loss"].sel(path="curve", subset="a")
    assert float(losses[0]) == pytest.approx(Problem(network, images).evaluate(ends[0]).loss)


def test_curve_with_batchnorm_and_attack_trains_and_keeps_the_base():
    network = make_conv_bn().float()
    before = copy.deepcopy(network.state_dict())
    start = point_of(network)
    end = {n: w + 0.1 for n, w in start.items()}
    images = make_images(24)
    method = CurveTraining(network, straight(start, end, 3), [1, 0, 1], attack=ATTACK)
    base = copy.deepcopy(method.base.state_dict())
    metrics = fit(
        method, images, images, epochs=2, batch_size=8, clock="batch",
        optimizer=parse_optimizer("name=sgd,lr=0.05"),
    )  # fmt: skip
    assert np.isfinite(metrics[-1]["test_middle_target_loss"])
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert all(torch.equal(v, base[k]) for k, v in method.base.state_dict().items())
    # the attack's own passes do not count: three train-mode passes per epoch
    tracked = (
        method.network.state_dict()["bn.num_batches_tracked"] - before["bn.num_batches_tracked"]
    )
    assert int(tracked) == 6
    ds = scan_curve(Problem(network, images), method.path, [0.0, 0.5, 1.0], {"test": images})
    assert complete(ds)


def test_knots_round_trip_and_wrong_curves_are_refused():
    network = make_conv_bn()
    point = point_of(network)
    knots = Knots(straight(point, {n: w + 1 for n, w in point.items()}, 3), [1, 0, 1],
                  buffers_of(network))  # fmt: skip
    read = knots_in(knots.state_dict(), point, "file")
    for a, b in zip(read, knots.points(), strict=True):
        assert all(torch.equal(a[n], b[n]) for n in a)
    trainable = {n for n, p in knots.named_parameters() if p.requires_grad}
    assert trainable == {f"{n}_1" for n in point}
    with pytest.raises(InputError, match="not a curve"):
        knots_in(network.state_dict(), point, "file")
    with pytest.raises(InputError, match="at least one"):
        CurveTraining(network, [point, point], [1, 1])


def test_results_round_trip_with_recipe_and_refuse_others(tmp_path):
    file = tmp_path / "r.nc"
    cells = {"loss": ("x", [1.0, np.nan]), "done": ("x", [True, True])}
    ds = stamp(xr.Dataset(cells), "scan", {"seed": 1, "t": (1, 2)})
    save_result(ds, file)
    xr.testing.assert_identical(load_result(file), ds)
    assert claim(file, {"seed": 1, "t": [1, 2]}, overwrite=False) is not None
    assert claim(file, {"seed": 2}, overwrite=True) is None
    content = file.read_bytes()
    with pytest.raises(InputError, match=r"seed was 1, now 2.*--overwrite"):
        claim(file, {"seed": 2, "t": [1, 2]}, overwrite=False)
    with pytest.raises(InputError, match=r"needed is 'curve'"):
        load_result(file, "curve")
    assert file.read_bytes() == content
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="truncated"):
        load_result(file)
    with pytest.raises(InputError, match="overwrite"):
        claim(file, {}, overwrite=False)
    with pytest.raises(InputError, match="no such"):
        load_result(tmp_path / "absent.nc")
    assert result_path("a/b.pkl").name == "b.nc"
    assert result_path("a/b").name == "b.nc"
    release_all()
    assert [p.name for p in tmp_path.iterdir()] == ["r.nc"]


def test_a_recipe_of_before_names_the_batchnorm_policy_as_now():
    ds = xr.Dataset(attrs={"recipe": '{"bn": "recalibrate", "seed": 1}'})
    assert recipe_of(ds) == {"batchnorm": "recalibrate", "seed": 1}
