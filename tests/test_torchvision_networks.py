"""Networks of torchvision by name: the same networks, never their weights, or one line."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch

from ridgeline.models import InputError, build_model, check_model_type, is_external, published_width
from ridgeline.models.torchvision_import import import_torchvision
from ridgeline.train.data.network_check import check_network
from tests.commands import tiny_set
from tests.conftest import make_images

SHAPE = (3, 32, 32)
SMALL = ("mobilenet_v3_small", "squeezenet1_1", "shufflenet_v2_x0_5")


@pytest.fixture
def offline(monkeypatch):
    """Whoever asks for weights from the net fails."""

    def refuse(*args, **options):
        raise AssertionError("weights were asked for")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refuse)
    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)


@pytest.mark.parametrize("name", SMALL)
def test_the_networks_are_torchvisions_own(name, offline):
    torch.manual_seed(0)
    ours = build_model(f"torchvision:{name}", SHAPE, num_classes=7)
    torch.manual_seed(0)
    theirs = getattr(import_torchvision("models"), name)(num_classes=7)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {
        k: v.shape for k, v in theirs.state_dict().items()
    }
    x = torch.rand(2, *SHAPE)
    assert torch.equal(ours.eval()(x), theirs.eval()(x))
    assert ours(x).shape == (2, 7)
    check_network(ours, make_images(shape=SHAPE))
    assert published_width(f"torchvision:{name}", SHAPE) is None
    assert not is_external(f"torchvision:{name}")


def test_options_of_a_network_follow_its_name(offline):
    half = build_model("torchvision:mobilenet_v2,width_mult=0.5", SHAPE)
    theirs = import_torchvision("models").mobilenet_v2(width_mult=0.5, num_classes=10)
    count = lambda network: sum(p.numel() for p in network.parameters())  # noqa: E731
    assert count(half) == count(theirs)
    inside = build_model("torchvision:squeezenet1_1", SHAPE, normalize=([0.5] * 3, [0.1] * 3))
    x = torch.rand(2, *SHAPE)
    torch.manual_seed(0)
    plain = build_model("torchvision:squeezenet1_1", SHAPE)
    plain.load_state_dict(inside.state_dict())
    torch.testing.assert_close(inside.eval()(x), plain.eval()((x - 0.5) / 0.1))


def test_auxiliary_outputs_are_left_out(offline):
    """GoogLeNet in training would return three tensors, which no loss here can take."""
    network = build_model("torchvision:googlenet", SHAPE).train()
    assert network(torch.rand(2, *SHAPE)).shape == (2, 10)


def test_a_vision_transformer_takes_the_size_of_the_images(offline):
    check_network(build_model("torchvision:vit_b_32", SHAPE), make_images(shape=SHAPE))


@pytest.mark.parametrize(
    ("name", "shape", "options", "message"),
    [
        ("resnet19", SHAPE, {}, "no network 'resnet19'.*resnet18"),
        ("", SHAPE, {}, "no network ''"),
        ("raft_small", SHAPE, {}, "no network 'raft_small'"),
        ("resnet18", (1, 28, 28), {}, "3 channels, these have 1"),
        ("resnet18", SHAPE, {"width": 4}, "has no --width"),
        ("resnet18", SHAPE, {"bias": False}, "has no --bias"),
        ("resnet18,weights=DEFAULT", SHAPE, {}, "no option weights: .*random weights"),
        ("resnet18,num_classes=1000", SHAPE, {}, "num_classes: the classes are those of the data"),
        ("googlenet,aux_logits=True", SHAPE, {}, "no option aux_logits"),
        ("resnet18,depth=3", SHAPE, {}, "torchvision:resnet18 failed: TypeError: .*depth"),
        ("resnet18,depth", SHAPE, {}, "key=value"),
    ],
)
def test_what_cannot_be_built_is_one_line(name, shape, options, message, offline):
    with pytest.raises(InputError, match=message) as caught:
        build_model(f"torchvision:{name}", shape, **options)
    assert "\n" not in str(caught.value)


def test_an_unknown_name_is_refused_before_anything_is_loaded():
    with pytest.raises(InputError, match="shufflenet"):
        check_model_type("torchvision:shufflenet", SHAPE)
    with pytest.raises(InputError, match=r"allowed: .*torchvision:NAME"):
        check_model_type("resnet19", SHAPE)


def test_images_too_small_for_a_stem_are_one_line(offline):
    network = build_model("torchvision:alexnet", SHAPE)
    with pytest.raises(InputError, match=r"does not take images of shape 3x32x32 \(RuntimeError"):
        check_network(network, make_images(shape=SHAPE))


def test_a_run_and_its_diagnostics_know_the_network_by_name(tmp_path, run_command, offline):
    """The name stands in the checkpoint: it is no code of others that only the user may name."""
    tiny_set(tmp_path)
    run_command("train_normal", "--model_type", "torchvision:shufflenet_v2_x0_5", "--dataset",
             "tiny.npz", "--epoch_num", 1, "--batch_size", 10, "--subset_size", 20, "--out_folder",
             "runs", "--model_name", "a", check=True)  # fmt: skip
    said = run_command("test_ensemble", "--model2load", "runs/a.ckpt", "--subset_size", 5)
    assert "clean" in said.stdout
    run_command("calc_filter_spectrum", "--model2load", "runs/a.ckpt", check=True)


def test_torchvision_is_loaded_only_when_asked_for():
    """It takes as long as torch itself: no module loads it when it is imported."""
    for path in Path(__file__).parent.parent.joinpath("models").glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [n for n in names if n.split(".")[0] == "torchvision"], path
