"""Numbers of training: rates, widths, averages, BatchNorm of averages, and what is logged."""

from __future__ import annotations

import importlib
import inspect
import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import nn

from ridgeline.analysis.figures.learning import draw_training
from ridgeline.models import MODELS, InputError, build_model, published_width
from ridgeline.models.torchvision_import import import_torchvision
from ridgeline.train.attacks import PGD
from ridgeline.train.loop import fit
from ridgeline.train.methods import Adversarial, Apart, Setup, Standard, Step
from ridgeline.train.methods.adversarial import AdversarialOptions
from ridgeline.train.methods.apart_options import ApartOptions
from ridgeline.train.methods.base import joined
from ridgeline.train.optimizers import parse_optimizer
from ridgeline.train.parts.batchnorm_statistics import recalibrate
from ridgeline.train.schedules import check_not_negative, parse_rate, parse_schedule
from tests.conftest import ROOT, make_conv_bn, make_images, make_mlp

SGD = parse_optimizer("name=sgd,lr=0.05,momentum=0.9")
PGD1 = PGD(eps=0.1, iterations=1)
COMMANDS = sorted(p.stem for p in (ROOT / "run").glob("train_*.py"))


@pytest.fixture
def command():
    """A module of `run/` by its name, or of `run/shared/`."""

    def module(name: str):
        room = "shared." if name in ("training", "options") else ""
        return importlib.import_module(f"ridgeline.run.{room}{name}")

    return module


# learning rates


@pytest.mark.parametrize("name", COMMANDS)
def test_the_rate_of_optim_counts_unless_a_schedule_is_given(name, command):
    """Sees a default schedule whose start is not the rate of --optim, or of a fixed length."""
    default = inspect.signature(command(name).main).parameters["training"].default
    default = command("options").Training() if default is inspect.Parameter.empty else default
    courses = []
    for epochs in (default.epoch_num, 40):
        rate = parse_rate(default.lr_schedule, 0.37, epochs)
        courses.append([rate(epochs * share / 1000) for share in range(1000)])
        assert max(courses[-1]) == pytest.approx(0.37)
    assert courses[0] == pytest.approx(courses[1])
    assert parse_rate(None, 0.37, 40)(39) == 0.37


@pytest.mark.parametrize(
    ("name", "lr", "published"),
    [
        ("train_cure", 0.1, {0: 0.1, 99: 0.1, 100: 0.01, 149: 0.01, 150: 0.001, 199: 0.001}),
        ("train_fomo", 0.1, {0: 0.1, 99: 0.1, 100: 0.01, 150: 0.001}),
        ("train_frequency", 0.01, {0: 0.01, 29: 0.01, 30: 1e-3, 60: 1e-4, 90: 1e-5, 120: 1e-6}),
        ("train_lure", 0.1, {0: 0.1, 19: 0.1, 20: 0.01, 39: 0.01, 40: 0.001}),
    ],
)
def test_default_schedules_are_the_published_ones_at_the_published_length(
    name, lr, published, command
):
    """Sees a drop that has moved from its published epoch."""
    default = inspect.signature(command(name).main).parameters["training"].default
    rate = parse_rate(default.lr_schedule, parse_optimizer(default.optim).lr, default.epoch_num)
    for epoch, value in published.items():
        assert rate(epoch) == pytest.approx(value), epoch


def test_a_schedule_keeps_what_its_spec_says():
    """Sees values of the run put in place of those that the user wrote."""
    assert parse_rate("name=jump,start_v=2,power=0.5,min_jump_pt=1,jump_freq=1", 0.1, 9)(1) == 1
    assert parse_rate("name=triangle,up_v=2,cycle_freq=4", 0.1, 9)(2) == 2
    assert parse_rate("name=drops,at=0.5,power=0.1,start_v=3", 0.1, 4)(1) == 3


def test_the_batch_clock_logs_the_values_of_the_epoch_it_ended():
    """Sees the next period's rate and budget logged for the last step of a period."""
    used = []
    ramp = parse_schedule("name=cycle_cos,eps_min=0,eps_max=0.1,ckpt_list=0:1:2", "--s")
    rate = parse_rate("name=cycle_linear,start_v=0.1,slope=-0.1,ckpt_list=0:1:2", 0.1, 2)
    options = AdversarialOptions(attack_threshold_schedule=ramp)
    method = Adversarial(make_conv_bn().float(), Setup(attack=PGD1), options)
    inner = method.loss

    def watched(batch, step):
        used.append((rate(step.time), method.attack_at(step).eps))
        return inner(batch, step)

    method.loss = watched
    lines = fit(method, make_images(24), make_images(4), epochs=2, batch_size=6, optimizer=SGD,
                clock="batch", lr_schedule=rate)  # fmt: skip
    for line, (lr, eps) in zip(lines, used[3::4], strict=True):
        assert (line["lr"], line["eps"]) == (lr, eps)
        assert line["lr"] == pytest.approx(0.025)


