"""APART against its closed forms, its fixed decay, and plain training."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ridgeline.analysis.reports import report
from ridgeline.analysis.training.generator import best_per_cycle, collapse, speckle, study
from ridgeline.landscape.problem import Problem
from ridgeline.landscape.result import load_result
from ridgeline.models import InputError, build_model
from ridgeline.models.blocks import block_inputs
from ridgeline.train.attacks import FGSM, PGD
from ridgeline.train.data.augmentation import CROP_AND_FLIP, PADDING, Crop
from ridgeline.train.data.noise import Noise
from ridgeline.train.files.checkpoint import load_checkpoint, save_checkpoint
from ridgeline.train.loop import fit
from ridgeline.train.methods import Apart, Setup, Step
from ridgeline.train.methods.apart_generator import Generator
from ridgeline.train.methods.apart_options import ApartOptions
from ridgeline.train.optimizers import parse_optimizer
from ridgeline.train.schedules.shapes import Triangle
from tests.conftest import make_images, make_mlp

EPS = 0.1
STEP = Step(0, 0.5, 0, 0)
PGD1 = PGD(eps=EPS, iterations=1)


def still(value: float = 0.0) -> Triangle:
    return Triangle(low_v=value, up_v=value, cycle_freq=1)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build_model("preact", (1, 28, 28), width=1, num_classes=4).double().train()


def apart(net, images, *, augment=None, epochs=1, **options) -> Apart:
    options = ApartOptions(**{"max_lr_alpha": 0.0, "cycle_momentum": False, **options})
    setup = Setup(images=images, attack=PGD1, augment=augment, epochs=epochs)
    return Apart(net, setup, options)


def batch_of(images, dtype=torch.float64):
    return next(images.batches(len(images), dtype=dtype))


@pytest.fixture
def images():
    return make_images(6, (1, 28, 28))


def test_the_published_network_has_as_many_parameters_as_published():
    """11,172,180 with the 10 scalars of the generator."""
    net = build_model("preact", (3, 32, 32), width=16)
    method = apart(net, make_images(2, (3, 32, 32)))
    scalars = sum(s.numel() for s in method.scalars)
    assert scalars == 10
    assert sum(p.numel() for p in net.parameters()) + scalars == 11_172_180
    assert not {"step_size", "memory_scale"} & {n.split(".")[-1] for n in net.state_dict()}


def test_gradients_of_the_scalars_are_the_closed_forms(images):
    """Sums over pixels that neither clip holds, of the second pass's gradient (spec 3.6)."""
    net = network()
    method = apart(net, images)
    with torch.no_grad():  # scalars large enough that both clips hold some pixels
        method.step_size.fill_(0.07)
        method.memory_scale.fill_(0.12)
        method.noise_scales.copy_(torch.linspace(-0.02, 0.03, 8))
        method.memory = 1.5 * torch.randn(method.memory.shape).double()
    a, aw, ab = (t.detach().clone().double() for t in
                 (method.step_size, method.memory_scale, method.noise_scales))  # fmt: skip
    batch, w = batch_of(images), method.memory.clone()
    batch = batch._replace(x=(3 * batch.x - 1).clamp(0, 1))  # some pixels at 0 and 1

    reference = copy.deepcopy(net)
    sites = block_inputs(reference)
    delta0 = (aw * w).clamp(-EPS, EPS)
    x0 = (batch.x + delta0).clamp(0, 1).requires_grad_()
    inputs = {}
    handles = [m.register_forward_pre_hook(lambda m, i, n=n: inputs.__setitem__(n, i[0]))
               for n, m in sites.items()]  # fmt: skip
    first = F.cross_entropy(reference(x0), batch.y)
    gx, *gh = torch.autograd.grad(first, [x0, *inputs.values()])
    for handle in handles:
        handle.remove()
    s, signs = gx.sign(), [g.sign() for g in gh]
    x1 = (batch.x + (delta0 + a * s).clamp(-EPS, EPS)).clamp(0, 1).requires_grad_()
    noisy = {}

    def disturb(name, offset):
        def hook(module, given):
            noisy[name] = given[0] + offset
            return (noisy[name],)

        return hook

    for (name, module), scale, sign in zip(sites.items(), ab, signs, strict=True):
        module.register_forward_pre_hook(disturb(name, scale * sign))
    loss = F.cross_entropy(reference(x1), batch.y)
    g, *gn = torch.autograd.grad(loss, [x1, *noisy.values()])
    free = ((batch.x + delta0 + a * s >= 0) & (batch.x + delta0 + a * s <= 1)
            & ((delta0 + a * s).abs() <= EPS))  # fmt: skip
    inner = free & ((aw * w).abs() <= EPS)
    assert 0 < free.double().mean() < 1
    assert 0 < inner.double().mean() < free.double().mean()

    got, _ = method.loss(batch, STEP)
    method.backward(got)
    close = {"rtol": 1e-5, "atol": 1e-9}
    torch.testing.assert_close(got.detach(), loss.detach())
    torch.testing.assert_close(method.step_size.grad.double(), (g * free * s).sum(), **close)
    torch.testing.assert_close(method.memory_scale.grad.double(), (g * inner * w).sum(), **close)
    blocks = torch.stack([(d * sign).sum() for d, sign in zip(gn, signs, strict=True)])
    torch.testing.assert_close(method.noise_scales.grad.double(), blocks, **close)
    moved = (w + a / (aw + 1e-7) * g.sign()).clamp(-1, 1)
    torch.testing.assert_close(method.memory.double(), moved)


