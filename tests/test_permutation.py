"""Permutation symmetry by tracing, weight matching, and REPAIR."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import ridgeline as rl
from ridgeline.analysis.training.trajectory import barrier
from ridgeline.landscape.batchnorm import recalibrated
from ridgeline.landscape.permutation.matching import match_weights
from ridgeline.landscape.permutation.repair import repairable, repaired
from ridgeline.landscape.permutation.symmetry import Symmetry, symmetry_of
from ridgeline.landscape.result import load_result, recipe_of, save_result
from ridgeline.landscape.weights.point import combine, dot, norm, point_of, subtract
from ridgeline.models import InputError, build_model
from ridgeline.models.copying import copy_of
from ridgeline.models.dct import decompose
from tests.conftest import make_conv_bn, make_images, make_mlp


class OptionA(nn.Module):
    """A shortcut that takes every second pixel and pads channels with zeros, twice."""

    def __init__(self):
        super().__init__()
        self.stem, self.a, self.b = (
            nn.Conv2d(i, o, 3, padding=1) for i, o in ((1, 2), (2, 6), (6, 9))
        )
        self.head = nn.Linear(9, 4)

    def forward(self, x):
        x = torch.tanh(self.stem(x))
        x = torch.tanh(self.a(x)[:, :, ::2, ::2] + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)))
        x = torch.tanh(self.b(x) + F.pad(x, (0, 0, 0, 0, 0, 3)))
        return self.head(x.mean((2, 3)))


class Concat(nn.Module):
    """Branches side by side, read as a whole, flattened, and in parts."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(1, 3, 3), nn.Conv2d(1, 2, 3), nn.Conv2d(5, 4, 3)
        self.norm = nn.BatchNorm2d(5)
        self.first, self.second = nn.Linear(5 * 16, 4), nn.Linear(4 + 3, 4)

    def forward(self, x):
        z = self.norm(torch.cat([self.a(x), self.b(x)], 1)).tanh()
        left, _ = z.split([3, 2], 1)
        seen = torch.cat([self.c(z).amax((2, 3)), left.mean((2, 3))], 1)
        return self.first(z.flatten(1)) + self.second(seen.tanh())


