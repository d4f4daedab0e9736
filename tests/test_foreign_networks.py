"""Networks of others: copied, tried on two images, normalised, built from files and options."""

from __future__ import annotations

import copy
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ridgeline.landscape.problem import Problem
from ridgeline.landscape.surfaces.curve import Knots, knots_in
from ridgeline.landscape.weights.point import add, point_of
from ridgeline.models import InputError, add_normalization, build_model
from ridgeline.train.files.checkpoint import load_checkpoint, save_checkpoint
from ridgeline.train.parts.weight_average import Average
from tests.conftest import make_conv_bn, make_images


def net(function, *modules: nn.Module) -> nn.Module:
    """A network over 1x6x6 images with the given modules and forward."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.f = nn.Linear(36, 4)
            for number, module in enumerate(modules):
                self.add_module(f"m{number}", module)

        def forward(self, x):
            return function(self, x)

    torch.manual_seed(0)
    return Net()


def check(network: nn.Module, images=None) -> None:
    from ridgeline.train.data.network_check import check_network

    check_network(network, images or make_images())


UNMEASURABLE = {
    "BatchNorm without statistics": (
        net(lambda n, x: n.f(n.m0(x).flatten(1)), nn.BatchNorm2d(1, track_running_stats=False)),
        r"other images of a batch; module m0 \(BatchNorm2d\)",
    ),
    "mean over the batch": (
        net(lambda n, x: n.f((x - x.mean(0)).flatten(1))), r"a batch; Net\.forward itself",
    ),
    "functional dropout": (
        net(lambda n, x: n.f(F.dropout(x, 0.5).flatten(1))), r"chance.*Net\.forward itself",
    ),
    "noise layer": (
        net(lambda n, x: n.m0(n.f(x.flatten(1))),
            net(lambda n, x: x + 1e-3 * torch.randn_like(x))), r"chance.*module m0 \(Net\)",
    ),
    "one logit": (net(lambda n, x: n.f(x.flatten(1))[:, :1]), "one number per image.*two"),
    "one number": (net(lambda n, x: n.f(x.flatten(1))[:, 0]), "one number per image"),
    "tuple": (net(lambda n, x: (n.f(x.flatten(1)), x)), "returns a tuple.*logits alone"),
    "dict": (net(lambda n, x: {"logits": n.f(x.flatten(1))}), "returns a dict"),
    "squeezed": (net(lambda n, x: n.f(x.flatten(1)).squeeze(0)), r"returns \(4,\) for 1 images"),
    "maps": (net(lambda n, x: x), r"returns \(2, 1, 6, 6\)"),
    "too few classes": (net(lambda n, x: n.f(x.flatten(1))[:, :3]), "3 classes.*labels up to 3"),
    "not finite": (net(lambda n, x: n.f(x.flatten(1)) / 0), "logits are not finite"),
    "channels": (
        net(lambda n, x: n.m0(x), nn.Conv2d(3, 4, 6)), r"images of shape 1x6x6 \(RuntimeError: G",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNMEASURABLE)
def test_what_cannot_be_measured_is_refused_with_its_reason(name):
    """Sees numbers that change with batch size or chance, and outputs that are no logits."""
    network, message = UNMEASURABLE[name]
    with pytest.raises(InputError, match=message):
        check(network)


def test_a_mean_over_the_batch_is_seen_when_all_images_are_equal():
    """Sees a dry run on two equal images, which a batch statistic cannot tell from one."""
    images = make_images(1)
    with pytest.raises(InputError, match="other images of a batch"):
        check(net(lambda n, x: n.f((x - x.mean(0)).flatten(1))), images)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_dry_run_accepts_what_can_be_measured_and_leaves_no_trace(dtype):
    """Sees rounding taken for dependence on the batch, and random numbers or flags consumed."""
    torch.manual_seed(0)
    deep = nn.Sequential(*(nn.Sequential(nn.Conv2d(1 if not n else 16, 16, 3, padding=1),
                                         nn.InstanceNorm2d(16), nn.ReLU()) for n in range(12)),
                         nn.Flatten(), nn.Dropout(0.5), nn.Linear(576, 4))  # fmt: skip
    for network in (make_conv_bn(), deep, build_model("resnet", (3, 32, 32), width=2)):
        network.to(dtype).train()
        before, state = copy.deepcopy(network.state_dict()), torch.get_rng_state()
        first = network.conv1 if hasattr(network, "conv1") else None
        check(network, make_images(shape=(3, 32, 32) if first is not None else (1, 6, 6)))
        assert torch.equal(torch.get_rng_state(), state)
        assert network.training and all(p.requires_grad for p in network.parameters())
        assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
        assert not any(m._forward_hooks for m in network.modules())


def test_a_refused_network_is_left_without_hooks():
    """Sees the search for the culprit stay in the network."""
    network, _ = UNMEASURABLE["noise layer"]
    with pytest.raises(InputError):
        check(network)
    assert not any(m._forward_hooks for m in network.modules())


def test_normalisation_is_before_a_sequential_not_behind_it():
    """Sees the logits of an nn.Sequential normalised, and copies or dtypes that lose the constants.

    The constants are exact in the dtype of the images.
    """
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    inside = add_normalization(copy.deepcopy(plain), [0.1, 0.2, 0.3], [0.3, 0.2, 0.1])
    assert inside.state_dict().keys() == plain.state_dict().keys()
    assert [n for n, _ in inside.named_modules()] == [n for n, _ in plain.named_modules()]
    x = torch.rand(2, 3, 2, 2, dtype=torch.float64)
    mean, std = (torch.tensor(v, dtype=x.dtype).view(1, 3, 1, 1)
                 for v in ([0.1, 0.2, 0.3], [0.3, 0.2, 0.1]))  # fmt: skip
    expected = plain.double()((x - mean) / std)
    assert torch.equal(copy.deepcopy(inside).double()(x), expected)
    with pytest.raises(InputError, match="3 means, the images 1 channels"):
        build_model("lenet", (1, 28, 28), width=1, normalize=([0.1] * 3, [1] * 3))


class Cached(nn.Module):
    """Keeps a computed tensor, as the old weight_norm keeps its weight."""

    def __init__(self):
        super().__init__()
        self.f = nn.utils.weight_norm(nn.Linear(36, 4))
        self.seen: list = []

    def forward(self, x):
        out = self.f(x.flatten(1))
        self.seen = [out]
        return out


@pytest.mark.filterwarnings("ignore:.*weight_norm")
def test_networks_that_keep_computed_tensors_are_copied():
    """Sees copy.deepcopy refuse such networks, and copies whose weights are not their own."""
    network, images = Cached(), make_images()
    network(images.pixels.float())
    problem = Problem(network, images)
    moved = add(problem.origin, {n: torch.ones_like(p) for n, p in problem.origin.items()})
    assert problem.under(None).evaluate(moved).loss != problem.evaluate().loss
    average = Average(network, 0.5)
    with torch.no_grad():
        network.f.weight_g += 1
    assert not torch.equal(average.network.f.weight_g, network.f.weight_g)
    x = images.pixels[:2].float()
    assert not torch.allclose(average.network(x), network(x))
    assert problem.evaluate().loss == Problem(Cached_like(problem), images).evaluate().loss


def Cached_like(problem: Problem) -> nn.Module:
    network = Cached()
    network.load_state_dict({**network.state_dict(), **problem.origin})
    return network


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.inp, self.a, self.b = nn.Linear(36, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.b.weight = self.a.weight
        self.register_buffer("grid", torch.linspace(0, 1, 36), persistent=False)
        self.inp.requires_grad_(False)

    def forward(self, x):
        return self.b(torch.tanh(self.a(torch.tanh(self.inp(x.flatten(1) + self.grid)))))


def test_a_moved_network_has_moved_under_all_its_names(tmp_path):
    """Sees a tied weight stay where it was after "moved by": the second name held the old one."""
    from ridgeline.landscape.weights.point import state_at

    torch.manual_seed(0)
    network, again = Tied(), Tied()
    moved = add(point_of(network), {n: torch.ones_like(p) for n, p in point_of(network).items()})
    save_checkpoint(tmp_path / "a.ckpt", state_at(network, moved), {})
    checkpoint = load_checkpoint(tmp_path / "a.ckpt")
    assert checkpoint.ties == (("a.weight", "b.weight"),)
    checkpoint.load_into(again)
    assert all(torch.equal(p, moved[n]) for n, p in again.named_parameters())


def test_a_parameter_whose_name_begins_anothers_is_no_knot_of_it():
    """Sees w_scale_0 counted as a control point of w, and NaN knots scanned."""
    network = net(lambda n, x: n.f(x.flatten(1)))
    network.w, network.w_scale = (nn.Parameter(torch.ones(1)) for _ in range(2))
    origin = point_of(network)
    origin = {"w": origin.pop("w"), **origin}
    knots = Knots([origin] * 3, [False] * 3, {})
    assert len(knots_in(knots.state_dict(), origin, "curve")) == 3
    knots.w_1.data.fill_(torch.nan)
    with pytest.raises(InputError, match="w_1 holds 1 of 1 values that are NaN"):
        knots_in(knots.state_dict(), origin, "curve")


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    """A working folder with a file of networks and a neighbour that it imports."""
    (tmp_path / "zoo_parts.py").write_text("WIDTH = 5\n")
    (tmp_path / "zoo_nets.py").write_text(
        "from torch import nn\n"
        "from zoo_parts import WIDTH\n"
        "def mlp(num_classes=10, hidden=WIDTH, sizes=(3,), act='tanh', scale=1.0):\n"
        "    net = nn.Sequential(nn.Flatten(), nn.Linear(784, hidden), nn.Linear(hidden,"
        " num_classes))\n"
        "    net.options = (sizes, act, scale)\n"
        "    return net\n"
        "def lazy(num_classes): return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))\n"
        "def broken(): raise KeyError('no such\\nlayer')\n"
        "def leaves(): raise SystemExit(3)\n"
        "def vision(num_classes):\n"
        "    import torchvision.models\n"
        "    return torchvision.models.resnet18(num_classes=num_classes)\n"
    )
    (tmp_path / "zoo_bad.py").write_text("raise RuntimeError('at import')\n")
    monkeypatch.chdir(tmp_path)
    before, path = set(sys.modules), list(sys.path)
    yield tmp_path
    assert sys.path == path
    for name in set(sys.modules) - before:
        if name.startswith(("zoo_", "ridgeline_external_")):
            del sys.modules[name]


MNIST = (1, 28, 28)


def test_a_factory_of_a_file_or_of_the_working_folder_with_typed_options(zoo):
    """Sees files that only open with PYTHONPATH, and options that reach nobody or as strings."""
    (zoo / "sub").mkdir()
    for name in ("zoo_nets.py", "zoo_parts.py"):
        (zoo / "sub" / name).write_text((zoo / name).read_text().replace("WIDTH = 5", "WIDTH = 6"))
    for source, hidden in (("zoo_nets", 5), ("zoo_nets.py", 5), (str(zoo / "zoo_nets.py"), 5)):
        network = build_model(f"{source}:mlp", MNIST, num_classes=7)
        assert network[1].out_features == hidden and network[2].out_features == 7
    network = build_model("zoo_nets.py:mlp,hidden=2,sizes=[1,2],act=relu,num_classes=3,scale=1e-3",
                          MNIST, num_classes=7)  # fmt: skip
    assert network[1].out_features == 2 and network[2].out_features == 3
    assert network.options == ([1, 2], "relu", 1e-3)


def test_lazy_modules_get_their_sizes_from_the_images(zoo):
    """Sees a lazy network fail or differ from one run to the next."""
    torch.manual_seed(0)
    first = build_model("zoo_nets.py:lazy", MNIST, num_classes=7)
    torch.manual_seed(0)
    again = build_model("zoo_nets.py:lazy", MNIST, num_classes=7)
    assert first[1].weight.shape == (7, 784) and first.training
    assert torch.equal(first[1].weight, again[1].weight)


def test_torchvision_is_importable_by_a_users_own_module_and_by_name(zoo, monkeypatch):
    """Sees the wheel that does not fit a CPU torch break networks that only import it."""
    for module in [m for m in sys.modules if m.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, module)
    for name in ("zoo_nets:vision", "torchvision.models:resnet18,num_classes=2"):
        network = build_model(name, (3, 32, 32), num_classes=2)
        assert network.fc.out_features == 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("zoo_nets.py:broken", "failed: KeyError: 'no such"),
        ("zoo_nets:leaves", "SystemExit: 3"),
        ("zoo_bad.py:net", "RuntimeError: at import"),
        ("zoo_bad:net", "RuntimeError: at import"),
        ("no/such.py:net", "no such file: no/such.py"),
        ("zoo_nets.py:none", r"no 'none' in .*zoo_nets\.py"),
        ("zoo_nets.py:mlp,hiden=3", r"unknown option .*'hiden' \(did you mean 'hidden'"),
        ("zoo_nets.py:mlp,3", "write them as key=value"),
        ("zoo_nets.py:mlp,hidden=open('x')", "write them as key=value"),
        ("zoo_nets.py:", "write package.module:factory or file.py:factory"),
        (":mlp", "write package.module:factory"),
        ("torchvision.models:resnet18,num_class=2", "TypeError.*num_class"),
        ("zoo_nets.py:mlp,hidden=-1", "failed: RuntimeError"),
    ],
)
def test_what_a_factory_raises_is_one_line(name, message, zoo):
    """Sees the traceback of somebody else's module, and mistyped options swallowed."""
    with pytest.raises(InputError, match=message) as error:
        build_model(name, MNIST)
    assert "\n" not in str(error.value)
