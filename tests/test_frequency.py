"""DCT convolutions and the filter-frequency penalty against their definitions."""

from __future__ import annotations

import copy
import json
import math

import numpy as np
import pytest
import torch
from scipy.fft import dctn
from torch import nn
from torch.nn import functional as F

from ridgeline.analysis.frequency.filters import filter_spectrum
from ridgeline.landscape.weights.frequency_bands import band_direction, band_of
from ridgeline.models import InputError, build_model
from ridgeline.models.blocks import input_sizes
from ridgeline.models.dct import (
    DctConv2d,
    analyse,
    dct_basis,
    dct_layers,
    decompose,
    plain_state,
    synthesise,
)
from ridgeline.train.files.checkpoint import load_checkpoint
from ridgeline.train.loop import fit
from ridgeline.train.methods import Frequency
from ridgeline.train.methods.base import Setup, Step
from ridgeline.train.methods.frequency import FrequencyOptions, depth_rule, norms, penalty
from ridgeline.train.optimizers import parse_optimizer
from tests.conftest import make_images, make_mlp

NORMS = {
    3: [[0.3333, 0.4082, 0.3536], [0.4082, 0.5000, 0.4330], [0.3536, 0.4330, 0.3750]],
    5: [[0.2000, 0.2298, 0.2185, 0.2298, 0.2185], [0.2298, 0.2639, 0.2510, 0.2639, 0.2510],
        [0.2185, 0.2510, 0.2387, 0.2510, 0.2387], [0.2298, 0.2639, 0.2510, 0.2639, 0.2510],
        [0.2185, 0.2510, 0.2387, 0.2510, 0.2387]],
}  # fmt: skip


@pytest.mark.parametrize("size", NORMS)
def test_the_basis_is_the_published_one(size):
    basis = dct_basis(size)
    torch.testing.assert_close(basis.abs().sum((2, 3)), torch.ones(size, size).double())
    np.testing.assert_allclose(basis.square().sum((2, 3)).sqrt(), NORMS[size], atol=1e-4)
    gram = basis.flatten(0, 1).flatten(1)
    gram = gram @ gram.T
    torch.testing.assert_close(gram, gram.diag().diag(), atol=1e-12, rtol=0)
    assert (basis[0, 1].diff(dim=0).abs() > 0).any()  # j is the vertical frequency
    assert basis[0, 1].diff(dim=1).abs().max() < 1e-12


@pytest.mark.parametrize("size", [2, 3, 4, 5, 7])
def test_coefficients_and_kernels_are_inverse_and_scaled_orthonormal_dct(size):
    torch.manual_seed(0)
    kernels = torch.randn(4, 3, size, size, dtype=torch.float64)
    c = analyse(kernels)
    torch.testing.assert_close(synthesise(c), kernels)
    torch.testing.assert_close(c[..., 0, 0], kernels.sum((2, 3)))
    scale = dct_basis(size).square().sum((2, 3)).sqrt()
    orthonormal = dctn(kernels.numpy(), axes=(2, 3), norm="ortho").swapaxes(2, 3)
    np.testing.assert_allclose(c * scale, orthonormal, atol=1e-12)


