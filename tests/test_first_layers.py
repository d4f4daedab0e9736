"""First layers as combinations of their outputs at the knots: the numbers are those of passes."""

from __future__ import annotations

import itertools
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ridgeline.landscape.problem import Problem
from ridgeline.landscape.surfaces import linear_layers
from ridgeline.landscape.surfaces.cell import Places
from ridgeline.landscape.surfaces.execution import fastest
from ridgeline.landscape.surfaces.first_layers import FirstLayers
from ridgeline.landscape.surfaces.planes import random_plane
from ridgeline.landscape.surfaces.scan import scan
from ridgeline.landscape.surfaces.shards import Shard
from ridgeline.landscape.weights.paths import Bezier, Plane, PolygonalChain
from ridgeline.train.attacks import FGSM
from tests.conftest import make_conv_bn, make_images, make_mlp


class Shortcut(nn.Module):
    """Two convolutions see the images; one writes over its outputs, one only over a copy."""

    def __init__(self):
        super().__init__()
        self.one, self.two = (nn.Conv2d(1, 3, 3, padding=1) for _ in range(2))
        self.head = nn.Linear(108, 4)

    def forward(self, x):
        x = x * 2 - 1
        return self.head((self.one(x).relu_() + self.two(x).tanh()).flatten(1))


class Scaled(nn.Module):
    """A weight touches the images before the first layer does."""

    def __init__(self, quietly: bool = False):
        super().__init__()
        self.scale, self.net, self.quietly = nn.Parameter(torch.ones(1)), make_mlp(), quietly

    def forward(self, x):
        scale = self.scale.detach() if self.quietly else self.scale
        return self.net(x * scale)


class Twice(nn.Module):
    """The first layer is also a later one."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Linear(36, 36), nn.Linear(36, 4)

    def forward(self, x):
        return self.head(self.layer(self.layer(x.flatten(1)).tanh()))


class Chunks(nn.Module):
    """A whole piece of the data calls the first layer more often than two examples do."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Linear(36, 5), nn.Linear(5, 4)

    def forward(self, x):
        return torch.cat([self.head(self.layer(part.flatten(1)).tanh()) for part in x.split(4)])


class Experts(nn.Module):
    """Weights choose, without a gradient, which images a layer sees."""

    def __init__(self):
        super().__init__()
        self.router = nn.Linear(36, 3)
        self.experts = nn.ModuleList(nn.Linear(36, 4) for _ in range(3))

    def forward(self, x):
        x = x.flatten(1)
        chosen, out = self.router(x).argmax(1), x.new_zeros(len(x), 4)
        for number, expert in enumerate(self.experts):
            out[chosen == number] = expert(x[chosen == number])
        return out