# metrics


def test_metrics_of_the_same_name_are_an_error():
    """Sees one number written over another of the same name."""
    assert joined({"a": 1}, {"b": 2}) == {"a": 1, "b": 2}
    with pytest.raises(ValueError, match="name a, b"):
        joined({"a": 1, "b": 2}, {"c": 1}, {"b": 1, "a": 2})
    method = Standard(make_mlp().float())
    method.metrics = lambda step: {"train_loss": 0.0}
    images = make_images(4)
    with pytest.raises(ValueError, match="name train_loss"):
        fit(method, images, images, epochs=1, batch_size=4, optimizer=SGD)


def test_apart_logs_its_step_ratios_and_its_memory():
    """Sees the ratio of the memory's step overwritten by the mean of the memory."""
    options = ApartOptions(max_lr_alpha=0.0, layerwise=False, cycle_momentum=False)
    setup = Setup(images=make_images(8), attack=PGD1)
    method = Apart(make_conv_bn().float(), setup, options)
    batch = next(make_images(8).batches(8))
    step = Step(0, 0.0, 0, 0)
    method.backward(method.loss(batch, step)[0])
    found = method.metrics(step)
    assert found["generator_step"] == found["generator_memory_scale"] == pytest.approx(1e-3)
    mean = found["generator_memory"]
    assert mean == pytest.approx(1e-3 * math.sqrt(2 / math.pi), rel=0.1)


def test_chance_is_the_logarithm_of_the_number_of_classes():
    """Sees "chance, ln 10" drawn for data of another number of classes."""
    images = make_images(8, classes=4)
    lines = fit(Standard(make_mlp().float()), images, images, epochs=1, batch_size=4, optimizer=SGD)
    for metrics, level in (({"a": lines}, math.log(4)),
                           ({"a": lines, "b": [{**lines[0], "classes": 7}]}, None),
                           ({"a": [{"epoch": 1, "train_loss": 1.0}]}, None)):  # fmt: skip
        axes = plt.subplots()[1]
        draw_training(metrics, axes)
        drawn = [x for x in axes.get_lines() if "chance" in str(x.get_label())]
        assert [x.get_ydata()[0] for x in drawn] == ([] if level is None else [level])
        plt.close(axes.figure)


# averages


def test_an_average_of_decay_zero_is_the_network():
    """Sees a decay of 0 taken for no decay."""
    network = make_conv_bn().float()
    options = AdversarialOptions(average="ema", average_decay=0.0)
    method = Adversarial(network, Setup(attack=PGD1), options)
    average = method.average
    fit(method, make_images(12), make_images(4), epochs=2, batch_size=6, optimizer=SGD)
    assert average.seen == 1 + 4
    copied = method.copies()["average"]
    assert all(torch.equal(v, copied[k]) for k, v in network.state_dict().items())


def test_the_plain_mean_of_networks_is_judged_with_its_own_batchnorm_statistics():
    """Sees SWA with the statistics of the networks it averages, or of a part of the images."""
    images, network = make_images(23), make_conv_bn()
    options = AdversarialOptions(average="swa")
    method = Adversarial(network, Setup(attack=PGD1, images=images), options)
    average = method.average
    seen, judged_at = [], []
    end = method.end_epoch

    def end_epoch(epoch):
        seen.append([p.detach().clone() for p in network.parameters()])
        return end(epoch)

    def spy(*args):
        judged_at.append({k: v.clone() for k, v in average.network.state_dict().items()})
        return {}

    method.end_epoch, method.evaluate = end_epoch, spy
    double = lambda batch: batch._replace(x=batch.x.double())  # noqa: E731
    inner = method.loss
    method.loss = lambda batch, step: inner(double(batch), step)
    fit(method, images, images, epochs=3, batch_size=10, optimizer=SGD)
    for epoch, state in enumerate(judged_at, start=1):
        twin = make_conv_bn()
        twin.load_state_dict(state)
        for p, *past in zip(twin.parameters(), *seen[:epoch], strict=True):
            torch.testing.assert_close(p, torch.stack(past).mean(0), rtol=1e-9, atol=1e-12)
        for norm in (twin.bn, twin.bn2):
            norm.momentum = 1.0  # one pass in train mode over all images is the definition
        twin.train()(images.pixels)
        count = len(images) * 36
        torch.testing.assert_close(state["bn.running_mean"], twin.bn.running_mean)
        biased = twin.bn.running_var * (count - 1) / count
        torch.testing.assert_close(state["bn.running_var"], biased)
        torch.testing.assert_close(state["bn2.running_mean"], twin.bn2.running_mean)
    with pytest.raises(InputError, match="needs the training images"):
        Adversarial(network, Setup(attack=PGD1), options)