class Separable(nn.Module):
    """Depthwise convolutions, one and two maps a channel, and a gate for each channel."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 3, 3)
        self.one, self.two = nn.Conv2d(3, 3, 3, groups=3), nn.Conv2d(3, 6, 1, groups=3)
        self.norm, self.gate = nn.GroupNorm(1, 6), nn.Linear(6, 6)
        self.head = nn.Linear(24, 4)

    def forward(self, x):
        x = self.norm(self.two(F.silu(self.one(self.stem(x))))).relu_()
        return self.head((x * self.gate(x.mean((2, 3))).sigmoid()[..., None, None]).flatten(1))


class Rows(nn.Module):
    """A transformer block over the rows of an image: one head, written out, and LayerNorm."""

    def __init__(self):
        super().__init__()
        self.embed, self.places = nn.Linear(6, 4), nn.Parameter(torch.randn(6, 4))
        self.q, self.k, self.v, self.o = (nn.Linear(4, 4) for _ in range(4))
        self.norm, self.up, self.down = nn.LayerNorm(4), nn.Linear(4, 7), nn.Linear(7, 4)
        self.head = nn.Linear(4, 4)

    def forward(self, x):
        z = self.embed(x[:, 0]) + self.places
        y = self.norm(z)
        z = z + self.o((self.q(y) @ self.k(y).transpose(1, 2) / 2).softmax(-1) @ self.v(y))
        return self.head((z + self.down(F.gelu(self.up(self.norm(z))))).mean(1))


class Recurrent(nn.Module):
    """One matrix used three times, its inputs and outputs the same units."""

    def __init__(self):
        super().__init__()
        self.enter, self.step, self.leave = nn.Linear(36, 5), nn.Linear(5, 5), nn.Linear(5, 4)

    def forward(self, x):
        h = self.enter(x.flatten(1)).tanh()
        for _ in range(3):
            h = h + self.step(h).tanh()
        return self.leave(h)


class Normed(nn.Module):
    """Weights that are computed from parameters: weight and spectral normalisation."""

    def __init__(self):
        super().__init__()
        norms = nn.utils.parametrizations
        self.a = norms.weight_norm(nn.Conv2d(1, 3, 3))
        self.b = norms.spectral_norm(nn.Linear(48, 4))

    def forward(self, x):
        return self.b(self.a(x).tanh().flatten(1))


class Calls(nn.Module):
    """A network that is one function of images, between two linear layers."""

    def __init__(self, function, channels=4):
        super().__init__()
        self.stem, self.function = nn.Conv2d(1, channels, 3), function
        self.head = nn.LazyLinear(4)

    def forward(self, x):
        return self.head(self.function(self.stem(x)).flatten(1))


def ours(name, channels, **more):
    return lambda: build_model(name, (channels, *((28, 28) if channels == 1 else (32, 32))),
                               width=1, num_classes=4, **more)  # fmt: skip


#: name -> network, number of groups, shape of its images
NETWORKS = {
    "mlp": (make_mlp, 1, (1, 6, 6)),
    "conv_bn": (make_conv_bn, 2, (1, 6, 6)),
    "lenet": (ours("lenet", 1, normalize=([0.1], [0.3])), 3, (1, 28, 28)),
    "lenet3": (ours("lenet", 3), 4, (3, 32, 32)),
    "vgg": (ours("vgg", 3), 13, (3, 32, 32)),
    "resnet": (ours("resnet", 3), 12, (3, 32, 32)),
    "preact": (ours("preact", 1), 12, (1, 28, 28)),
    "resnet9": (ours("resnet9", 1), 6, (1, 28, 28)),
    "resnet20": (ours("resnet20", 3), 12, (3, 32, 32)),
    "dct": (lambda: decompose(make_conv_bn()), 2, (1, 6, 6)),
    "dct_sd": (lambda: decompose(make_conv_bn(), "SD"), 2, (1, 6, 6)),
    "option_a": (OptionA, 4, (1, 6, 6)),
    "concat": (Concat, 3, (1, 6, 6)),
    "separable": (Separable, 1, (1, 6, 6)),
    "rows": (Rows, 4, (1, 6, 6)),
    "recurrent": (Recurrent, 1, (1, 6, 6)),
    "normed": (Normed, 1, (1, 6, 6)),
}


def problem_of(network: nn.Module, shape=(1, 6, 6), count: int = 6) -> rl.Problem:
    return rl.Problem(network.double().eval(), make_images(count, shape))


@pytest.fixture(scope="module")
def traced():
    """Problems and their symmetries by name, each made once; BatchNorm not as it begins."""
    made: dict[str, tuple[rl.Problem, Symmetry]] = {}

    def get(name: str) -> tuple[rl.Problem, Symmetry]:
        if name not in made:
            build, _, shape = NETWORKS[name]
            with torch.random.fork_rng():
                torch.manual_seed(1)
                network = build().double()
                for m in network.modules():
                    if isinstance(m, nn.BatchNorm2d):
                        for t in (m.weight.data, m.bias.data, m.running_mean, m.running_var):
                            t.add_(torch.rand_like(t))
            problem = problem_of(network, shape)
            made[name] = problem, symmetry_of(problem)
        return made[name]

    return get


def outputs(problem, point, buffers):
    (batch,) = problem.batches()
    return problem.predict(point, buffers)(batch.x)


@pytest.mark.parametrize("name", NETWORKS)
def test_units_in_another_order_are_the_same_function(name, traced):
    problem, symmetry = traced(name)
    assert len(symmetry.groups) == NETWORKS[name][1]
    orders = symmetry.random(3)
    point, buffers = (symmetry.apply(t, orders) for t in (problem.origin, problem.buffers))
    changed = [n for n in point if not torch.equal(point[n], problem.origin[n])]
    assert len(changed) >= 2
    expected = outputs(problem, problem.origin, problem.buffers)
    torch.testing.assert_close(outputs(problem, point, buffers), expected, rtol=1e-11, atol=1e-12)
    back = symmetry.apply(point, {g: order.argsort() for g, order in orders.items()})
    assert all(torch.equal(back[n], problem.origin[n]) for n in point)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_finds_its_own_units_again(name, traced):
    problem, symmetry = traced(name)
    orders = symmetry.random(5)
    moved = symmetry.apply(problem.origin, orders)
    buffers = symmetry.apply(problem.buffers, orders)
    found = match_weights(problem, problem.origin, moved, 0, buffers, symmetry=symmetry)
    assert all(torch.equal(found.orders[g], orders[g].argsort()) for g in symmetry.groups)
    assert all(torch.equal(found.point[n], t) for n, t in problem.origin.items())
    assert all(torch.equal(found.buffers[n], t) for n, t in problem.buffers.items())
    assert found.objective[-1] == pytest.approx(dot(problem.origin, problem.origin), rel=1e-12)


def test_places_of_every_kind_of_axis(traced):
    """Blocks of a flattened map, offsets of a concatenation, zeros beside a shortcut, both axes."""
    _, symmetry = traced("lenet")
    assert symmetry.groups == {"conv1.weight": 2, "conv2.weight": 4, "fc1.weight": 64}
    assert symmetry.axes["fc1.weight"] == (
        ((("fc1.weight", 64),),),
        ((("conv2.weight", 4), (None, 49)),),
    )
    places = {(n, axis): p for n, axis, p in symmetry.places("conv2.weight")}
    assert places.keys() == {("conv2.weight", 0), ("conv2.bias", 0), ("fc1.weight", 1)}
    assert torch.equal(places["fc1.weight", 1], torch.arange(196).view(4, 49))
    _, symmetry = traced("concat")
    places = {(n, axis): p for n, axis, p in symmetry.places("b.weight")}
    assert torch.equal(places["c.weight", 1], torch.tensor([[3], [4]]))
    assert torch.equal(places["first.weight", 1], torch.arange(48, 80).view(2, 16))
    assert ("second.weight", 1) not in places and ("norm.running_var", 0) in places
    _, symmetry = traced("option_a")
    assert [sum(n for _, n in part) for part in symmetry.axes["b.weight"][0]] == [2, 2, 2, 3]
    stream = [part[0][0] for part in symmetry.axes["b.weight"][0]]
    assert stream[1] == "stem.weight" and len(set(stream)) == 4
    _, symmetry = traced("recurrent")
    axis = ((("enter.weight", 5),),)
    assert symmetry.axes["step.weight"] == (axis, axis)
    _, symmetry = traced("separable")
    assert symmetry.axes["two.weight"][0] == ((("stem.weight", 3), (None, 2)),)
    _, symmetry = traced("rows")
    assert set(symmetry.groups.values()) == {4, 7} and "head.bias" not in symmetry.axes


def test_residual_additions_and_batchnorm_follow_their_group(traced):
    _, symmetry = traced("resnet")
    stem = {(n, axis) for n, axis, _ in symmetry.places("conv1.weight")}
    block = {f"layer1.{b}.{n}" for b in (0, 1) for n in ("conv2.weight", "bn2.running_mean")}
    assert {(n, 0) for n in block | {"conv1.weight", "bn1.weight", "bn1.running_var"}} <= stem
    assert {("layer1.1.conv1.weight", 1), ("layer2.0.conv1.weight", 1)} <= stem
    assert ("layer2.0.shortcut.0.weight", 1) in stem and ("layer1.0.bn1.weight", 0) not in stem


def heads(z):
    """Tokens (N, heads, pixels, channels of each) of a map (N, channels, H, W)."""
    return z.flatten(2).transpose(1, 2).unflatten(2, (2, 2)).transpose(1, 2)


REFUSED = {
    "fused attention": (
        lambda z: F.scaled_dot_product_attention(heads(z), heads(z), heads(z)),
        "_s",  # its kernel, or the softmax of its plain form
    ),
    "an encoder layer": (
        nn.Sequential(nn.Flatten(2), nn.TransformerEncoderLayer(16, 2, 4, batch_first=True)),
        "attention",
    ),
    "groups of channels": (nn.Conv2d(4, 4, 3, groups=2), "convolution in module function (Conv2d)"),
    "GroupNorm": (nn.GroupNorm(2, 4), "native_group_norm in module function (GroupNorm)"),
    "channels sorted": (lambda z: z.sort(1).values, "sort in the network's forward"),
    "every second unit": (lambda z: z[:, ::2], "slice in the network's forward"),
    "reshaped concatenation": (
        lambda z: torch.cat([z, z[:, :2]], 1).view(len(z), 2, 3, 4, 4),
        "put together from parts",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_followed_is_refused_in_one_line(kind):
    function, named = REFUSED[kind]
    network = Calls(function).double()
    network(torch.zeros(1, 1, 6, 6).double())
    problem = problem_of(network)
    with pytest.raises(InputError, match="cannot be followed") as error:
        symmetry_of(problem)
    assert named in str(error.value)
    assert "\n" not in str(error.value) and "permutation symmetry" in str(error.value)
    assert not any(m._forward_hooks for m in problem.network.modules())


def test_what_the_trace_cannot_see_is_found_by_running_it():
    scale = np.arange(1.0, 5.0)[:, None, None]
    network = Calls(lambda z: torch.from_numpy(z.numpy() * scale)).double()
    with torch.no_grad():
        network(torch.zeros(1, 1, 6, 6).double())
    with pytest.raises(InputError, match=r"could not be confirmed.*treats units differently"):
        symmetry_of(problem_of(network))
    with pytest.raises(InputError, match="no hidden units that could change places"):
        symmetry_of(problem_of(nn.Sequential(nn.Flatten(), nn.Linear(36, 4))))


def test_units_that_differ_are_not_exchanged():
    """An order along the axis fixes it; a unit that is taken out, or runs of them, stay apart."""

    def groups(function):
        network = Calls(function).double()
        network(torch.zeros(1, 1, 6, 6).double())
        return sorted(symmetry_of(problem_of(network)).groups.values())

    assert groups(lambda z: z) == [4]
    assert groups(lambda z: z + z[:, 1:2]) == [2]
    assert groups(lambda z: torch.cat([z[:, :2].relu(), z[:, 2:].tanh()], 1)) == [2, 2]
    assert groups(lambda z: sum(z.chunk(2, 1))) == [2]
    with pytest.raises(InputError, match="no hidden units"):
        groups(lambda z: torch.stack(z.unbind(1), 1))
    with pytest.raises(InputError, match="no hidden units"):
        groups(lambda z: z.cumsum(1))
    with pytest.raises(InputError, match="no hidden units"):
        groups(lambda z: z * torch.arange(4.0)[:, None, None])
    with pytest.raises(InputError, match="no hidden units"):
        groups(lambda z: F.local_response_norm(z, 3))


def test_weight_matching_is_optimal_for_one_hidden_layer():
    a, b = (problem_of(make_mlp(seed=s)) for s in (0, 1))
    found = match_weights(a, a.origin, b.origin, 0)
    symmetry = symmetry_of(a)
    every = [
        dot(a.origin, symmetry.apply(b.origin, {"1.weight": torch.tensor(order)}))
        for order in itertools.permutations(range(5))
    ]
    assert found.objective[-1] == pytest.approx(max(every), rel=1e-12)
    assert every[0] < max(every)
    assert dot(a.origin, found.point) == pytest.approx(max(every), rel=1e-12)


@pytest.mark.parametrize("name", ["lenet3", "resnet20", "option_a", "recurrent", "rows"])
def test_the_objective_never_falls_and_seeds_repeat(name, traced):
    problem, symmetry = traced(name)
    with torch.random.fork_rng():
        torch.manual_seed(9)
        other = {n: torch.randn_like(t) for n, t in problem.origin.items()}
    runs = [
        match_weights(problem, problem.origin, other, seed, symmetry=symmetry) for seed in (0, 0, 1)
    ]
    for run in runs:
        assert (np.diff(run.objective) > 0).all() and len(run.objective) > 1
        assert run.objective[0] == pytest.approx(dot(problem.origin, other), abs=1e-9)
        assert run.objective[-1] == pytest.approx(dot(problem.origin, run.point), rel=1e-9)
        assert norm(run.point) == pytest.approx(norm(other), rel=1e-12)
    assert all(torch.equal(runs[0].orders[g], runs[1].orders[g]) for g in symmetry.groups)
    # no single group could gain by another order alone
    for group in symmetry.groups if name != "recurrent" else ():
        again = match_weights(problem, problem.origin, runs[0].point, 5, symmetry=symmetry)
        assert torch.equal(again.orders[group], torch.arange(symmetry.groups[group]))


@pytest.mark.parametrize("build", [make_mlp, make_conv_bn])
def test_a_permuted_copy_has_a_barrier_until_it_is_aligned(build, tmp_path):
    network = build()
    with torch.no_grad():
        for p in network.parameters():
            p.mul_(3)
    problem = problem_of(network, count=23)
    symmetry = symmetry_of(problem)
    orders = {g: torch.arange(n).roll(1) for g, n in symmetry.groups.items()}
    other = copy_of(network)
    moved = [symmetry.apply(t, orders) for t in (problem.origin, problem.buffers)]
    other.load_state_dict({**moved[0], **moved[1]})
    before = barrier(problem, problem.origin, point_of(other), 3)["barrier"]
    aligned = rl.align(problem, other)
    assert before > 0.05
    assert barrier(problem, problem.origin, aligned.point, 3)["barrier"] == pytest.approx(
        0, abs=1e-13
    )
    assert all(torch.equal(aligned.point[n], t) for n, t in problem.origin.items())
    assert all(torch.equal(aligned.buffers[n], t) for n, t in problem.buffers.items())
    report = aligned.report
    assert report["moved"].values.tolist() == [1.0] * len(symmetry.groups)
    assert report["group"].values.tolist() == list(symmetry.groups)
    assert report["units"].values.tolist() == list(symmetry.groups.values())
    length = norm(subtract(moved[0], problem.origin))
    assert report["distance"].values.tolist() == [pytest.approx(length), 0.0]
    assert report["objective"].sel(when="after").item() == dot(problem.origin, problem.origin)
    assert report["objective"].sel(when="before").item() == dot(problem.origin, moved[0])
    save_result(report, tmp_path / "alignment.nc")
    read = load_result(tmp_path / "alignment.nc", "alignment")
    assert read.identical(report) and recipe_of(read)["weights"] != recipe_of(read)["other"]
    same = rl.align(problem, problem_of(other, count=23), seed=4)
    assert all(torch.equal(same.point[n], aligned.point[n]) for n in same.point)


def test_alignment_keeps_values_dtype_and_device_and_refuses_other_networks():
    problem = rl.Problem(make_mlp().float(), make_images())
    other = make_mlp(seed=3)
    aligned = rl.align(problem, other)
    for name, tensor in point_of(other).items():
        assert aligned.point[name].dtype == torch.float32
        values = aligned.point[name].flatten().sort().values
        assert torch.equal(values, tensor.float().flatten().sort().values)
    with pytest.raises(InputError, match=r"1\.weight is \(6, 36\), the network has \(5, 36\)"):
        rl.align(problem, make_mlp(hidden=6))
    with pytest.raises(InputError, match=r"needs a network or a Problem, got dict"):
        rl.align(problem, dict(problem.origin))
    with pytest.raises(InputError, match=r"seed must lie in"):
        rl.align(problem, other, seed=-1)


def test_buffers_of_another_network_are_refused():
    problem, other = problem_of(make_conv_bn()), make_conv_bn(1)
    other.bn.register_buffer("running_mean", torch.zeros(1, 3).double())
    with pytest.raises(InputError, match=r"another buffer bn\.running_mean"):
        rl.align(problem, other)


class Plain(nn.Module):
    """Convolutions and linear layers with biases; `shared` runs twice, `bare` has no bias."""

    def __init__(self, seed=0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.conv, self.up = nn.Conv2d(1, 3, 3), nn.ConvTranspose2d(3, 2, 2)
            self.bare, self.fc = nn.Linear(50, 7, bias=False), nn.Linear(7, 6)
            self.shared, self.head = nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, x):
        x = self.bare(self.up(self.conv(x).relu()).relu().flatten(1)).tanh()
        return self.head(self.shared(self.shared(self.fc(x).tanh()).tanh()))


def moments(problem, point, name):
    """Mean and standard deviation of a layer's output over all data in one batch."""
    found = []
    layer = problem.network.get_submodule(name)
    hook = layer.register_forward_hook(lambda _m, _i, out: found.append(out))
    (batch,) = problem._with(batch_size=10**6).batches()
    problem.predict(point)(batch.x)
    hook.remove()
    rows = found[0].transpose(0, 1).flatten(1)
    return rows.mean(1), rows.std(1, correction=0)


