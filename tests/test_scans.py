"""The numbers of scans, curves and diagnostics where losses are NaN or networks in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

from ridgeline.analysis import corruptions
from ridgeline.analysis.adversaries import adversaries
from ridgeline.analysis.cka import cka
from ridgeline.analysis.frequency.fourier import fourier_sensitivity, pass_curves
from ridgeline.analysis.frequency.spectral_bias import spectral_bias
from ridgeline.analysis.perturbations import similarity, similarity_matrix
from ridgeline.analysis.reports import report
from ridgeline.analysis.robustness import robustness
from ridgeline.analysis.scattering import scattering
from ridgeline.analysis.training.generator import alignment, study
from ridgeline.analysis.training.overfitting import nrr
from ridgeline.analysis.training.trajectory import barrier, trajectory
from ridgeline.landscape.problem import Problem
from ridgeline.landscape.result import complete, load_result, save_result, stamp
from ridgeline.landscape.resume import Parts
from ridgeline.landscape.surfaces.curve import knots_in
from ridgeline.landscape.surfaces.curve_scan import scan_curve
from ridgeline.landscape.surfaces.scan import scan
from ridgeline.landscape.weights.directions import random_direction
from ridgeline.landscape.weights.paths import Plane, PolygonalChain
from ridgeline.landscape.weights.point import add
from ridgeline.models import InputError
from ridgeline.train.attacks import FGSM, PGD
from tests.conftest import make_images, make_mlp

ATTACK = FGSM(eps=0.05)


class Cut(Exception):
    """Stands for Ctrl-C, which would end the tests as well."""


class Partial(nn.Module):
    """A network whose logits are NaN for the images that begin with a dark pixel."""

    def __init__(self):
        super().__init__()
        self.net = make_mlp()

    def forward(self, x):
        return self.net(x) + (x[:, 0, 0, 0] - 0.5).sqrt()[:, None]


class Counted(nn.Module):
    """A small smooth network that counts its passes and is interrupted after `left` of them."""

    left = 10**9

    def __init__(self, seed: int = 0, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.net = make_mlp(seed=seed).to(dtype)

    def forward(self, x):
        if Counted.left == 0:
            raise Cut
        Counted.left -= 1
        return self.net(x)


@pytest.fixture(autouse=True)
def rested():
    yield
    Counted.left = 10**9


def broken_path(problem: Problem) -> tuple[PolygonalChain, dict]:
    """A path whose middle is NaN: its loss is known at both ends only."""
    nothing = {n: torch.full_like(w, torch.nan) for n, w in problem.origin.items()}
    end = add(problem.origin, random_direction(problem.origin, 1), 0.5)
    return PolygonalChain([problem.origin, nothing, end]), end


def test_a_nan_loss_is_a_finished_cell(tmp_path):
    """Only this sees that NaN cells are attacked again at every call, and never are complete."""
    problem = Problem(Counted(), make_images(12), ATTACK)
    path, _ = broken_path(problem)
    t = [0.0, 0.25, 0.5, 0.75, 1.0]
    ds = scan(problem, path, {"t": t})
    np.testing.assert_array_equal(np.isfinite(ds["loss"][0]), [True, False, False, False, True])
    assert (ds["accuracy"].values[0, 1:4] == 0).all()
    assert complete(ds) and ds["done"].dtype == bool
    file = tmp_path / "scan.nc"
    save_result(stamp(ds, "scan", {}), file)
    again = load_result(file)
    assert again["done"].dtype == bool
    Counted.left = 0  # a single pass would be an interruption
    xr.testing.assert_equal(scan(problem, path, {"t": t}, cells=again), ds)
    assert report(ds) == "3 of 5 cells hold no finite loss"
    assert report(ds.isel(t=[0])) == ""


def test_a_scan_keeps_every_finished_cell_of_an_interruption():
    """Only this sees Ctrl-C promise to continue and lose the cells since the last save."""
    problem, kept = Problem(Counted(), make_images(12)), []
    path = Plane([problem.origin, random_direction(problem.origin, 1)])
    Counted.left = 2
    with pytest.raises(Cut):
        scan(
            problem, path, {"x1": [-1.0, 0.0, 1.0]}, save=lambda ds: kept.append(ds.copy(deep=True))
        )
    np.testing.assert_array_equal(kept[-1]["done"][0], [True, True, False])


def test_a_grid_from_before_done_is_completed(tmp_path):
    """Only this sees that NaN in an old file, which has no `done`, counts as computed."""
    problem = Problem(make_mlp(), make_images(12))
    path = Plane([problem.origin, random_direction(problem.origin, 1)])
    whole = scan(problem, path, {"x1": [-1.0, 0.0, 1.0]})
    old = whole.drop_vars("done").copy(deep=True)
    old["loss"][0, 1:] = np.nan
    save_result(stamp(old, "scan", {}), tmp_path / "old.nc")
    half = load_result(tmp_path / "old.nc")
    assert not complete(half)
    xr.testing.assert_equal(scan(problem, path, {"x1": [-1.0, 0.0, 1.0]}, cells=half), whole)


def test_a_barrier_over_an_unknown_loss_is_unknown():
    """Only this sees "barrier 0.0000" for losses [2.3 nan nan nan 2.3]: a maximum skips NaN."""
    problem = Problem(make_mlp(), make_images(12))
    path, end = broken_path(problem)
    ds = scan_curve(problem, path, [0, 0.25, 0.5, 0.75, 1], {"a": problem.images})
    assert np.isnan(ds["barrier"].sel(path="curve", subset="a"))
    assert np.isfinite(ds["barrier"].sel(path="line", subset="a"))
    assert np.isfinite(barrier(problem, problem.origin, end)["barrier"])
    lost = barrier(problem, problem.origin, {n: w * torch.nan for n, w in end.items()})
    assert np.isnan(lost["barrier"]) and np.isnan(lost["barrier_at"])


def test_means_over_results_do_not_skip_nan():
    """Only this sees NaN left out of a mean in silence: cosines, CKA, spectra, seeds."""
    a = torch.tensor([[1.0, 0.0], [0.0, 0.0], [torch.nan, 1.0]])
    pair = similarity(a, torch.ones(3, 2))
    assert pair.zeros == 1
    assert np.isnan(pair.mean_and_error(pair.cosine)[0])

    images = make_images(12)
    bright = images.pixels[:, 0, 0, 0].argsort(descending=True)  # the constructor tries the first
    problem = Problem(Partial(), images.take(bright))
    assert 0 < problem.evaluate().losses.isfinite().sum() < 12
    assert np.isnan(alignment(problem, 0.1)["alignment"])

    problem = Problem(make_mlp(), make_images(12))
    for tensor in (problem.origin["3.weight"], problem.network[3].weight.data):
        tensor[0, 0] = torch.nan
    ds = cka(problem, problem, minibatch=6)
    assert np.isfinite(ds["diagonal"][0]) and np.isnan(ds["mean_diagonal"])

    names = ["a", "b", "c"]
    layers = {n: xr.Dataset({m: ("layer", [0.1 * k, np.nan if n == "b" else 0.2])
                             for m in ("high_share", "centroid", "entropy")})
              for k, n in enumerate(names)}  # fmt: skip
    with pytest.raises(InputError, match="b has no high_share"):
        spectral_bias(layers, {n: (0.1 * k, 0.01) for k, n in enumerate(names)})

    assert nrr(0.0, 0.0) == 0  # a dead run counts in the mean over seeds


def plain(images, name, severity, seed):
    """A corruption without the package: darker images."""
    del name, seed
    return type(images)(images.pixels / (1 + severity), images.labels, images.index,
                        images.name, images.num_classes)  # fmt: skip


#: every diagnostic of analysis/ and every scan, as a function of the problems of two networks
DIAGNOSTICS: dict[str, Callable[[Problem, Problem], xr.Dataset]] = {
    "robustness": lambda p, q: robustness([p, q], [0.02, 0.05]),
    "adversaries": lambda p, q: adversaries({"a": p, "b": q}, PGD(eps=0.05, iterations=2)),
    "similarity": lambda p, q: similarity_matrix(
        {"p": adversaries({"a": p}, ATTACK), "q": adversaries({"a": q}, ATTACK)}, ["a"]),
    "cka": lambda p, q: cka(p, q, minibatch=5),
    "cka of one": lambda p, q: cka(p, minibatch=5),
    "fourier": lambda p, q: fourier_sensitivity(p, 1.0),
    "bands": lambda p, q: pass_curves(p),
    "generator": lambda p, q: study({1: p, 2: q}, q, ATTACK, PGD(eps=0.05, iterations=2),
                                    p.images),
    "trajectory": lambda p, q: trajectory({1: p, 2: q}, q.origin, trace_products=4, directions=2),
    "barrier": lambda p, q: xr.Dataset(barrier(p, p.origin, q.origin, 4)),
    "scattering": lambda p, q: scattering(p, ["random", "gradient"], [0.0, 0.1]),
    "corruptions": lambda p, q: corruptions.corruption_scores(p, ["x", "y"], [1, 2]),
    "scan": lambda p, q: scan(p, Plane([p.origin, q.origin]), {"x1": [0.0, 0.5]}),
    "curve": lambda p, q: scan_curve(
        p, PolygonalChain([p.origin, q.origin]), [0.0, 0.5, 1.0], {"a": p.images}),
}  # fmt: skip


@pytest.mark.parametrize("name", DIAGNOSTICS)
def test_a_float64_network_gives_the_numbers_of_float32(name, monkeypatch):
    """Only this sees a caller of `evaluate` or `attacked` that forgets the network's dtype."""
    monkeypatch.setattr(corruptions, "corrupted", plain)
    found = []
    for dtype in (torch.float32, torch.float64):
        pair = [Problem(Counted(s, dtype), make_images(12), ATTACK, batch_size=5) for s in (1, 2)]
        found.append(DIAGNOSTICS[name](*pair))
    single, double = found
    for key, value in single.data_vars.items():
        if value.dtype.kind == "f" and not key.startswith("residual"):
            scale = np.nanmax(np.abs(double[key].values), initial=1.0)
            np.testing.assert_allclose(value, double[key], atol=1e-5 * scale, err_msg=key)


