"""Checkpoints of others open, whatever wraps them; damaged and unfit ones are refused."""

from __future__ import annotations

import argparse
import json
import random
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from ridgeline.analysis.distances import parameter_distance
from ridgeline.models import InputError
from ridgeline.train.files.checkpoint import load_checkpoint, save_checkpoint
from ridgeline.train.files.run_files import read_state
from tests.conftest import make_conv_bn


class Small(nn.Module):
    """A float32 network with BatchNorm, so that every kind of entry is there."""

    def __init__(self, head: str = "classifier"):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 2, 3)
        self.layer1 = nn.Sequential(nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2))
        self.head = head
        self.add_module(head, nn.Linear(2, 4))

    def forward(self, x):
        return self.get_submodule(self.head)(self.layer1(self.conv1(x)).mean((2, 3)))


class Wrapper(nn.Module):
    """Keeps the network under the name `module`, as a class of a user's own may."""

    def __init__(self):
        super().__init__()
        self.module = Small()


class Stats(nn.Module):
    def __init__(self, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.1), shape=(1, 3, 1, 1)):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(shape))
        self.register_buffer("std", torch.tensor(std).view(shape))

    def forward(self, x):
        return (x - self.mean) / self.std


def small(seed: int = 0) -> Small:
    torch.manual_seed(seed)
    network = Small()
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) + 0.1)
    return network


def prefixed(prefix: str):
    return lambda state: {prefix + name: tensor for name, tensor in state.items()}


def compiled_inside(state: dict) -> dict:
    return {k.replace("layer1.", "layer1._orig_mod."): v for k, v in state.items()}


#: what is done to a state dict before it is saved
WRAPPED = {
    "DataParallel": prefixed("module."),
    "compiled": prefixed("_orig_mod."),
    "both, one way": prefixed("module._orig_mod."),
    "both, the other way": prefixed("_orig_mod.module."),
    "Lightning": prefixed("model."),
    "deep": prefixed("model.net.module.encoder."),
    "in a Sequential": prefixed("1."),
    "one module compiled": compiled_inside,
    "AveragedModel": lambda s: {"n_averaged": torch.tensor(3), **prefixed("module.")(s)},
    "no counters": lambda s: {k: v for k, v in s.items() if "tracked" not in k},
    "no counters, nested": lambda s: {"state_dict": WRAPPED["no counters"](prefixed("module.")(s))},
    "beside an epoch": lambda s: {**s, "epoch": 3, "arch": "small"},
    "ema_state_dict": lambda s: {"ema_state_dict": s, "epoch": 3, "optim": {"state": {}}},
    "with an optimiser": lambda s: {
        "weights": s, "opt": {"state": {0: {"momentum_buffer": torch.ones(2)}}},
    },
    "accuracy as a tensor": lambda s: {"acc": torch.tensor(0.9), "net_state": s},
    "accuracy of numpy": lambda s: {"state_dict": s, "best": np.float64(0.9)},
    "list of one": lambda s: {"state_dict": [s]},
    "other head": lambda s: {k.replace("classifier", "linear"): v for k, v in s.items()},
    "other head, wrapped": lambda s: {
        "module." + k.replace("classifier", "fc"): v for k, v in s.items()
    },
    "another copy inside": lambda s: {**prefixed("model.")(s), **prefixed("attacker.model.")(s)},
}  # fmt: skip


@pytest.mark.parametrize("name", WRAPPED)
def test_a_state_dict_is_recognised_under_any_prefix_and_nest(name, tmp_path):
    """Sees a way of saving that is refused, or that fills a tensor with another one's values."""
    source, network = small(), small(1)
    torch.save(WRAPPED[name](source.state_dict()), tmp_path / "a.pt")
    load_checkpoint(tmp_path / "a.pt").load_into(network)
    for key, tensor in source.state_dict().items():
        if "tracked" not in key:
            assert torch.equal(network.state_dict()[key], tensor), key


@pytest.mark.parametrize("prefix", ["module.", "", "module.module.", "net."])
def test_a_network_whose_own_names_begin_with_module(prefix, tmp_path):
    """Sees `module.` stripped where it is the network's own attribute."""
    source, network = small(), Wrapper()
    torch.save(prefixed(prefix)(source.state_dict()), tmp_path / "a.pt")
    load_checkpoint(tmp_path / "a.pt").load_into(network)
    assert torch.equal(network.module.conv1.weight, source.conv1.weight)