def test_recalibration_changes_batchnorm_s_statistics_alone():
    """Sees a weight, a counter, a flag or the random state changed on the way."""
    network = make_conv_bn().train()
    network.add_module("dropout", nn.Dropout(0.5))
    before, drawn = {k: v.clone() for k, v in network.state_dict().items()}, torch.get_rng_state()
    recalibrate(network, make_images(9))
    changed = {k for k, v in network.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {f"{n}.{s}" for n in ("bn", "bn2") for s in ("running_mean", "running_var")}
    assert network.bn.training
    assert torch.equal(drawn, torch.get_rng_state())


# networks and data


def test_every_network_is_built_in_its_published_width():
    """Sees one default width for networks that were published in different ones."""
    count = lambda n: sum(p.numel() for p in n.parameters())  # noqa: E731
    mnist, cifar = (1, 28, 28), (3, 32, 32)
    widths = {("lenet", mnist): 16, ("lenet", cifar): 8, ("vgg", cifar): 8, ("resnet", cifar): 8,
              ("preact", mnist): 16, ("preact", cifar): 16, ("resnet9", mnist): 16,
              ("resnet9", cifar): 16, ("resnet20", cifar): 4,
              ("efficientnet_b0", cifar): 8}  # fmt: skip
    assert widths.keys() == MODELS.keys()
    for (name, shape), width in widths.items():
        assert published_width(name, shape) == width
    theirs = count(import_torchvision("models").efficientnet_b0(num_classes=10))
    assert count(build_model("efficientnet_b0", cifar)) == theirs
    assert count(build_model("resnet", cifar)) == 2_797_610
    assert count(build_model("resnet20", cifar)) == 272_474


def npz(path, count: int = 24) -> str:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 28, 28)).astype(np.uint8)
    labels = np.arange(count) % 3
    np.savez(path, train_images=pixels, train_labels=labels, test_images=pixels, test_labels=labels)
    return str(path)


def test_recipe_and_name_hold_the_published_width(tmp_path, command):
    """Sees a recipe or a file name with another width than the network's."""
    options, trainer = command("options"), command("training")
    fresh = options.Fresh(dataset=npz(tmp_path / "d.npz"), model_type="lenet")
    training, output = options.Training(epoch_num=1), options.Output()
    for widths, given, width in (({}, None, 16), ({"lenet": 2}, None, 2), ({"lenet": 2}, 3, 3)):
        chosen = options.Fresh(**{**vars(fresh), "width": given})
        found, model, network = trainer.start(chosen, training, output, widths)
        assert model["width"] == width
        assert network.conv1.out_channels == 2 * width
        assert trainer.place(model, output, found.images, "x")[1] == f"d_lenet_w{width}_x"


def test_the_subset_of_training_images_does_not_depend_on_the_seed(tmp_path, command):
    """Sees --subset_size draw other images for another seed, which its help calls fixed."""
    options, trainer = command("options"), command("training")
    path = npz(tmp_path / "d.npz")
    parts = [trainer.trainer_of(options.Training(subset_size=9, seed=s), path) for s in (0, 1)]
    assert torch.equal(parts[0].images.index, parts[1].images.index)


# what is refused


