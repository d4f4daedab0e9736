"""Networks of the papers: published sizes, and torchvision's logits on shared weights."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ridgeline.models import ANY_SIZE, InputError, build_model, is_external, published_width
from ridgeline.models.torchvision_import import import_torchvision
from ridgeline.train.data.network_check import check_network
from ridgeline.train.files.matching import fit_to
from tests.commands import tiny_set
from tests.conftest import make_images

CIFAR, IMAGENET = (3, 32, 32), (3, 224, 224)


def built(name: str, shape, **options) -> nn.Module:
    """Without memory or time for its weights."""
    with torch.device("meta"):
        return build_model(name, shape, **options)


@pytest.mark.parametrize(
    ("name", "shape", "options", "count"),
    [
        ("wrn28", CIFAR, {}, 36_479_194),
        ("wrn34", CIFAR, {}, 46_160_474),
        ("wrn70", CIFAR, {}, 266_796_506),
        ("wrn16", CIFAR, {"num_classes": 100}, 11_007_540),
        ("resnet18", CIFAR, {}, 11_173_962),
        ("resnet34", CIFAR, {}, 21_282_122),
        ("resnet50", CIFAR, {}, 23_520_842),
        ("resnet18_imagenet", IMAGENET, {"num_classes": 1000}, 11_689_512),
        ("resnet34_imagenet", IMAGENET, {"num_classes": 1000}, 21_797_672),
        ("resnet50_imagenet", IMAGENET, {"num_classes": 1000}, 25_557_032),
        ("resnet101_imagenet", IMAGENET, {"num_classes": 1000}, 44_549_160),
        ("resnet152_imagenet", IMAGENET, {"num_classes": 1000}, 60_192_808),
        ("vit16", IMAGENET, {"width": 3, "num_classes": 1000}, 5_717_416),
        ("vit16", IMAGENET, {"num_classes": 1000}, 22_050_664),
        ("vit16", IMAGENET, {"width": 12, "num_classes": 1000}, 86_567_656),
        ("resnet20", CIFAR, {}, 272_474),
        ("efficientnet_b0", CIFAR, {}, 4_020_358),
    ],
)
def test_sizes_are_the_published_ones(name, shape, options, count):
    assert sum(p.numel() for p in built(name, shape, **options).parameters()) == count


def test_published_widths():
    widths = {"wrn16": 8, "wrn28": 10, "wrn34": 10, "wrn40": 4, "wrn70": 16}
    widths |= {name: 16 for name in ANY_SIZE if name.startswith("resnet")}
    widths |= {"vit4": 6, "vit8": 6, "vit16": 6}
    assert [published_width(n, CIFAR) for n in ("resnet20", "efficientnet_b0")] == [4, 8]
    assert {name: published_width(name, CIFAR) for name in ANY_SIZE} == widths


def loaded(network: nn.Module, source: nn.Module) -> nn.Module:
    """The network with another's weights, matched as those of a file."""
    network.load_state_dict(fit_to(source.state_dict(), network, "file").state)
    return network.eval()


def lively(network: nn.Module) -> nn.Module:
    """BatchNorm that does something in eval mode."""
    for name, value in network.state_dict().items():
        if name.endswith(("running_mean", "running_var")):
            value.copy_(torch.rand_like(value) + 0.5)
    return network.eval()


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_resnets_with_the_imagenet_stem_are_torchvisions(name):
    torch.manual_seed(0)
    theirs = lively(getattr(import_torchvision("models"), name)(num_classes=10).double())
    ours = loaded(build_model(f"{name}_imagenet", (3, 64, 64)).double(), theirs)
    x = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-10, atol=1e-10)


def test_the_cifar_stem_is_that_of_the_existing_resnet18():
    torch.manual_seed(0)
    theirs = lively(build_model("resnet", CIFAR, width=2).double())
    ours = build_model("resnet18", CIFAR, width=2).double()
    ours.load_state_dict(theirs.state_dict())
    x = torch.rand(2, *CIFAR, dtype=torch.float64)
    torch.testing.assert_close(ours.eval()(x), theirs(x), rtol=1e-12, atol=1e-12)


def test_the_transformer_is_torchvisions():
    torch.manual_seed(0)
    theirs = import_torchvision("models").VisionTransformer(
        image_size=32, patch_size=8, num_layers=12, num_heads=2, hidden_dim=128, mlp_dim=512,
        num_classes=7,
    ).double().eval()  # fmt: skip
    nn.init.normal_(theirs.heads.head.weight)
    nn.init.normal_(theirs.class_token)
    renamed = {"class_token": "cls_token", "encoder.pos_embedding": "pos_embed",
               "conv_proj": "patch_embed.proj", "encoder.ln": "norm", "heads.head": "head",
               "encoder.layers.encoder_layer_": "blocks.", "ln_1": "norm1", "ln_2": "norm2",
               "self_attention.in_proj_": "attn.qkv.", "self_attention.out_proj": "attn.proj",
               "mlp.0": "mlp.fc1", "mlp.3": "mlp.fc2"}  # fmt: skip
    state = {}
    for name, tensor in theirs.state_dict().items():
        for old, new in renamed.items():
            name = name.replace(old, new)
        state[name] = tensor
    ours = build_model("vit8", CIFAR, width=2, num_classes=7).double()
    ours.load_state_dict(state)
    x = torch.rand(3, *CIFAR, dtype=torch.float64)
    torch.testing.assert_close(ours.eval()(x), theirs(x), rtol=1e-10, atol=1e-10)