@pytest.mark.parametrize("t", [0.5, 0.3])
def test_repair_interpolates_the_statistics_of_hidden_units(t):
    problem = rl.Problem(Plain(0).double(), make_images(23), batch_size=5)
    ends = problem.origin, {n: p.double() for n, p in point_of(Plain(1)).items()}
    between = combine((1 - t, t), ends)
    found = repaired(problem, between, ends, t)
    names = ["conv", "up", "fc"]
    assert repairable(problem).corrected == names
    for name in names:
        here, *there = (moments(problem, p, name) for p in (found, *ends))
        naive = moments(problem, between, name)
        for k in (0, 1):
            wanted = (1 - t) * there[0][k] + t * there[1][k]
            torch.testing.assert_close(here[k], wanted, rtol=1e-10, atol=1e-10)
            if k:  # a mean may be right already: the first layer is linear in its weights
                assert not torch.allclose(naive[k], wanted, rtol=1e-3)
    touched = {n for n in found if not torch.equal(found[n], between[n])}
    assert touched == {f"{n}.{kind}" for n in names for kind in ("weight", "bias")}


def test_repair_gives_the_ends_back_and_says_what_it_leaves_alone():
    problem = rl.Problem(Plain(0).float(), make_images(23), batch_size=5)
    ends = problem.origin, point_of(Plain(1))
    for t, end in enumerate(ends):
        assert all(torch.equal(p, end[n]) for n, p in repaired(problem, end, ends, t).items())
    assert repairable(problem).left == {
        "bare": "it has no bias",
        "shared": "it runs 2 times in a pass",
    }
    with pytest.raises(InputError, match=r"t must lie in 0\.\.1, got 1\.5"):
        repaired(problem, ends[0], ends, 1.5)
    with pytest.raises(InputError, match="has BatchNorm: recalibrate"):
        bn = problem_of(make_conv_bn())
        repaired(bn, bn.origin, (bn.origin, bn.origin), 0.5)
    with pytest.raises(InputError, match="no hidden layer that REPAIR could correct"):
        flat = problem_of(nn.Sequential(nn.Flatten(), nn.Linear(36, 4)))
        repaired(flat, flat.origin, (flat.origin, flat.origin), 0.5)