class Decides(nn.Module):
    """The weights decide what the layer sees: as at the knots of a plane, or something else."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Linear(36, 4), nn.Linear(36, 4)
        self.switch = nn.Parameter(torch.ones(3))

    def forward(self, x):
        x = x.flatten(1)
        return self.head(x.tanh()) + self.layer(x if self.switch.sum() < 3.05 else x.square())


class Overwritten(nn.Module):
    """What weights made of the images, out of sight, is gone after the pass."""

    def __init__(self):
        super().__init__()
        self.gate, self.layer = nn.Linear(36, 36), nn.Linear(36, 4)

    def forward(self, x):
        x = x.flatten(1).clone()
        with torch.no_grad():
            x *= self.gate(x).sigmoid()
        out = self.layer(x)
        with torch.no_grad():
            x.zero_()
        return out


class Shifted(nn.Module):
    """A layer sees statistics of a BatchNorm, which recalibration changes from cell to cell."""

    def __init__(self):
        super().__init__()
        self.net, self.layer = make_conv_bn(), nn.Linear(36, 4)

    def forward(self, x):
        out, statistics = self.net(x), self.net.bn.running_mean
        return out + self.layer((x - statistics.mean()).flatten(1))


class Transformed(nn.Module):
    """The layers run below a transform of torch.func, of the kind that `how` names."""

    def __init__(self, how: str):
        super().__init__()
        self.how, self.layer, self.head = how, nn.Linear(36, 5), nn.Linear(5, 4)

    def forward(self, x):
        x = x.flatten(1)
        if self.how == "vmap":
            return torch.vmap(self.inner)(x)
        return sum(torch.func.jvp(self.inner, (x,), (torch.ones_like(x),)))

    def inner(self, x):
        return self.head(self.layer(x).tanh())


def make_biased() -> nn.Module:
    """The bias of the first layer is computed by a hook, which is not linear."""
    return nn.Sequential(
        nn.Flatten(), nn.utils.weight_norm(nn.Linear(36, 5), "bias", dim=None), nn.Linear(5, 4)
    )


def problem_of(network: nn.Module, batch_size: int = 10) -> Problem:
    return Problem(network.double(), make_images(23), batch_size=batch_size)


@pytest.mark.parametrize(
    ("network", "names"),
    [
        (make_mlp(), ["1"]),
        (make_conv_bn(), ["conv"]),
        (Shortcut(), ["one", "two"]),
        (Scaled(), []),
        (Scaled(quietly=True), []),
        (Twice(), []),
        (nn.utils.parametrizations.weight_norm(nn.Linear(36, 4)), []),
    ],
)
def test_the_layers_that_count(network, names):
    """Sees a layer taken for linear in the coordinates that is not."""
    if isinstance(network, nn.Linear):
        network = nn.Sequential(nn.Flatten(), network)
    torch.manual_seed(0)
    problem = problem_of(network)
    found = FirstLayers.of(problem, random_plane(problem), problem.buffers)
    assert (found.names if found else []) == names


@pytest.mark.parametrize("batchnorm", ["keep", "recalibrate"])
@pytest.mark.parametrize("make", [make_mlp, make_conv_bn, Shortcut, Twice])
@pytest.mark.parametrize("kind", ["plane", "line", "bezier", "chain"])
def test_every_cell_is_what_a_pass_there_gives(make, batchnorm, kind):
    torch.manual_seed(1)
    problem = problem_of(make())
    plane = random_plane(problem, seed=3)
    path = {"plane": plane, "line": random_plane(problem, 1), "bezier": Bezier(plane.knots),
            "chain": PolygonalChain(plane.knots)}[kind]  # fmt: skip
    count = 5 if kind == "plane" else 13
    ds = scan(problem, path, count, batchnorm=batchnorm, extent=0.5)
    places = Places(problem, path, [0.0], batchnorm)  # one cell: by passes
    for at in itertools.product(*(ds[a].values for a in path.axes)):
        for name, value in places.measure(0, at, [None], lambda n: None).items():
            got = float(ds[name].sel(dict(zip(path.axes, at, strict=True))).squeeze())
            assert got == pytest.approx(value, rel=1e-11, abs=1e-13)
    if kind == "plane" and batchnorm == "keep":
        assert float(ds["loss"].sel(x1=0, x2=0).squeeze()) == problem.evaluate().loss


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("kind", [Plane, Bezier, PolygonalChain])
@pytest.mark.parametrize(
    ("make", "names", "batchnorm"),
    [
        (Chunks, ["layer"], "keep"),
        (Experts, ["router"], "keep"),
        (Decides, ["head", "layer"], "keep"),
        (Overwritten, ["gate"], "keep"),
        (Shifted, ["net.conv", "layer"], "recalibrate"),
        (partial(Transformed, "vmap"), [], "keep"),
        (partial(Transformed, "jvp"), [], "keep"),
        (make_biased, ["2"], "keep"),
    ],
)
def test_layers_that_only_seem_to_see_the_data_alone(make, names, batchnorm, kind):
    """Sees outputs for other inputs, or of weights that are not linear in the knots."""
    torch.manual_seed(0)
    problem = problem_of(make())
    origin, noise = problem.origin, torch.Generator().manual_seed(3)
    steps = [{n: torch.randn(t.shape, generator=noise).to(t) * (t.std(correction=0) + 0.05)
              for n, t in origin.items()} for _ in range(2)]  # fmt: skip
    knots = steps if kind is Plane else [{n: origin[n] + d[n] for n in d} for d in steps]
    path = kind([origin, *knots])
    ds = scan(problem, path, 5 if kind is Plane else 13, batchnorm=batchnorm)
    places = Places(problem, path, [0.0], batchnorm)  # one cell: by passes
    for at in itertools.product(*(ds[a].values for a in path.axes)):
        wanted = places.measure(0, at, [None], lambda n: None)["loss"]
        got = float(ds["loss"].sel(dict(zip(path.axes, at, strict=True))).squeeze())
        assert got == pytest.approx(wanted, rel=1e-11)
    found = FirstLayers.of(problem, path, problem.buffers)
    assert set(found.names if found else []) <= set(names)


def test_a_compiled_network_is_not_compiled_for_every_cell():
    network = torch.compile(make_mlp().double(), backend="eager")
    problem = Problem(network, make_images(20), batch_size=10)
    plane = random_plane(problem, seed=3)
    assert FirstLayers.of(problem, plane, problem.buffers) is None


def test_frozen_images_stand_still_and_moving_ones_do_not():
    problem = problem_of(make_mlp()).under(FGSM(eps=0.1))
    plane = random_plane(problem)
    for adversary, counts in (("frozen", True), ("moving", False), ("anchored", False)):
        places = Places(problem, plane, [0.1], "keep", adversary=adversary, cells=100)
        anchors = {"frozen": (0.0, 0.0), "moving": None, "anchored": (0.5, 0.5)}[adversary]
        found = places.measure(0, (0.25, -0.5), [anchors], lambda n: None)
        alone = Places(problem, plane, [0.1], "keep", adversary=adversary)
        wanted = alone.measure(0, (0.25, -0.5), [anchors], lambda n: None)
        assert found == pytest.approx(wanted, rel=1e-11)
        assert (places._seen is not None) == counts


def test_what_does_not_fit_is_not_held(monkeypatch):
    problem = problem_of(make_mlp())
    plane = random_plane(problem)
    room = 5 * 23 * (3 + 1)  # hidden units, examples, knots and what they combine to
    monkeypatch.setattr("ridgeline.landscape.surfaces.first_layers._ROOM", room)
    assert FirstLayers.of(problem, plane, problem.buffers)
    monkeypatch.setattr("ridgeline.landscape.surfaces.first_layers._ROOM", room - 1)
    assert FirstLayers.of(problem, plane, problem.buffers) is None


def test_pieces_run_one_by_one_where_that_is_clearly_faster(monkeypatch):
    """Sees a choice by chance, one that changes bits, or a timing that costs more than it gains."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        problem = problem_of(make_mlp(), batch_size=2)
        for alone, together in ((0.85, False), (0.95, True), (2.0, True)):
            clock = Clock(problem, {True: 1.0, False: alone}, monkeypatch)
            found = fastest(problem, cells=1000)
            assert (found.together, clock.runs) == (together, 10)
            assert torch.equal(found.evaluate().losses, problem.evaluate().losses)
        clock = Clock(problem, {True: 1.0, False: 0.1}, monkeypatch)
        assert fastest(problem, cells=20).together and clock.runs == 0  # not worth it
        other = Clock(problem, {True: 1.0, False: 0.1}, monkeypatch, bits=1e-9)
        assert fastest(problem, cells=1000).together and other.runs == 10
        monkeypatch.setattr("ridgeline.landscape.surfaces.execution._DIVISIBLE", 12)
        wide = problem_of(make_mlp(), batch_size=12)
        clock = Clock(wide, {True: 1.0, False: 1.2}, monkeypatch, small=0.5)
        found = fastest(wide, cells=2000)
        assert (found.together, found.batch_size, clock.runs) == (True, 3, 20)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    "measured",
    [{"batchnorm": "recalibrate"}, {"extras": ["gradient_norm"]}, {"adversary": "frozen"}],
)
def test_what_the_timing_chooses_changes_no_number(measured, monkeypatch):
    """Sees statistics, gradients and attacks that sum over pieces of the timing's choice."""
    attack = FGSM(eps=0.1) if "adversary" in measured else None
    problem = Problem(make_conv_bn(), make_images(150), attack, batch_size=64)
    plane = random_plane(problem, seed=3)
    usual = scan(problem, plane, 3, **measured)
    asked = []

    def chosen(problem, *how, **options):
        asked.append((how[0], options["quarters"]))
        return problem.running(False, 16)

    monkeypatch.setattr("ridgeline.landscape.surfaces.cell.fastest", chosen)
    cells = usual.copy(deep=True)
    cells["done"][:, 0] = False
    assert scan(problem, plane, 3, **measured).drop_attrs().equals(usual.drop_attrs())
    scan(problem, plane, 3, cells=cells, **measured)
    scan(problem, plane, 3, shard=Shard(1, 9), **measured)
    assert asked == [(left, "adversary" in measured) for left in (9, 3, 1)]