def test_integer_names(tmp_path):
    """Sees names that are numbers, as dicts over layers have them, break the reader."""
    torch.save({0: torch.ones(2), 1: torch.zeros(3)}, tmp_path / "a.pt")
    network = nn.ParameterList([nn.Parameter(torch.rand(2)), nn.Parameter(torch.rand(3))])
    load_checkpoint(tmp_path / "a.pt").load_into(network)
    assert network[0].sum() == 2


def test_of_several_networks_in_a_file_one_is_named(tmp_path):
    """Sees one of two networks taken in silence, and --state_key not heard."""
    a, b, network = small(), small(1), small(2)
    torch.save({"g": a.state_dict(), "h": {"inner": b.state_dict()}}, tmp_path / "nests.pt")
    flat = {**prefixed("student.")(a.state_dict()), **prefixed("teacher.")(b.state_dict())}
    torch.save(flat, tmp_path / "flat.pt")
    save_checkpoint(tmp_path / "flat.ckpt", flat, {})
    with pytest.raises(InputError, match=r"--state_key, g or h\.inner"):
        load_checkpoint(tmp_path / "nests.pt")
    for name, key in (("nests.pt", "h.inner"), ("flat.pt", "teacher"), ("flat.ckpt", "teacher")):
        load_checkpoint(tmp_path / name, key).load_into(network)
        assert torch.equal(network.conv1.weight, b.conv1.weight)
        with pytest.raises(InputError, match=r"no entry 'x'; there are"):
            load_checkpoint(tmp_path / name, "x")
    with pytest.raises(InputError, match=r"several networks.*--state_key"):
        load_checkpoint(tmp_path / "flat.pt").load_into(network)


def test_the_trained_network_wins_over_its_average_and_says_so(tmp_path, caplog):
    """Sees the average measured where the network is meant, or no word about the choice."""
    a, b, network = small(), small(1), small(2)
    torch.save({"ema_state_dict": b.state_dict(), "state_dict": a.state_dict()}, tmp_path / "a.pt")
    load_checkpoint(tmp_path / "a.pt").load_into(network)
    assert torch.equal(network.conv1.weight, a.conv1.weight)
    assert "--state_key takes ema_state_dict" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {k: v for k, v in s.items() if k != "conv1.bias"}, "lacks conv1.bias"),
        (lambda s: {**s, "conv9.weight": torch.ones(1)}, "unknown conv9.weight"),
        (lambda s: {**s, "conv1.bias": torch.ones(3)}, r"conv1.bias is \(3,\)"),
        (lambda s: {**s, "conv1.bias": torch.tensor([1, torch.nan])}, "1 of 2 values.*NaN"),
        (lambda s: {**s, "conv1.bias": torch.tensor([1, torch.inf])}, "infinite"),
        (lambda s: {**s, "conv1.bias": torch.tensor([1e300, 1.0]).double()}, "infinite"),
        (lambda s: {**s, "layer1.1.running_var": torch.full((2,), torch.nan)}, "running_var.*NaN"),
        (lambda s: {**s, "conv1.bias": torch.tensor([1, 2])}, "int64 numbers"),
        (lambda s: {**s, "conv1.bias": torch.ones(2, dtype=torch.complex64)}, "complex64"),
        # of another shape it is not the same layer under another name
        (lambda s: {**{k: v for k, v in s.items() if k != "classifier.bias"},
                    "fc.bias": torch.ones(5)}, r"lacks classifier\.bias; has unknown fc\.bias"),
    ],
)  # fmt: skip
def test_what_cannot_be_the_networks_weights_is_refused(change, message, tmp_path):
    """Sees diverged, quantised, complex or foreign weights measured without a word."""
    torch.save(change(small().state_dict()), tmp_path / "a.pt")
    with pytest.raises(InputError, match=message):
        load_checkpoint(tmp_path / "a.pt").load_into(small(1))


def test_a_module_of_another_name_is_not_guessed(tmp_path):
    """Sees two layers of one shape exchanged because their names are unknown."""
    network, other = (nn.Sequential() for _ in range(2))
    for names, target in ((("a", "b"), network), (("x", "y"), other)):
        for name in names:
            target.add_module(name, nn.Linear(2, 2))
    torch.save(other.state_dict(), tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"lacks a\.bias"):
        load_checkpoint(tmp_path / "a.pt").load_into(network)