def test_a_path_follows_the_network_to_its_device_and_dtype():
    """Only this sees knots left on the host, in the dtype of their file, beside a moved network."""
    problem = Problem(make_mlp(), make_images(12))
    assert problem.dtype == torch.float64
    ends = [{n: w.float() for n, w in point.items()} for point in (problem.origin,) * 2]
    path = PolygonalChain(ends).like({n: w.to("meta") for n, w in problem.origin.items()})
    assert {(w.device.type, w.dtype) for k in path.knots for w in k.values()} == {
        ("meta", torch.float64)
    }
    ds = scan_curve(problem, PolygonalChain(ends), [0.0, 1.0], {"a": problem.images})
    rounded = problem.evaluate({n: w.double() for n, w in ends[0].items()}).loss
    assert float(ds["loss"].sel(path="curve", subset="a", t=0)) == rounded  # in float64


def test_knots_are_counted_by_number():
    """Only this sees a parameter whose name begins with another's counted as its control points."""
    like = {"g": torch.zeros(2), "g_0": torch.zeros(2)}
    tensors = {f"{n}_{k}": torch.full((2,), float(k)) for n in like for k in range(3)}
    assert len(knots_in(tensors, like, "file")) == 3


@pytest.mark.parametrize("name", sorted(DIAGNOSTICS.keys() - {"scan", "curve", "similarity"}))
def test_a_diagnostic_that_was_cut_off_resumes_bit_for_bit(name, monkeypatch, tmp_path):
    """Only this sees finished parts done again, or resumed to other numbers, after Ctrl-C."""
    monkeypatch.setattr(corruptions, "corrupted", plain)

    def run(cut: int | None = None) -> tuple[xr.Dataset | None, int]:
        parts, Counted.left = Parts(tmp_path / "parts"), 10**9
        pair = [Problem(Counted(s), make_images(12), ATTACK, batch_size=5).resuming(parts)
                for s in (1, 2)]  # fmt: skip
        Counted.left = before = 10**9 if cut is None else cut
        try:
            found = DIAGNOSTICS[name](*pair)
            found.attrs.pop("provenance", None)  # the time of day is in it
            return found, before - Counted.left
        except Cut:
            return None, before

    whole, passes = run()
    (tmp_path / "parts").unlink()
    assert run(cut=2 * passes // 3)[0] is None
    resumed, rest = run()
    whole.attrs.pop("provenance", None)  # says when it was made
    resumed.attrs.pop("provenance", None)
    xr.testing.assert_identical(resumed, whole)
    assert rest < passes
    again, none = run()  # with all parts at hand
    again.attrs.pop("provenance", None)
    xr.testing.assert_identical(again, whole)
    assert none <= passes // 3
