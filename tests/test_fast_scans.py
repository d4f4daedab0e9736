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
from ridgeline.landscape.surfaces.planes import random_plane
from ridgeline.landscape.surfaces.scan import scan
from ridgeline.models.errors import InputError
from ridgeline.train.pooling import SlicedPooling
from tests.conftest import make_conv_bn, make_images

SHAPES = [(2, 3, 8, 8), (3, 7, 9), (2, 3, 5, 7), (1, 1, 2, 2)]
WINDOWS = [
    {"kernel_size": 2}, {"kernel_size": (2, 1)}, {"kernel_size": 2, "stride": 1},
    {"kernel_size": 3, "stride": 2}, {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": [2]}, {"kernel_size": 1}, {"kernel_size": 2, "ceil_mode": True},
    {"kernel_size": 2, "dilation": 2}, {"kernel_size": 9}, {"kernel_size": 2, "stride": (1, 3)},
    {"kernel_size": 2, "return_indices": True}, {"kernel_size": 0}, {"kernel_size": 2, "stride": 0},
]  # fmt: skip


@pytest.fixture(params=[torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
def layout(request):
    return request.param


@pytest.mark.parametrize(("shape", "window"), list(itertools.product(SHAPES, WINDOWS)))
def test_pooling_by_slices_gives_pytorch_s_bits_layout_and_refusals(shape, window, layout):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).round(decimals=1)
    x[..., 1, 1], x[..., 0, 0] = torch.nan, -torch.inf
    if x.ndim == 4:
        x = x.contiguous(memory_format=layout)
    try:
        wanted = F.max_pool2d(x, **window)
    except RuntimeError as error:
        with pytest.raises(type(error)), SlicedPooling():
            F.max_pool2d(x, **window)
        return
    with SlicedPooling():
        found = F.max_pool2d(x, **window)
    if window.get("return_indices"):
        assert torch.equal(found[1], wanted[1])
        found, wanted = found[0], wanted[0]
    assert torch.equal(found.nan_to_num(7), wanted.nan_to_num(7))
    assert found.stride() == wanted.stride() or min(found.shape) == 1


def test_what_somebody_differentiates_is_left_to_pytorch():
    """A tie would send its gradient to both."""
    x = torch.zeros(1, 1, 2, 2, requires_grad=True)
    with SlicedPooling():
        (gradient,) = torch.autograd.grad(F.max_pool2d(x, 2).sum(), x)
        tangent = torch.tensor([[[[0.0, 1.0], [1.0, 1.0]]]])
        moved = torch.func.jvp(lambda x: F.max_pool2d(x, 2), (x.detach(),), (tangent,))[1]
    assert gradient.flatten().tolist() == [1, 0, 0, 0]
    assert moved.item() == 0


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


@pytest.mark.parametrize("network", [Pooled, make_conv_bn])
def test_threads_that_take_a_cell_each_give_the_bits_of_one(network):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        problem = problem_of(network())
    plane, found = random_plane(problem, seed=1), []
    for count in (1, 2, 3):
        with threads(count):
            found.append(scan(problem, plane, 5))
    for other in found[1:]:
        assert "a short cell each" in other.attrs["execution"]
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


def test_an_error_beside_other_cells_ends_the_scan_and_keeps_what_was_done():
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
    assert "first combined" in fast.attrs["execution"]
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