def test_the_timing_tries_the_last_piece_and_outputs_that_are_not_zeros(monkeypatch):
    network = make_mlp()
    problem, seen = problem_of(network, batch_size=8), []

    def evaluate(this, point=None, instead=None):
        seen.append((tuple(this.data.index[-3:].tolist()), point))
        return EVALUATE(this, point)

    monkeypatch.setattr(Problem, "evaluate", evaluate)
    monkeypatch.setattr("ridgeline.landscape.surfaces.execution._DIVISIBLE", 8)
    problem = problem.on(make_images(27))  # 8, 8, 8 and 3
    fastest(problem, 1000, problem.origin)
    assert seen == [((24, 25, 26), problem.origin)] * 10
    assert len(problem.data) == 27


EVALUATE = Problem.evaluate


class Clock:
    """Makes evaluations take the seconds they are told to, by the way they run."""

    def __init__(self, problem, seconds, monkeypatch, bits=0.0, small=1.0):
        self.now, self.runs = 0.0, 0

        def evaluate(this, *point, instead=None):
            found = EVALUATE(this, *point)
            if this.data is not problem.data:  # one that is timed
                self.now += seconds[this.together] * (small if this.batch_size == 3 else 1)
                self.runs += 1
                found.losses.copy_(found.losses.round(decimals=6))  # sizes of a MLP differ in bits
                found.losses[0] += bits * this.together
            return found

        monkeypatch.setattr(Problem, "evaluate", evaluate)
        monkeypatch.setattr("time.perf_counter", lambda: self.now)


