"""Networks: published keys, shapes, logits; external factories; input normalisation."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ridgeline.landscape.surfaces.curve import Knots
from ridgeline.landscape.weights.point import buffers_of, point_of
from ridgeline.models import InputError, build_model

KEYS = json.loads((Path(__file__).parent / "pas_keys.json").read_text())
MNIST, CIFAR = (1, 28, 28), (3, 32, 32)
PUBLISHED = {
    "mnist_lenet_w16": ("lenet", MNIST, 16),
    "cifar10_vgg16bn_w8": ("vgg", CIFAR, 8),
    "cifar10_resnet18_w8": ("resnet", CIFAR, 8),
    "cifar10_lenet_w8": ("lenet", CIFAR, 8),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_keys_shapes_and_order_are_the_published_ones(name):
    model_type, shape, width = PUBLISHED[name]
    network = build_model(model_type, shape, width=width)
    ours = [[k, list(v.shape)] for k, v in network.state_dict().items()]
    assert ours == [entry[:2] for entry in KEYS[name]["entries"]]
    assert sum(p.numel() for p in network.parameters()) == KEYS[name]["n_params"]


@pytest.mark.parametrize(
    ("name", "subject", "count"),
    [
        ("curve_mnist_lenet_w16_K3", "mnist_lenet_w16", 3),
        ("curve_cifar10_resnet18_w8_K5", "cifar10_resnet18_w8", 5),
    ],
)
def test_curve_keys_are_the_published_ones(name, subject, count):
    model_type, shape, width = PUBLISHED[subject]
    network = build_model(model_type, shape, width=width)
    knots = Knots([point_of(network)] * count, [True] * count, buffers_of(network))
    ours = {k: list(v.shape) for k, v in knots.state_dict().items()}
    assert ours == {key: shape for key, shape, _ in KEYS[name]["entries"]}


@pytest.mark.parametrize(
    ("model_type", "shape", "width", "bias", "count"),
    [
        ("lenet", MNIST, 1, True, 13_514),
        ("lenet", MNIST, 4, True, 206_954),
        ("vgg", CIFAR, 2, True, 232_274),
        ("resnet", CIFAR, 4, True, 701_466),
        ("lenet", CIFAR, 2, True, 244_962),
        # biases of conv1 (2w), conv2 (4w) and fc1 (64w) go, that of fc2 stays
        ("lenet", MNIST, 4, False, 206_954 - 70 * 4),
    ],
)
def test_parameter_counts(model_type, shape, width, bias, count):
    network = build_model(model_type, shape, width=width, bias=bias)
    assert sum(p.numel() for p in network.parameters()) == count
    assert network(torch.rand(2, *shape)).shape == (2, 10)


def test_resnet_logits_equal_a_forward_written_out_by_key():
    """The published weights give the same logits: the function behind the keys, spelled out."""
    torch.manual_seed(0)
    network = build_model("resnet", CIFAR, width=1).eval()
    sd = network.state_dict()
    for key, value in sd.items():
        if key.endswith(("running_mean", "running_var")):
            value.copy_(torch.rand_like(value) + 0.5)
    x = torch.rand(3, *CIFAR)

    def bn(h, name):
        return F.batch_norm(
            h, sd[f"{name}.running_mean"], sd[f"{name}.running_var"],
            sd[f"{name}.weight"], sd[f"{name}.bias"], eps=1e-5,
        )  # fmt: skip

    h = bn(F.conv2d(x, sd["conv1.weight"], padding=1), "bn1").relu()
    for stage in (1, 2, 3, 4):
        for block in (0, 1):
            name = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            y = F.conv2d(h, sd[f"{name}.conv1.weight"], stride=stride, padding=1)
            y = F.conv2d(bn(y, f"{name}.bn1").relu(), sd[f"{name}.conv2.weight"], padding=1)
            if f"{name}.shortcut.0.weight" in sd:
                h = F.conv2d(h, sd[f"{name}.shortcut.0.weight"], stride=stride)
                h = bn(h, f"{name}.shortcut.1")
            h = (bn(y, f"{name}.bn2") + h).relu()
    logits = F.linear(h.mean((2, 3)), sd["classifier.weight"], sd["classifier.bias"])
    torch.testing.assert_close(network(x), logits, atol=1e-5, rtol=1e-5)


def test_lenet_logits_equal_a_forward_written_out_by_key():
    torch.manual_seed(0)
    network = build_model("lenet", MNIST, width=2)
    sd = network.state_dict()
    x = torch.rand(3, *MNIST)
    h = x
    for layer in ("conv1", "conv2"):
        h = F.conv2d(h, sd[f"{layer}.weight"], sd[f"{layer}.bias"], padding=2).relu()
        h = F.max_pool2d(h, 2)
    h = F.linear(h.reshape(3, -1), sd["fc1.weight"], sd["fc1.bias"]).relu()
    expected = F.linear(h, sd["fc2.weight"], sd["fc2.bias"])
    torch.testing.assert_close(network(x), expected)


def test_normalisation_is_inside_and_adds_no_key():
    plain = build_model("lenet", CIFAR, width=1)
    inside = build_model("lenet", CIFAR, width=1, normalize=([0.5] * 3, [0.25] * 3))
    inside.load_state_dict(plain.state_dict(), strict=True)
    x = torch.rand(2, *CIFAR)
    torch.testing.assert_close(inside(x), plain((x - 0.5) / 0.25))


def test_one_channel_images_in_either_memory_layout():
    torch.manual_seed(0)
    network = build_model("lenet", MNIST, width=2)
    x = torch.rand(4, *MNIST)
    last = x.contiguous(memory_format=torch.channels_last)
    assert last.stride() != x.stride() or x.shape[1] == 1
    torch.testing.assert_close(network(last), network(x))
    # strides that claim channels_last outright, as views of (N, H, W, 1) arrays have
    view = x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    torch.testing.assert_close(network(view), network(x))


def test_external_factory(tmp_path, monkeypatch):
    (tmp_path / "zoo_for_test.py").write_text(
        "from torch import nn\n"
        "def net(num_classes, width=1):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(784, num_classes))\n"
        "def wrong():\n    return 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    network = build_model("zoo_for_test:net", MNIST, num_classes=7)
    assert isinstance(network, nn.Module)
    assert network(torch.rand(2, *MNIST)).shape == (2, 7)
    for name, message in {
        "zoo_for_test:wrong": "not a torch.nn.Module",
        "zoo_for_test:absent": "cannot be imported",
        "no_such_module:net": "cannot be imported",
    }.items():
        with pytest.raises(InputError, match=message):
            build_model(name, MNIST)
    sys.modules.pop("zoo_for_test", None)


def test_unknown_and_unfit_models_are_refused():
    with pytest.raises(InputError, match="did you mean 'resnet"):
        build_model("resnett", CIFAR)
    with pytest.raises(InputError, match="allowed for them: lenet"):
        build_model("vgg", MNIST)
    with pytest.raises(InputError, match="width"):
        build_model("lenet", MNIST, width=0)


def test_torchvision_imports_beside_this_torch():
    from ridgeline.models.torchvision_import import import_torchvision

    assert import_torchvision("datasets").MNIST
    assert import_torchvision().__version__