def test_a_direction_is_no_network(tmp_path):
    """Sees an eigenvector measured as if it were trained weights."""
    network = small()
    save_checkpoint(tmp_path / "v.ckpt", network.state_dict(), {"kind": "direction"})
    with pytest.raises(InputError, match="direction in weight space"):
        load_checkpoint(tmp_path / "v.ckpt").load_into(network)


@pytest.mark.parametrize("shape", [(3,), (1, 3, 1, 1)])
@pytest.mark.parametrize("names", [("0.mean", "0.std"), ("0.mu", "0.sigma"), ("mean", "std")])
def test_a_stored_normalisation_is_found_and_never_dropped(names, shape, tmp_path):
    """Sees normalised networks measured on raw images because their constants were dropped."""
    network, (mean, std) = small(), ([0.5, 0.25, 0.125], [0.25, 0.5, 0.5])
    state = {f"1.{k}": v for k, v in network.state_dict().items()}
    state |= {n: torch.tensor(v).view(shape) for n, v in zip(names, (mean, std), strict=True)}
    torch.save(state, tmp_path / "a.pt")
    checkpoint = load_checkpoint(tmp_path / "a.pt")
    fitted = checkpoint.fit(small(1))
    assert fitted.normalization("a.pt") == {"mean": mean, "std": std}
    with pytest.raises(InputError, match=r"--normalize mean=0.5:0.25:0.125,std=0.25:0.5:0.5"):
        checkpoint.load_into(small(1))
    own = nn.Sequential(Stats(), small(1))  # a network with a place for them takes them itself
    checkpoint.load_into(own)
    assert own[0].mean.flatten().tolist() == mean
    assert torch.equal(own[1].conv1.weight, network.conv1.weight)


def test_constants_for_grey_levels_are_not_taken_for_ones_in_0_1(tmp_path):
    """Sees mean 125 subtracted from images in [0,1]."""
    state = nn.Sequential(Stats((125.0, 123.0, 114.0), (63.0, 62.0, 67.0)), small()).state_dict()
    torch.save(state, tmp_path / "a.pt")
    fitted = load_checkpoint(tmp_path / "a.pt").fit(small(1))
    with pytest.raises(InputError, match=r"not one for images in \[0,1\].*--normalize"):
        fitted.normalization("a.pt")


class Tied(nn.Module):
    def __init__(self, tied: bool = True):
        super().__init__()
        self.a, self.b = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
        if tied:
            self.b.weight = self.a.weight


def test_ties_are_kept_counted_once_and_not_broken(tmp_path):
    """Sees a tie counted twice in a distance, and weights that differ forced into one tensor."""
    ours, theirs = tmp_path / "a.ckpt", tmp_path / "b.pt"
    tied, other = Tied(), Tied()
    save_checkpoint(ours, tied.state_dict(), {})
    torch.save(other.state_dict(), theirs)
    a, b = load_checkpoint(ours), load_checkpoint(theirs)
    assert a.ties == b.ties == (("a.weight", "b.weight"),)
    ds = parameter_distance(a.tensors, b.tensors, a.ties)
    expected = (tied.a.weight - other.a.weight).norm().item()
    assert float(ds["total_distance"]) == pytest.approx(expected, rel=1e-6)
    save_checkpoint(ours, Tied(tied=False).state_dict(), {})
    assert load_checkpoint(ours).ties == ()
    with pytest.raises(InputError, match=r"a\.weight and b\.weight are one tensor"):
        load_checkpoint(ours).load_into(tied)
    torch.save({"a.weight": other.a.weight}, theirs)  # some formats keep a tie once
    load_checkpoint(theirs).load_into(tied)
    assert torch.equal(tied.b.weight, other.a.weight)


