"""What makes scans fast changes no bit: sliced pooling, a cell a thread, compiled passes."""

from __future__ import annotations

import contextlib
import itertools
import shutil

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn
from torch.nn import functional as F

from ridgeline.landscape.problem import Problem
from ridgeline.landscape.surfaces.cell import Places
from ridgeline.landscape.surfaces.planes import random_plane
from ridgeline.landscape.surfaces.pooling import _plain, pooling_stand_ins
from ridgeline.landscape.surfaces.scan import scan
from ridgeline.landscape.surfaces.shards import Shard, merged
from ridgeline.models.errors import InputError
from ridgeline.models.layers import Halving
from tests.conftest import make_conv_bn, make_images

SHAPES = [(2, 3, 8, 8), (3, 7, 9), (2, 3, 5, 7), (1, 1, 2, 2)]
WINDOWS = [
    {"kernel_size": 2}, {"kernel_size": (2, 1)}, {"kernel_size": 2, "stride": 1},
    {"kernel_size": 3, "stride": 2}, {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": np.int64(2)}, {"kernel_size": 1, "stride": 2},
    {"kernel_size": 2, "ceil_mode": True}, {"kernel_size": 2, "dilation": 2}, {"kernel_size": 9},
    {"kernel_size": 2, "stride": (1, 3)}, {"kernel_size": (3, 2)},
]  # fmt: skip


class Around(nn.Module):
    """A pooling layer, and weights for a Problem."""

    def __init__(self, pool: nn.Module):
        super().__init__()
        self.pool, self.head = pool, nn.Linear(1, 4)

    def forward(self, x):
        return self.head(self.pool(x).flatten(1).sum(1, keepdim=True))


@pytest.fixture(scope="module")
def by_slices():
    found = pooling_stand_ins(Problem(Around(nn.MaxPool2d(2)), make_images(4)))
    assert list(found) == ["pool"]
    return found["pool"]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("shape", "window"), list(itertools.product(SHAPES, WINDOWS)))
def test_pooling_by_slices_gives_pytorch_s_values_layout_and_refusals(
    shape, window, layout, by_slices
):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).round(decimals=1)
    x[..., 1, 1], x[..., 0, 0] = torch.nan, -torch.inf
    if x.ndim == 4:
        x = x.contiguous(memory_format=layout)
    pool = nn.MaxPool2d(**window)
    with torch.no_grad():
        try:
            wanted = pool(x)
        except RuntimeError as error:
            with pytest.raises(type(error)):
                by_slices(pool, x) if _plain(pool) else pool(x)
            return
        found = by_slices(pool, x) if _plain(pool) else pool(x)
    assert torch.equal(found.nan_to_num(7), wanted.nan_to_num(7))
    assert found.stride() == wanted.stride() or min(found.shape) == 1
    assert found.data_ptr() != x.data_ptr()


def test_only_plain_layers_are_replaced():
    plain = [nn.MaxPool2d(2), nn.MaxPool2d(3, 2), Halving()]
    others = [nn.MaxPool2d(2, return_indices=True), nn.MaxPool2d(2, padding=1), nn.AvgPool2d(2),
              nn.MaxPool2d(1, 2), nn.MaxPool2d(2, ceil_mode=True), nn.MaxPool2d(5)]  # fmt: skip
    assert all(map(_plain, plain)) and not any(map(_plain, others))


def test_what_somebody_differentiates_or_lays_out_otherwise_is_left_to_pytorch(by_slices):
    """A tie would send its gradient to both; a view of what was transposed would fail."""
    x, pool = torch.zeros(1, 1, 2, 2, requires_grad=True), nn.MaxPool2d(2)
    (gradient,) = torch.autograd.grad(by_slices(pool, x).sum(), x)
    assert gradient.flatten().tolist() == [1, 0, 0, 0]
    images = torch.zeros(3, 1, 2, 2)
    with torch.no_grad():
        per_example = torch.func.vmap(lambda u: by_slices(pool, u[None]))(images)
        inside = torch.func.grad(lambda u: by_slices(pool, u).sum())(images)
        turned = torch.randn(2, 3, 4, 6).transpose(2, 3)
        assert by_slices(pool, turned).view(2, -1).equal(pool(turned).view(2, -1))
    assert per_example.shape == (3, 1, 1, 1, 1)
    assert inside.flatten(1).tolist() == [[1, 0, 0, 0]] * 3


@contextlib.contextmanager
def threads(count: int):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Pooled(nn.Module):
    """A first layer that sees the images alone, pooling, and a buffer."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.head = nn.Linear(27, 4)

    def forward(self, x):
        x = F.max_pool2d(self.norm(self.first(x)).relu(), 2)
        return self.head(x.flatten(1))


def problem_of(network: nn.Module, images: int = 14) -> Problem:
    return Problem(network, make_images(images), batch_size=4)


def plain() -> nn.Module:
    """Of PyTorch's own modules alone."""
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(27, 4),
    )  # fmt: skip


@pytest.mark.parametrize("network", [Pooled, make_conv_bn, plain])
def test_threads_that_take_a_cell_each_give_the_bits_of_one(network):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        problem = problem_of(network())
    plane, found = random_plane(problem, seed=1), []
    for count in (1, 2, 3):
        with threads(count):
            found.append(scan(problem, plane, 5))
    for other in found[1:]:
        xr.testing.assert_equal(other, found[0])