LAYERS = {
    "dense": nn.Conv2d(4, 6, 3, padding=1),
    "depthwise": nn.Conv2d(4, 8, 5, padding=2, groups=4, bias=False),
    "grouped": nn.Conv2d(4, 6, 3, groups=2),
    "strided": nn.Conv2d(4, 6, 3, stride=2, padding=1),
    "dilated": nn.Conv2d(4, 6, 3, dilation=2, padding="same"),
    "seven": nn.Conv2d(4, 6, 7, padding=3),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("kind", ["WD", "SD"])
def test_a_converted_layer_is_the_same_function_both_ways(name, kind):
    torch.manual_seed(0)
    plain = copy.deepcopy(LAYERS[name]).double()
    layer = DctConv2d(plain, kind)
    x = torch.randn(2, 4, 9, 9, dtype=torch.float64)
    torch.testing.assert_close(layer(x), plain(x))
    torch.testing.assert_close(layer.plain()(x), plain(x))
    assert sum(p.numel() for p in layer.parameters()) == sum(p.numel() for p in plain.parameters())


@pytest.mark.parametrize(
    ("init", "std"), [("kaiming_uniform", 0.0237), ("signal", 0.0097), ("kaiming_normal", 0.0237)]
)
def test_original_initialisations_have_the_measured_spread(init, std):
    """Spatial weights of a dense 64 -> 128 layer (spec section 3)."""
    torch.manual_seed(0)
    layer = DctConv2d(nn.Conv2d(64, 128, 3), init=init)
    assert layer.weight.std().item() == pytest.approx(std, rel=0.02)


@pytest.mark.parametrize(
    ("kind", "size", "factor"), [("highest", 3, 10), ("highest", 5, 57), ("all", 3, 30),
                                 ("all", 5, 296), ("highest", 7, None)],
)  # fmt: skip
def test_penalties_of_equal_coefficients(kind, size, factor):
    filters = 6 * 4
    got = penalty(torch.ones(6, 4, size, size), kind).item()
    if factor is None:
        factor = sum(max(i, j) for i in range(7) for j in range(7) if max(i, j) > 3.5)
    assert got == pytest.approx(factor * math.sqrt(filters), rel=1e-5)


@pytest.mark.parametrize(("size", "terms"), [(3, 16), (5, 80)])
def test_hinges_count_pairs_and_vanish_for_decaying_norms(size, terms):
    i = torch.arange(size, dtype=torch.float64)
    diagonal = i[:, None] + i[None, :]
    rising = penalty((diagonal + 1).expand(1, 1, size, size), "decay").item()
    assert rising == pytest.approx(terms)  # every hinge is 1
    falling = 1.0 / (1 + diagonal)
    assert penalty(falling.expand(2, 3, size, size), "decay").item() == 0
    low = penalty(falling.expand(2, 3, size, size), "highest", lowest=True)
    assert low == penalty(falling.expand(2, 3, size, size), "highest")
    high = torch.zeros(1, 1, size, size)
    high[0, 0, 0, 1], high[0, 0, 1, 1] = 2.0, 3.0
    assert penalty(high, "highest", lowest=True).item() == 5


def test_the_gradient_pulls_whole_frequencies_and_is_zero_at_zero():
    c = torch.randn(3, 2, 3, 3, dtype=torch.float64)
    c[:, :, 2, 1] = 0
    c.requires_grad_()
    penalty(c, "highest").backward()
    n = norms(c.detach())
    expected = torch.zeros_like(c)
    for i, j in ((0, 2), (2, 0), (1, 2), (2, 2)):
        expected[:, :, i, j] = 2 * c.detach()[:, :, i, j] / n[i, j]
    torch.testing.assert_close(c.grad, expected)
    assert c.grad.isfinite().all()


@pytest.mark.parametrize(
    ("name", "layers", "third", "half"),
    [("resnet9", 8, 3, 5), ("resnet20", 19, 7, 10), ("efficientnet_b0", 17, 6, 9)],
)
def test_published_networks_have_their_layers_and_depths(name, layers, third, half):
    plain = build_model(name, (3, 32, 32), width=1)
    assert len(dct_layers(decompose(plain))) == layers
    assert [depth_rule(layers, depth) for depth in (3, 2, 1)] == [third, half, layers]
    assert len(Frequency(plain).penalised) == third


def test_published_networks_have_as_many_parameters_as_published():
    count = lambda n: sum(p.numel() for p in n.parameters())  # noqa: E731
    assert count(build_model("resnet9", (3, 32, 32), width=16)) == 6_573_120
    assert count(build_model("resnet20", (3, 32, 32), width=4)) == 272_474
    sizes = input_sizes(build_model("efficientnet_b0", (3, 32, 32)), (3, 32, 32))
    assert next(iter(sizes.values())) == 32
    assert min(sizes.values()) < 5  # deep maps are smaller than the kernels there


@pytest.mark.parametrize("kind", ["WD", "SD"])
def test_a_converted_network_exports_to_the_same_function(kind):
    torch.manual_seed(0)
    plain = build_model("resnet9", (3, 32, 32), width=1).double().eval()
    network = decompose(plain, kind)
    x = make_images(3, (3, 32, 32)).pixels
    torch.testing.assert_close(network(x), plain(x))
    state = plain_state(network)
    assert state.keys() == plain.state_dict().keys()
    twin = build_model("resnet9", (3, 32, 32), width=1).double().eval()
    twin.load_state_dict(state)
    torch.testing.assert_close(twin(x), plain(x))


def test_training_lowers_the_high_frequencies_of_the_penalised_layers():
    """Same seed with and without; WD and SD take the same course from the same start."""
    images = make_images(64, (3, 32, 32), classes=10)

    def trained(strength, kind="WD"):
        torch.manual_seed(0)
        options = FrequencyOptions(basis_filter=kind, l2_lambda=strength)
        method = Frequency(build_model("resnet9", (3, 32, 32), width=1), options=options)
        fit(method, images, images.subset(8), epochs=12, batch_size=16,
            optimizer=parse_optimizer("name=adamw,lr=0.01,weight_decay=0.01"))  # fmt: skip
        return method, filter_spectrum(method.weights())["high_share"].values

    (method, with_it), (_, without) = trained(0.01), trained(0.0)
    assert len(method.penalised) == 3
    assert (with_it[:3] < 0.95 * without[:3]).all()
    values = method.metrics(None)
    assert values["penalty"] == pytest.approx(0.01 * float(method.penalty()))
    assert values["penalised_layers"] == 3
    assert len(values) == 2 + 8 * 9
    _, signal = trained(0.01, "SD")
    np.testing.assert_allclose(signal, with_it, atol=0.02)


@pytest.mark.parametrize("band", ["low", "high"])
def test_directions_of_one_band_move_that_band_by_the_layer_s_norm(band):
    network = build_model("resnet9", (3, 32, 32), width=1)
    point = {n: p.detach() for n, p in network.named_parameters()}
    direction = band_direction(point, 0, band, 0.5)
    for name, d in direction.items():
        if d.ndim != 4:
            assert not d.any()
            continue
        assert d.norm().item() == pytest.approx(0.5 * point[name].norm().item(), rel=1e-5)
        power = norms(analyse(d))
        high = torch.tensor([[max(i, j) > 1.5 for j in range(3)] for i in range(3)])
        assert power[~high if band == "high" else high].max() < 1e-6 * power.max()
    kernels = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(band_of(kernels, "low") + band_of(kernels, "high"), kernels)
    with pytest.raises(InputError, match="no square kernel"):
        band_direction({"w": torch.ones(2, 2)}, 0, band)


def test_refusals():
    with pytest.raises(InputError, match="no square convolution"):
        decompose(make_mlp())
    with pytest.raises(InputError, match="allowed: SD, WD"):
        DctConv2d(nn.Conv2d(1, 1, 3), "WDX")
    with pytest.raises(InputError, match="zeros"):
        DctConv2d(nn.Conv2d(1, 1, 3, padding_mode="circular"))
    with pytest.raises(InputError, match="reg_depth"):
        depth_rule(8, 0)


RUN = ("--dataset", "mnist5k", "--width", "1", "--subset_size", "60", "--eval_size", "20",
       "--epoch_num", "1", "--batch_size", "20", "--out_folder", "runs")  # fmt: skip


def test_the_command_writes_plain_checkpoints(run_command, tmp_path):
    for name, extra in (
        ("a", ()),
        ("b", ("--basis_filter", "SD", "--init_scale", "signal", "--reg_diff_all", "True")),
        ("c", ("--l2_reg", "False", "--attack", "name=fgsm,threshold=0.1")),
    ):
        run_command("train_frequency", *RUN, "--model_name", name, *extra, check=True)
    keys = load_checkpoint(tmp_path / "runs/a.ckpt").tensors.keys()
    assert keys == build_model("resnet9", (1, 28, 28), width=1).state_dict().keys()
    lines = [json.loads((tmp_path / f"runs/{n}.jsonl").read_text()) for n in "abc"]
    assert lines[0]["penalty"] > 0
    assert lines[2]["penalty"] == 0
    assert "test_target_accuracy" in lines[2]
    start, end = (load_checkpoint(tmp_path / f"runs/{n}.ckpt").tensors for n in ("a_init", "a"))
    assert F.mse_loss(start["stem.conv.weight"], end["stem.conv.weight"]) > 0
    run_command("calc_hessian", "--model2load", "runs/a.ckpt", "--subset_size", "10",
                "--out_file", "h.nc", check=True)  # fmt: skip
    run_command("calc_filter_spectrum", "--model2load", "runs/a.ckpt", "--out_file", "s.nc",
                check=True)  # fmt: skip


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (("--basis_filter", "DW"), "allowed: SD, WD"),
        (("--init_scale", "xavier"), "allowed:"),
        (("--reg_diff_all", "True", "--reg_diff", "True"), "name one"),
        (("--l2_lambda", "-1"), "must not be negative"),
        (("--reg_depth", "0"), "must be positive"),
        (("--min_kernel_size", "9"), "no square convolution of size 9"),
        (("--model_type", "resnet10"), "resnet9"),
    ],
)
def test_bad_input_is_one_line_and_nothing_on_disk(line, expected, refuse):
    assert expected in refuse("train_frequency", *RUN, *line)


def test_without_a_basis_it_is_plain_training():
    """The baseline of the published commands: --basis_filter None --l2_reg 0."""
    network = build_model("resnet9", (3, 32, 32), width=1)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    method = Frequency(network, Setup(), FrequencyOptions(basis_filter=None))
    assert (method.network, method.label) == (network, "plain")
    batch = next(make_images(4, (3, 32, 32)).batches(4))
    loss, logits = method.loss(batch, Step(0, 0.0, 0, 0))
    assert torch.equal(loss, F.cross_entropy(logits, batch.y))
    assert method.metrics(Step(0, 0.0, 0, 0)) == {"penalty": 0.0, "penalised_layers": 0}
    assert method.weights().keys() == before.keys()