def test_a_result_says_how_it_was_computed():
    problem = problem_of(make_mlp())
    plane = random_plane(problem)
    assert scan(problem, plane, 5).attrs["execution"] == (
        "pieces of 10; 1 thread; channels-last; 1 combined from the knots'"
    )
    assert scan(problem, plane, 3).attrs["execution"] == "pieces of 10; 1 thread; channels-last"


@pytest.mark.parametrize("bias", [True, False])
def test_linear_layers_by_another_library_give_the_same_losses(monkeypatch, bias):
    """Also where the layer is too small for it, and never where there are gradients."""
    monkeypatch.setattr(linear_layers, "faster_here", lambda: True)
    torch.manual_seed(0)
    layers = [nn.Linear(36, 600, bias=bias), nn.Linear(600, 300, bias=bias), nn.Linear(300, 4)]
    network = nn.Sequential(nn.Flatten(), layers[0], nn.Tanh(), layers[1], nn.Tanh(), layers[2])
    problem = Problem(network, make_images(23), batch_size=20)
    used = []
    linear = lambda x, *weights: (used.append(x.shape), F.linear(x, *weights))[1]  # noqa: E731
    monkeypatch.setattr(linear_layers, "F", SimpleNamespace(linear=linear))
    plane = random_plane(problem)
    ds = scan(problem, plane, 3)
    assert used == [torch.Size([n, 600]) for n in (20, 3)] * 9  # the others are small
    assert "oneDNN" in ds.attrs["execution"]
    for x1, x2 in itertools.product(ds["x1"].values, ds["x2"].values):
        wanted = problem.evaluate(plane(x1, x2)).loss
        assert float(ds["loss"].sel(x1=x1, x2=x2).squeeze()) == pytest.approx(wanted, rel=1e-6)
    found = linear_layers.stand_ins(problem)
    assert list(found) == ["1", "3", "5"]
    used.clear()
    x = torch.rand(50, 36)
    leaves = {n: t.clone().requires_grad_() for n, t in problem.origin.items()}
    problem.predict(leaves, None, found)(x).sum().backward()
    assert not used and all(t.grad is not None for t in leaves.values())
    assert linear_layers.stand_ins(problem.to(dtype=torch.float64)) == {}