@pytest.mark.parametrize(
    "spec",
    [
        "name=sgd,lr=0.1,momentum=5", "name=sgd,lr=0.1,momentum=1", "name=sgd,lr=0.1,momentum=-0.1",
        "name=sgd,lr=0.1,dampening=2", "name=sgd,lr=nan", "name=sgd,lr=inf", "name=sgd,lr=",
        "name=sgd,lr=0.1,weight_decay=-1", "name=adam,lr=0.1,betas=0.9", "name=adam,lr=0.1,eps=0",
        "name=adam,lr=0.1,betas=0.9:1", "name=adam,lr=0.1,betas=0.9:0.9:0.9",
        "name=adam,lr=0.1,betas=0.9:x", "name=adam,lr=0.1,decoupled_weight_decay=0.3",
        "name=rmsprop,lr=0.1,alpha=1", "name=rmsprop,lr=0.1,alpha=-1", "name=adadelta,lr=1,rho=2",
        "name=adagrad,lr=0.1,lr_decay=-1", "name=adagrad,lr=1,initial_accumulator_value=-1",
        "name=sgd,lr=0.1,nesterov=1,momentum=0", "name=sgd,lr=0.1:0.2", "name=sgd,lr=0.1,foreach=1",
        "name=adam,lr=0.1,capturable=1", "",
    ],
)  # fmt: skip
def test_numbers_that_no_optimiser_can_use_are_refused(spec):
    """Sees options that torch accepts and that make training meaningless, or crash it."""
    with pytest.raises(InputError, match="--optim"):
        parse_optimizer(spec)


@pytest.mark.parametrize(
    "spec",
    [
        "", "name=drops", "name=drops,at=0.5", "name=drops,at=1.5,power=0.1",
        "name=drops,at=0.5,power=-1", "name=drops,at=0.5:,power=0.1", "name=constant,start_v=nan",
        "name=exp,start_v=1,power=1e300", "name=linear,slope=1e308,start_v=1e308",
        "name=jump,power=1e300,min_jump_pt=1,jump_freq=1", "name=linear,slope=-1,start_v=1",
        "name=jump,power=2,min_jump_pt=0,jump_freq=1e-320", "name=drops,at=0.5,power=0.1,epochs=x",
    ],
)  # fmt: skip
def test_schedules_that_are_no_learning_rate_are_refused(spec):
    """Sees an empty schedule taken for none, and rates that overflow with a traceback."""
    with pytest.raises(InputError, match="schedule"):
        parse_rate(spec, 0.1, 20)


def test_a_clipped_schedule_may_overflow():
    """Sees the clip applied too late to help."""
    rate = parse_rate("name=exp,start_v=1,power=1e300,max=2", 0.1, 20)
    assert rate(20) == 2
    check_not_negative(rate, 20, "--s")


TRAIN = "train_normal --out_folder runs"
REFUSED = {
    "empty schedule": (f"{TRAIN} --lr_schedule=", "--lr_schedule"),
    "empty attack": (f"{TRAIN} --attack name=pgd,threshold=0.1,iter_num=1,order=-1 --eval_attack=",
                    "--eval_attack"),
    "empty name": (f"{TRAIN} --model_name=", "--model_name"),
    "empty folder": ("train_normal --out_folder=", "--out_folder"),
    "momentum": (f"{TRAIN} --optim name=sgd,lr=1,momentum=5", "momentum must be"),
    "batch size": (f"{TRAIN} --batch_size 3e9", "--batch_size must be below 2^31"),
    "epochs": (f"{TRAIN} --epoch_num 3e9", "--epoch_num must be below 2^31"),
    "negative epochs": (f"{TRAIN} --epoch_num -1", "--epoch_num must not be negative"),
    "subset": (f"{TRAIN} --subset_size 3e9", "--subset_size must be below 2^31"),
    "fraction": (f"{TRAIN} --val_fraction -0.5", "fraction between 0 and 1"),
    "decay": (f"{TRAIN} --average ema --average_decay 2 --attack "
              "name=pgd,threshold=0.1,iter_num=1,order=-1", "--average_decay"),
    "cycled momentum": ("train_apart --out_folder runs --dataset mnist5k --optim "
                        "name=sgd,lr=0.1,momentum=0.05", "momentum=0.1 or more"),
    "rate of a cycle": ("train_fomo --out_folder runs --dataset mnist5k --epoch_num 200 "
                        "--fomo_lr hold:inf", "--fomo_lr"),
    "shrink": ("train_lure --out_folder runs --dataset mnist5k --shrink 3", "--shrink"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_training_options_that_cannot_be_meant_are_one_line(case, refuse):
    """Sees a meaningless value taken without a word, or answered with a traceback."""
    line, expected = REFUSED[case]
    name, *options = line.split()
    assert expected in refuse(name, *options)