def test_a_wide_block_with_a_shortcut_convolution_feeds_it_the_activated_input():
    """Sees the raw input there, as in our PreActResNet18."""
    torch.manual_seed(0)
    block = lively(build_model("wrn16", CIFAR, width=1).double()).block2.layer[0]
    x = torch.randn(2, 16, 8, 8, dtype=torch.float64)
    h = block.bn1(x).relu()
    y = block.conv2(block.bn2(block.conv1(h)).relu()) + block.convShortcut(h)
    torch.testing.assert_close(block(x), y)
    names = list(build_model("wrn34", CIFAR, width=1).state_dict())
    assert {"block1.layer.4.conv2.weight", "block3.layer.0.convShortcut.weight"} < set(names)


def test_any_size_and_channels():
    for name, shape in (("wrn28", (1, 28, 28)), ("resnet18", (3, 64, 64)), ("vit8", (3, 64, 64))):
        network = build_model(name, shape, width=1, num_classes=5)
        assert network.eval()(torch.rand(2, *shape)).shape == (2, 5)
    with pytest.raises(InputError, match=r"patches of 16 pixels.*28x28"):
        build_model("vit16", (1, 28, 28))


def test_a_run_of_a_transformer_and_its_curvature(tmp_path, run_command):
    tiny_set(tmp_path)
    run_command("train_normal", "--model_type", "vit8", "--width", 1, "--dataset", "tiny.npz",
             "--epoch_num", 1, "--batch_size", 10, "--subset_size", 20, "--out_folder", "runs",
             "--model_name", "a", check=True)  # fmt: skip
    run_command("calc_hessian", "--model2load", "runs/a.ckpt", "--subset_size", 5, "--topk", 1,
                check=True)  # fmt: skip


def test_names_of_public_resnets_are_told():
    """Public ResNets call them downsample and fc."""
    ours = build_model("resnet18", CIFAR, width=1)
    state = {k.replace("shortcut", "downsample").replace("classifier", "fc"): v
             for k, v in ours.state_dict().items()}  # fmt: skip
    twin = build_model("resnet18", CIFAR, width=1)
    twin.load_state_dict(fit_to(state, twin, "file").state)
    assert torch.equal(twin.layer2[0].shortcut[0].weight, ours.layer2[0].shortcut[0].weight)


class Stub(nn.Module):
    """What timm's factories return: a network that says how many classes it has."""

    def __init__(self, num_classes=1000, in_chans=3, size=4):
        super().__init__()
        self.num_classes = num_classes
        self.fc = nn.Linear(in_chans, num_classes)
        self.hidden = nn.Linear(1, size)

    def forward(self, x):
        return self.fc(x.mean((2, 3)))


@pytest.fixture
def timm(monkeypatch):
    """A stand-in for the optional package; records what it was asked for."""
    asked = []

    def create_model(name, pretrained=False, **options):
        asked.append((name, pretrained, options))
        if name == "stubborn":
            options |= {"num_classes": 1000}
        return Stub(**options)

    stub = SimpleNamespace(
        list_models=lambda: ["resnet50d", "stubborn", "vit_tiny"], create_model=create_model
    )
    monkeypatch.setitem(sys.modules, "timm", stub)
    return asked


def test_timm_networks_get_classes_channels_and_options(timm):
    network = build_model("timm:vit_tiny,size=6", (1, 28, 28), num_classes=7)
    assert timm == [("vit_tiny", False, {"in_chans": 1, "num_classes": 7, "size": 6})]
    assert network(torch.rand(2, 1, 28, 28)).shape == (2, 7)
    assert not is_external("timm:vit_tiny")
    assert published_width("timm:vit_tiny", CIFAR) is None
    check_network(network, make_images(shape=(1, 28, 28)))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet50", {}, "no network 'resnet50'.*resnet50d"),
        ("stubborn", {}, "has 1000 classes, not 10"),
        ("vit_tiny", {"width": 2}, "has no --width"),
        ("vit_tiny", {"bias": False}, "has no --bias"),
        ("vit_tiny,pretrained=True", {}, "no option pretrained: .*random weights"),
        ("vit_tiny,num_classes=1000", {}, "no option num_classes: the classes are those of"),
        ("vit_tiny,depth=2", {}, "timm:vit_tiny failed: TypeError.*depth"),
    ],
)
def test_what_timm_cannot_build_is_one_line(timm, name, options, message):
    with pytest.raises(InputError, match=message) as caught:
        build_model(f"timm:{name}", CIFAR, **options)
    assert "\n" not in str(caught.value)


def test_timm_is_optional(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)  # as if it were not installed
    with pytest.raises(InputError, match=r"timm:resnet50 needs .*pip install timm") as caught:
        build_model("timm:resnet50", CIFAR)
    assert "\n" not in str(caught.value)


def test_a_factory_that_only_hands_on_gets_the_number_of_classes(tmp_path, monkeypatch):
    """Sees torchvision.models:resnet18 with 1000 logits for 10 classes."""
    network = build_model("torchvision.models:resnet18", CIFAR, num_classes=10)
    assert network.fc.out_features == 10
    told = build_model("torchvision.models:resnet18,num_classes=3", CIFAR, num_classes=10)
    assert told.fc.out_features == 3
    (tmp_path / "hands_on_for_test.py").write_text(
        "from torch import nn\ndef inner(a=2):\n    return nn.Linear(a, 5)\n"
        "def net(**options):\n    return inner(**options)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert build_model("hands_on_for_test:net", CIFAR).out_features == 5