def test_without_a_generator_it_is_plain_training_with_two_batchnorm_updates(images):
    net = network()
    plain = copy.deepcopy(net)
    method = apart(net, images, step=0.0, memory=False, layerwise=False)
    loss, logits = method.loss(batch_of(images), STEP)
    method.backward(loss)
    batch = batch_of(images)
    plain(batch.x)
    expected = plain(batch.x)
    F.cross_entropy(expected, batch.y).backward()
    torch.testing.assert_close(logits, expected)
    for ours, theirs in zip(net.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
    for ours, theirs in zip(net.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("augment", [None, CROP_AND_FLIP])
def test_perturbations_and_memory_stay_in_their_bounds(images, augment):
    net = network()
    method = apart(net, images, weight_decay_alpha=0.0, augment=augment)
    method.scalar_rate = still(1e-3)
    seen = []
    net.register_forward_pre_hook(lambda m, i: seen.append(i[0].detach()))
    for number in range(6):
        step = Step(number, float(number), number, 0)
        batch = batch_of(images)
        loss, _ = method.loss(batch, step)
        method.backward(loss)
        first, second = seen[-2:]
        for x in (first, second):
            assert (x - batch.x).abs().max() <= EPS + 1e-6
            assert x.min() >= 0
            assert x.max() <= 1
        assert method.memory.abs().max() <= 1
    assert method.step_size > 1e-3  # it has learnt
    trace = method.metrics(step)
    assert trace["generator_saturated"] > 0
    assert all(value == value for value in trace.values())


def test_a_crop_taken_back_is_the_identity_and_moves_only_its_window():
    torch.manual_seed(0)
    padded = torch.rand(9, 2, 6 + 2 * PADDING, 5 + 2 * PADDING)
    crop = Crop.draw(torch.arange(9), 3, 1)
    assert set(crop.flip.tolist()) == {0, 1}
    same = padded.clone()
    crop.undo(same, crop.apply(padded))
    assert torch.equal(same, padded)
    new = -torch.rand(9, 2, 6, 5) - 1
    crop.undo(same, new)
    assert torch.equal(crop.apply(same), new)
    assert int((same != padded).sum()) == new.numel()


@pytest.mark.parametrize(("decay", "kept"), [(1200.0, 0.115), (400.0, 0.487)])
def test_scalars_without_gradient_decay_as_in_the_published_schedule(images, decay, kept):
    """30 epochs of 391 steps; measured on the original (spec section 4)."""
    setup = Setup(images=images, attack=PGD1, epochs=30,
                  optimizer=parse_optimizer("name=sgd,lr=0.2"))  # fmt: skip
    options = ApartOptions(weight_decay_alpha=decay, memory=False, layerwise=False)
    method = Apart(network(), setup, options)
    with torch.no_grad():
        method.step_size.fill_(1.0)
    method.step_size.grad = torch.zeros(())
    for number in range(30 * 391):
        method._ascend(Step(number // 391, number / 391, number, 0))
    assert method.step_size.item() == pytest.approx(kept, abs=0.002)


def test_the_first_step_changes_nothing_and_the_peak_is_in_the_middle(images):
    schedule = Triangle(up_v=0.2, cycle_freq=30)
    momentum = Triangle(low_v=0.9, up_v=0.8, cycle_freq=30)
    assert (schedule(0), schedule(15), schedule(30)) == (0, 0.2, 0)
    assert (momentum(0), momentum(15)) == pytest.approx((0.9, 0.8))
    net = network().float()
    before = copy.deepcopy(net.state_dict())
    method = apart(net, images, max_lr_alpha=1.0)
    fit(method, images, images, epochs=1, batch_size=6,
        optimizer=parse_optimizer("name=sgd,lr=1,momentum=0.9"),
        lr_schedule=Triangle(up_v=1.0, cycle_freq=1), momentum_schedule=momentum)  # fmt: skip
    for name, p in net.named_parameters():
        assert torch.equal(p, before[name])
    assert method.step_size.item() == pytest.approx(1e-4)


def test_memory_belongs_to_the_example_whatever_the_batch(images):
    part = images.take(torch.tensor([4, 1, 5]))
    whole, few = apart(network(), images), apart(network(), part)
    assert torch.equal(few.memory[[0, 1, 2]], whole.memory[[4, 1, 5]])


def test_a_network_without_blocks_is_refused_only_for_block_noise(images):
    with pytest.raises(InputError, match="block_inputs"):
        apart(make_mlp(784), images)
    loss, _ = apart(make_mlp(784), images, layerwise=False).loss(batch_of(images), STEP)
    assert loss.isfinite()


@pytest.mark.parametrize("name", ["resnet", "lenet", "preact"])
def test_blocks_begin_where_their_first_convolution_does(name):
    names = list(block_inputs(build_model(name, (3, 32, 32), width=1)))
    assert len(names) == (1 if name == "lenet" else 8)
    assert names[0] == ("conv2" if name == "lenet" else "layer1.0.conv1")


def linear(seed: int = 0) -> nn.Module:
    """Two classes, no bias: the loss gradient by the image keeps its direction everywhere."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 2, bias=False)).double()


def test_a_generator_that_is_the_strong_attack_on_the_reference_has_strength_one():
    images = make_images(60, classes=2)
    problem = Problem(linear(), images, batch_size=13)
    images = replace(images, labels=problem.predict(problem.origin)(images.pixels).argmax(1))
    problem = problem.on(images)
    fgsm = FGSM(eps=0.1)
    ds = study({1: problem, 2: Problem(linear(1), images)}, problem, fgsm, fgsm, images, tiles=2)
    assert float(ds["strength"][0]) == pytest.approx(1)
    assert float(ds["strength"][1]) < 1
    assert float(ds["transfer"][0]) == float(ds["robust"][0]) == float(ds["reference_strong"])
    assert ds["gap"].values.tolist() == [0, 0]
    np.testing.assert_allclose(ds["alignment"], 1, atol=1e-9)
    assert ds["perturbation"].shape == (2, 2, 1, 6, 6)
    weight = (problem.origin["1.weight"][1] - problem.origin["1.weight"][0]).view(6, 6)
    sign = np.sign(ds["perturbation"].values[0, 0, 0])
    assert abs((sign * weight.sign().numpy()).sum()) == 36
    assert float(ds["clean"][0]) == 1
    assert "WARNING" not in report(ds.assign_attrs(kind="generator"))
    assert "transfer cannot be judged" in report(
        ds.assign(random=ds["reference_strong"]).assign_attrs(kind="generator")
    )


@pytest.mark.parametrize("augment", [None, CROP_AND_FLIP])
@pytest.mark.parametrize(
    "options", [{}, {"memory": False}, {"method": "fgsm", "max_lr_alpha": 5e-8}]
)
def test_the_generator_of_a_checkpoint_is_the_run_s_own(options, augment, tmp_path):
    """Sees a generator freshly made, another image's memory, a border left on, a step not saved."""
    images = make_images(9).take(torch.tensor([7, 1, 4, 8, 2]))
    plain = {} if options.get("method") == "fgsm" else {"layerwise": False}
    method = apart(make_mlp(), images, augment=augment, **plain, **options)
    with torch.no_grad():
        method.step_size.fill_(0.03)
        method.memory_scale.fill_(0.05)
    batch = batch_of(images)
    if method.memory is not None:
        method.memory.copy_(torch.rand(method.memory.shape) * 2 - 1)
    path = tmp_path / "run.ckpt"
    save_checkpoint(path, method.weights(), {"a": 1}, method.beside())
    saved = load_checkpoint(path)
    assert saved.tensors.keys() == method.network.state_dict().keys()
    assert saved.sha256 == _bare_digest(method, tmp_path)
    noise = Noise(0, batch.index)
    found = [Generator.of(saved.beside(), images), method.training_attack(STEP)]
    found = [own(method.network, batch.x, batch.y, noise) for own in found]
    assert torch.equal(*found)
    if not augment:
        method.loss(batch, STEP)
        assert torch.equal(found[0], method._pass[5].detach())
    blank = Generator.of(saved.beside())
    assert blank == blank.forgetful()
    if method.memory is not None:
        p = PADDING if augment else 0
        start = 0.05 * method.memory[1, ..., p : p + 6, p : p + 6]
        own = Generator.of(saved.beside(), images)
        torch.testing.assert_close(own.start(batch.x, batch.index)[1].float(), start)
        with pytest.raises(InputError, match="remembers other images"):
            Generator.of(saved.beside(), make_images(9))


def _bare_digest(method, folder) -> str:
    """The digest of the same network alone."""
    save_checkpoint(folder / "bare.ckpt", method.weights(), {"a": 1})
    assert load_checkpoint(folder / "bare.ckpt").beside() == {}
    return load_checkpoint(folder / "bare.ckpt").sha256


def test_block_noise_of_a_checkpoint_is_that_of_training(images):
    """Sees block noise of another site, sign or size: the logits of the second pass are exact."""
    method = apart(network(), images, memory=False)
    method.network.eval()  # a batch's own statistics would be another network's
    with torch.no_grad():
        method.step_size.fill_(0.03)
        method.noise_scales.copy_(torch.linspace(0.01, 0.2, 8))
    batch, own = batch_of(images), Generator.of(method.beside())
    _, logits = method.loss(batch, STEP)
    got = own.noisy(method.network, method.sites, batch.x, batch.y, batch.index)
    torch.testing.assert_close(got, logits.detach(), rtol=1e-9, atol=1e-9)
    assert not torch.allclose(got, method.network(own(method.network, batch.x, batch.y)))
    with pytest.raises(InputError, match="8 blocks, the network 0"):
        own.noisy(method.network, {}, batch.x, batch.y, batch.index)


def test_noise_and_shapes_are_told_apart():
    torch.manual_seed(0)
    noise = speckle(torch.randn(50, 1, 28, 28))
    assert noise["autocorrelation"] == pytest.approx(0, abs=0.02)
    assert noise["high_share"] == pytest.approx(1 - (15 / 28) ** 2, abs=0.01)  # white: bins
    half = torch.ones(1, 1, 28, 28)
    half[..., :14] = -1
    shape = speckle(half)
    assert shape["autocorrelation"] > 0.9
    assert shape["high_share"] < 0.2
    assert speckle(torch.tensor([[[[0.0, 1.0], [1.0, 0.0]]]]))["zero_share"] == 0.5


@pytest.mark.parametrize(
    ("accuracy", "ignore", "expected"),
    [
        ([0.1, 0.3, 0.4, 0.01, 0.0], 0, (0.4, 0.0, 0.4, 4)),
        ([0.3, 0.1, 0.4, 0.5], 0, (0.5, 0.5, 0.0, 2)),
        ([0.3, 0.1, 0.4, 0.5], 2, (0.5, 0.5, 0.0, math.nan)),
    ],
)
def test_best_last_drop_and_first_collapse(accuracy, ignore, expected):
    got = collapse(accuracy, ignore=ignore)
    assert tuple(got.values()) == pytest.approx(expected, nan_ok=True)


def test_best_per_cycle():
    best = best_per_cycle([1, 2, 3, 4, 5], [0.1, 0.4, 0.3, 0.2, 0.5], 2)
    assert best == {1: 0.4, 2: 0.3, 3: 0.5}


RUN = ("--dataset", "mnist5k", "--model_type", "lenet", "--width", "1", "--subset_size", "80",
       "--eval_size", "30", "--epoch_num", "2", "--epoch_ckpts", "1,2", "--out_folder", "runs",
       "--optim", "name=sgd,lr=0.1,momentum=0.9", "--attack",
       "name=pgd,threshold=0.2,iter_num=2,order=-1")  # fmt: skip


def test_commands_from_training_to_figures(run_command, tmp_path):
    for method in ("apart", "fgsm", "fgsm_plus", "pgd"):
        extra = ("--augment", "True") if method == "apart" else ()
        run_command("train_apart", *RUN, "--method", method, "--model_name", method, *extra,
                    check=True)  # fmt: skip
    lines = [json.loads(x) for x in (tmp_path / "runs/apart.jsonl").read_text().splitlines()]
    assert {"generator_step", "generator_noise_conv2", "test_target_accuracy"} <= lines[0].keys()
    assert lines[-1]["lr"] == pytest.approx(0.1)  # one step of two before the triangle is down
    fixed = [json.loads(x) for x in (tmp_path / "runs/fgsm.jsonl").read_text().splitlines()]
    assert fixed[0]["generator_step"] == pytest.approx(1)
    assert "generator_noise_conv2" not in fixed[0]
    keys = load_checkpoint(tmp_path / "runs/apart.ckpt").tensors.keys()
    assert keys == load_checkpoint(tmp_path / "runs/pgd.ckpt").tensors.keys()
    done = run_command(
        "analyze_generator", "--model2load", "runs/apart_1.ckpt,runs/apart_2.ckpt", "--reference",
        "runs/pgd.ckpt", "--subset_size", "30", "--train_size", "30", "--attack", RUN[-1],
        "--cycle_epochs", "1", "--block_noise", "True", "--out_file", "g.nc", check=True,
    )  # fmt: skip
    assert "collapse" in done.stdout
    ds = load_result(tmp_path / "g.nc")
    np.testing.assert_allclose(ds["step"], [m["generator_step"] for m in lines], rtol=1e-6)
    assert ds["noisy_train"].shape == (2,)
    refused = run_command("analyze_generator", "--model2load", "runs/apart_1.ckpt", "--reference",
                          "runs/pgd.ckpt", "--generator", "name=fgsm,eps=0.2", "--block_noise",
                          "True", "--out_file", "i.nc")  # fmt: skip
    assert (refused.returncode, "no --generator" in refused.stderr) == (2, True)
    run_command("plot", "--result", "runs/apart.jsonl,runs/fgsm.jsonl", "--against", "generator",
                "--out_file", "trace", check=True)  # fmt: skip
    refused = run_command("plot", "--result", "runs/pgd.jsonl", "--against", "generator")
    assert (refused.returncode, "train_apart" in refused.stderr) == (2, True)
    run_command("train_apart", *RUN, "--model_name", "light", "--save_memory", "False", check=True)
    beside = load_checkpoint(tmp_path / "runs/light_2.ckpt").beside()
    assert sorted(beside) == ["eps", "memory_scale", "noise_scales", "step_size"]
    for against in ("epoch", "images"):
        run_command("plot", "--result", "g.nc", "--against", against, "--out_file", against,
                    check=True)  # fmt: skip
    assert (tmp_path / "images.png").stat().st_size > 2000
    first = ("runs/apart_1.ckpt,runs/apart_1.ckpt", "records no epoch, or one given before")
    refused = run_command("analyze_generator", "--model2load", first[0], "--reference",
                          "runs/pgd.ckpt", "--out_file", "h.nc")  # fmt: skip
    assert (refused.returncode, first[1] in refused.stderr) == (2, True)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (("--method", "pgd10"), "allowed: apart, fgsm, fgsm_plus, pgd"),
        (("--eps", "0"), "must be positive"),
        (("--eps", "2"), "in fractions of"),  # as the attack is
        (("--optim", "name=adam,lr=1e-3"), "--optim with momentum"),
        (("--max_lr_alpha", "-1"), "must not be negative"),
        (("--attack", "name=pgd,threshold=1/2,iter_num=2,order=2"), "l_inf"),
        (("--epoch_ckpts", "3"), "1..2"),
    ],
)
def test_bad_input_is_one_line_and_nothing_on_disk(line, expected, refuse):
    kept = [a for n, a in enumerate(RUN) if RUN[n - n % 2] != line[0]]
    assert expected in refuse("train_apart", *kept, *line)