def test_repair_leaves_the_factor_of_a_dead_unit_alone():
    networks = [Plain(s).double() for s in (0, 1)]
    for network in networks:
        with torch.no_grad():
            network.conv.weight[1] = 0
    problem = rl.Problem(networks[0], make_images(11), calibration=make_images(7, seed=2))
    ends = problem.origin, point_of(networks[1])
    found = repaired(problem, combine((0.5, 0.5), ends), ends, 0.5)
    assert all(p.isfinite().all() for p in found.values())
    assert not found["conv.weight"][1].any()
    assert float(found["conv.bias"][1]) == pytest.approx(
        float((ends[0]["conv.bias"][1] + ends[1]["conv.bias"][1]) / 2), rel=1e-12
    )


def test_repair_is_batchnorm_folded_into_the_layer():
    """Of one layer: BatchNorm, recalibrated, whose affine part is the ends' moments."""
    ends = [{n: p.double() for n, p in point_of(make_mlp(seed=s)).items()} for s in (0, 1)]
    problem = problem_of(make_mlp(), count=23)
    middle = combine((0.5, 0.5), ends)
    found = repaired(problem, middle, ends, 0.5)
    first = nn.Linear(36, 5)
    network = nn.Sequential(
        nn.Flatten(), first, nn.BatchNorm1d(5, eps=0), nn.Tanh(), nn.Linear(5, 4)
    )
    twin = problem_of(network, count=23)
    means, stds = zip(*(moments(problem, end, "1") for end in ends), strict=True)
    point = {
        "1.weight": middle["1.weight"], "1.bias": middle["1.bias"],
        "2.weight": sum(stds) / 2, "2.bias": sum(means) / 2,
        "4.weight": middle["3.weight"], "4.bias": middle["3.bias"],
    }  # fmt: skip
    expected = outputs(twin, point, recalibrated(twin, point))
    torch.testing.assert_close(outputs(problem, found, {}), expected, rtol=1e-11, atol=1e-12)