def test_a_refused_pickle_names_what_it_holds_and_the_remedy(tmp_path):
    """Sees a refusal that leaves the user without the reason."""
    torch.save({"state_dict": small().state_dict(), "x": argparse.Namespace()}, tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"argparse\.Namespace.*torch\.save\(network\.state_dict"):
        load_checkpoint(tmp_path / "a.pt")
    torch.save(nn.Linear(2, 2), tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(InputError, match=r"torch\.nn\.modules\.linear\.Linear"):
        load_checkpoint(tmp_path / "a.pt")


def test_the_digest_is_of_the_tensors_alone(tmp_path, monkeypatch):
    """Sees a bit-identical retraining become another checkpoint because the clock went on."""
    state = small().state_dict()
    save_checkpoint(tmp_path / "a.ckpt", state, {})
    monkeypatch.setattr("ridgeline.train.files.checkpoint.provenance", lambda: {"time": "later"})
    backwards = dict(reversed(list(state.items())))
    save_checkpoint(tmp_path / "b.ckpt", backwards, {"epoch": 3})
    torch.save(state, tmp_path / "c.pt")
    digests = {load_checkpoint(tmp_path / n).sha256 for n in ("a.ckpt", "b.ckpt", "c.pt")}
    assert len(digests) == 1
    for change in (
        {"conv1.bias": state["conv1.bias"] + 1e-7},
        {"conv1.bias": state["conv1.bias"][None]},
        {"conv1.bias": state["conv1.bias"].view(torch.int32)},
        {"conv2.bias": state["conv1.bias"]},
    ):
        save_checkpoint(tmp_path / "d.ckpt", {**state, **change}, {})
        assert load_checkpoint(tmp_path / "d.ckpt").sha256 not in digests


def flips(content: bytes, count: int):
    """The content with one bit flipped, `count` times at places drawn once and for all."""
    draw = random.Random(0)
    for _ in range(count):
        place = draw.randrange(len(content))
        yield (
            content[:place]
            + bytes([content[place] ^ 1 << draw.randrange(8)])
            + content[place + 1 :]
        )


def test_every_flipped_bit_of_our_checkpoints_is_noticed(tmp_path):
    """Sees a weight, a name or a recipe changed by one bit loaded as if nothing were."""
    path = tmp_path / "a.ckpt"
    save_checkpoint(path, make_conv_bn().state_dict(), {"model": {"width": 4}, "epochs": 3})
    assert path.stat().st_mode & 0o444 == 0o444  # readable by others, like every result
    for content in flips(path.read_bytes(), 150):
        path.write_bytes(content)
        with pytest.raises(InputError, match="damaged"):
            load_checkpoint(path)


@pytest.mark.parametrize("kind", ["checkpoint", "state"])
def test_a_flipped_bit_of_a_torch_file_is_noticed_or_harmless(kind, tmp_path):
    """Sees what torch.load does: it never looks at the checksums of its own zip files."""
    path = tmp_path / "a.pt"
    state = make_conv_bn().state_dict()
    torch.save(state if kind == "checkpoint" else {"recipe": {}, "network": state}, path)
    noticed = 0
    for content in flips(path.read_bytes(), 60):
        path.write_bytes(content)
        try:
            found = load_checkpoint(path).tensors if kind == "checkpoint" else read_state(path)
        except InputError as error:
            assert any(word in str(error) for word in ("damaged", "cannot be read", "no state"))
            noticed += 1
        else:  # the padding between members
            found = found if kind == "checkpoint" else found["network"]
            assert all(torch.equal(found[k], v) for k, v in state.items())
    assert noticed > 20


def test_a_zip_bomb_is_refused_before_it_is_read(tmp_path, monkeypatch):
    """Sees memory taken for what a small file claims to hold."""
    path = tmp_path / "a.pt"
    torch.save({"w": torch.zeros(2**20)}, path)
    with zipfile.ZipFile(path) as source:
        members = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for name, data in members.items():
            target.writestr(name, data)
    assert path.stat().st_size < 10_000
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("was read"))
    with pytest.raises(InputError, match="no compressed"):
        load_checkpoint(path)
    monkeypatch.undo()
    torch.save({"w": torch.zeros(1).expand(2**40)}, path)  # no memory either: all one number
    with pytest.raises(InputError, match="claims more elements"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "recipe",
    [
        [1], "text", 3, {"model": 3}, {"model": {"width": "8"}}, {"model": {"width": True}},
        {"model": {"model_type": 3}}, {"model": {"normalize": [1]}}, {"model": {"bias": None}},
        {"model": {"normalize": {"mean": ["a"], "std": [1]}}}, {"data": "mnist"},
        {"data": {"dataset": 5}}, {"data": {"examples": "all"}}, {"validation": 3},
        {"model": {"image_shape": [None]}}, {"kind": 3},
        {"model": {"normalize": {"mean": [0.5]}}},
    ],
)  # fmt: skip
def test_a_recipe_of_the_wrong_type_is_one_line(recipe, tmp_path):
    """Sees the traceback of whatever first uses a recipe that another program wrote."""
    import safetensors.torch

    path = tmp_path / "a.ckpt"
    safetensors.torch.save_file({"w": torch.ones(1)}, path, {"recipe": json.dumps(recipe)})
    with pytest.raises(InputError, match="its recipe is not one of ours"):
        load_checkpoint(path)