class Breaks(nn.Module):
    """Fails where its weight passes 0.5; counts which places it has seen."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(36, 4)

    def forward(self, x):
        if self.layer.bias.mean() > 0.5:
            raise KeyError("broken")
        return self.layer(x.flatten(1))


def test_an_error_beside_other_cells_ends_the_scan_and_keeps_what_was_done(monkeypatch):
    monkeypatch.setattr("ridgeline.landscape.surfaces.cell.known", lambda network: True)
    problem, kept = problem_of(Breaks()), []
    plane = random_plane(problem, dimensions=1)
    for name, value in plane.knots[1].items():
        value.fill_(0.4 if name == "layer.bias" else 0.0)
    places = np.linspace(-2, 2, 41)
    with threads(2), pytest.raises(KeyError):
        scan(problem, plane, {"x1": places}, save=lambda ds: kept.append(ds.copy(deep=True)))
    done = kept[-1]["done"].values[0]
    broken = (0.5 - problem.origin["layer.bias"].mean().item()) / 0.4
    assert done.tolist() == (places <= broken).tolist()


COMPILER = pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")


@COMPILER
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("count", [1, 2])
def test_compiled_passes_give_the_numbers_up_to_rounding(count):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        problem = problem_of(Pooled())
    plane = random_plane(problem, seed=1)
    with threads(count):
        usual, fast = (scan(problem, plane, 5, compiled=c) for c in (False, True))
    assert "compiled" in fast.attrs["execution"] and "compiled" not in usual.attrs["execution"]
    xr.testing.assert_allclose(fast, usual, rtol=1e-5)


@COMPILER
@pytest.mark.filterwarnings("ignore")
def test_compiled_scans_are_the_same_in_parts_and_for_any_number_of_threads():
    problem = problem_of(Pooled())
    plane, found = random_plane(problem, seed=1), []
    for count in (1, 3):
        with threads(count):
            found.append(scan(problem, plane, 5, compiled=True))
    half = found[0].copy(deep=True)
    half["done"][0, 2:] = False
    half["loss"][0, 2:] = 7.0
    found.append(scan(problem, plane, 5, compiled=True, cells=half))
    for other in found[1:]:
        xr.testing.assert_equal(other, found[0])
    with pytest.raises(InputError, match="without an attack"):
        scan(problem.under("name=fgsm,threshold=0.1"), plane, 3, compiled=True)


class ByWeights(Pooled):
    """What it does hangs on its weights: no one function for all cells."""

    def forward(self, x):
        if self.head.bias.sum() > 0:
            x = -x
        return super().forward(x)


def hooked() -> nn.Module:
    network = Pooled()
    network.register_forward_hook(lambda module, inputs, out: 2 * out)
    return network


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("network", [ByWeights, hooked])
def test_networks_that_are_no_one_function_run_as_they_are(network):
    problem = problem_of(network())
    plane = random_plane(problem, seed=1)
    usual, other = (scan(problem, plane, 5, compiled=c) for c in (False, True))
    assert "compiled" not in other.attrs["execution"]
    xr.testing.assert_equal(other, usual)


def test_without_a_compiler_a_scan_runs_as_ever(monkeypatch):
    def missing(*args, **options):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", missing)
    problem = problem_of(Pooled())
    plane = random_plane(problem, seed=1)
    usual, other = (scan(problem, plane, 5, compiled=c) for c in (False, True))
    assert "compiled" not in other.attrs["execution"]
    xr.testing.assert_equal(other, usual)


class Gate(nn.Module):
    """Turns its inputs over where a weight is negative."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Parameter(torch.tensor(0.5))
        self.a, self.b = nn.Linear(36, 8), nn.Linear(8, 4)

    def forward(self, x):
        x = x.flatten(1)
        return self.b(self.a(torch.where(self.gate > 0, x, x.flip(-1))).relu())


@COMPILER
@pytest.mark.filterwarnings("ignore")
def test_compiled_first_layers_see_what_weights_make_of_images():
    problem = problem_of(Gate())
    plane = random_plane(problem, dimensions=1, seed=2)
    plane.knots[1]["gate"].fill_(1.0)
    usual, fast = (scan(problem, plane, 21, compiled=c) for c in (False, True))
    assert "compiled" in fast.attrs["execution"]
    xr.testing.assert_allclose(fast, usual, rtol=1e-5)


@COMPILER
@pytest.mark.filterwarnings("ignore")
def test_compiled_scans_of_many_networks_do_not_run_out():
    """The compiler gives up a function after eight networks, in the middle of a scan."""
    for images in range(8, 19):
        problem = problem_of(Gate(), images)
        plane = random_plane(problem, dimensions=1)
        assert "compiled" in scan(problem, plane, 3, compiled=True).attrs["execution"]


class Draws(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(36, 4)

    def forward(self, x):
        return self.layer(F.dropout(x.flatten(1), 0.5, training=True))


def test_random_networks_and_hooked_ones_take_one_cell_after_the_other():
    drawing = Problem(Draws(), make_images(14), batch_size=4, randomised=True)
    for problem in (drawing, problem_of(hooked()), problem_of(Pooled())):
        with threads(2):
            places = Places(problem, random_plane(problem), [0.0], "keep", cells=25)
            assert not places.apart
    with threads(2):
        known = problem_of(plain())
        assert Places(known, random_plane(known), [0.0], "keep", cells=25).apart


def test_parts_of_a_scan_add_up_many_examples_in_one_order():
    """Sums of more than 32,768 numbers belong to a number of threads."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60_000, 5, generator=generator)
    y = torch.randint(0, 4, (60_000,), generator=generator)
    problem = Problem(nn.Linear(5, 4), (x, y), batch_size=5000)
    plane = random_plane(problem, dimensions=1)
    with threads(2):
        whole = scan(problem, plane, 9)
        parts = merged([scan(problem, plane, 9, shard=Shard(k, 3)) for k in (1, 2, 3)])
    xr.testing.assert_equal(parts, whole)
