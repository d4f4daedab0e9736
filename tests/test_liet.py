"""LIET against its closed forms on a linear network, and its draws."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ridgeline.train.attacks import PGD
from ridgeline.train.data.noise import Noise, Purpose
from ridgeline.train.methods import Liet, Setup, Step
from ridgeline.train.methods.liet import LietOptions, jensen_shannon, noisy_labels
from tests.conftest import make_images, make_mlp

EPS = 0.03
STEP = Step(0, 0.0, 0, 3)
#: no pixel is noise, labels are what they are
BARE = {"noise_low": 0.0, "noise_high": 0.0, "label_noise": 0.0}


def linear(classes: int = 2) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes)).double()


def liet(network, images, eps=EPS, epochs=4, **options) -> Liet:
    setup = Setup(images=images, attack=PGD(eps=eps, iterations=1), epochs=epochs)
    return Liet(network, setup, LietOptions(**options))


def images_of(count: int = 12, classes: int = 2, lowest: float = 0.2):
    """Images whose pixels are so far from 0 and 1 that nothing is clipped."""
    found = make_images(count, (1, 8, 8), classes=classes)
    pixels = lowest + (1 - 2 * lowest) * torch.rand(found.pixels.shape, dtype=torch.float64)
    return type(found)(pixels, found.labels, found.index, found.name, classes)


def batch_of(images):
    return next(images.batches(len(images), dtype=torch.float64))


@pytest.mark.parametrize("wide", [False, True])
def test_a_linear_network_of_two_classes_in_closed_form(wide):
    """The gradient by an image is (p_other)(w_other - w_own): the label's sign and the step's.

    From x + d the step goes to x + 2 d, or x + d within the ball; from x - d it goes back to x.
    """
    images, network = images_of(), linear()
    method = liet(network, images, wide=wide, consistency=8.0, **BARE)
    batch = batch_of(images)
    w, b = network[1].weight.detach(), network[1].bias.detach()
    d = EPS * torch.where(batch.y[:, None] == 0, w[1] - w[0], w[0] - w[1]).sign()
    noise = Noise(STEP.seed, batch.index, 0, Purpose.LIET)
    up = noise.uniform(batch.x.new_empty(len(batch.x), 2), 2)[:, 1:] >= 0
    assert 0 < up.sum() < len(up)
    x = batch.x.flatten(1)
    start = torch.where(up, x + d, x - d)
    end = torch.where(up, x + (2 if wide else 1) * d, x)
    first, last = start @ w.T + b, end @ w.T + b
    p, q = first.softmax(1), last.softmax(1)
    middle = (p + q) / 2
    divergence = ((p * (p / middle).log()).sum(1) + (q * (q / middle).log()).sum(1)) / 2
    wanted = F.cross_entropy(last, batch.y) + 8 / 4 * divergence.mean()
    loss, logits = method.loss(batch, STEP)
    torch.testing.assert_close(logits.detach(), last)
    torch.testing.assert_close(loss.detach(), wanted)


def test_the_gradient_of_the_divergence_goes_through_both_ends():
    """Against differences of the loss with both images held fixed."""
    images, network = images_of(), linear(3)
    images = type(images)(images.pixels, torch.arange(12) % 3, images.index, "three", 3)
    method, batch = liet(network, images, consistency=50.0), batch_of(images)
    attack_of = method.training_attack
    loss, _ = method.loss(batch, STEP)
    slope = torch.autograd.grad(loss, network[1].weight)[0]
    assert attack_of(STEP).inherent.abs().unique().tolist() == [EPS]
    direction = torch.randn(slope.shape, dtype=torch.float64)
    values = []
    for size in (1e-6, -1e-6):
        with torch.no_grad():
            network[1].weight.add_(size * direction)
        values.append(method.loss(batch, Step(0, 0.0, 1, 3))[0].item())
        with torch.no_grad():
            network[1].weight.sub_(size * direction)
    assert (values[0] - values[1]) / 2e-6 == pytest.approx((slope * direction).sum().item(), 1e-4)


@pytest.mark.parametrize(("wide", "size"), [(False, 1), (True, 2)])
def test_noise_takes_a_share_of_the_pixels_drawn_per_example(wide, size):
    images = images_of(400)
    method, batch = liet(linear(), images, wide=wide), batch_of(images)
    method.loss(batch, STEP)
    attack = method.training_attack(STEP)
    moved = attack.start(batch.x, batch.y, Noise(3, batch.index, 0, Purpose.LIET)) - batch.x
    noisy = (moved.abs() - EPS).abs() > 1e-9
    shares = noisy.flatten(1).double().mean(1)
    assert shares.mean().item() == pytest.approx(0.3, abs=0.02)
    # uniform in 0.1..0.5, plus the binomial variance of 64 pixels
    assert shares.std().item() == pytest.approx(math.sqrt(0.4**2 / 12 + 0.0033), abs=0.015)
    values = moved[noisy] / (size * EPS)
    assert values.abs().max() <= 1
    assert values.std().item() == pytest.approx(1 / math.sqrt(3), abs=0.02)
    signs = (moved * attack.inherent[batch.y]).sign().where(~noisy, 0.0).flatten(1).sum(1).sign()
    assert 0.4 < (signs > 0).double().mean() < 0.6


def test_labels_are_spread_over_the_other_classes():
    uniform = torch.rand(6, 5, dtype=torch.float64)
    y = torch.arange(6) % 5
    found = noisy_labels(y, uniform, 0.6)
    torch.testing.assert_close(found.sum(1), torch.ones(6).double())
    torch.testing.assert_close(found.gather(1, y[:, None]), torch.full((6, 1), 0.4).double())
    others = uniform.scatter(1, y[:, None], 0)
    torch.testing.assert_close(found.scatter(1, y[:, None], 0), 0.6 * others / others.sum(1, True))


def test_equal_logits_do_not_diverge_and_certain_ones_by_ln_2():
    a = torch.randn(4, 3, dtype=torch.float64)
    torch.testing.assert_close(jensen_shannon(a, a + 5), torch.zeros(4).double())
    far = jensen_shannon(torch.tensor([[1e4, 0.0]]), torch.tensor([[0.0, 1e4]]))
    assert far.item() == pytest.approx(math.log(2))


def test_parts_of_a_batch_give_what_the_whole_gives():
    """No draw may belong to a batch: neither the sign nor the share of noise nor the labels."""
    images = images_of(10)
    losses = []
    for sizes in ((10,), (3, 6, 1)):
        network = linear()
        method, batch = liet(network, images), batch_of(images)
        total = 0.0
        for places in torch.arange(10).split(sizes):
            part = images.batch(places, "cpu", torch.float64)
            loss, _ = method.loss(part, STEP)
            (loss * len(places) / 10).backward()
            total += loss.item() * len(places) / 10
        losses.append((total, network[1].weight.grad))
    assert losses[0][0] == pytest.approx(losses[1][0], rel=1e-12)
    torch.testing.assert_close(losses[0][1], losses[1][1])
    assert method.divisible
    assert len(batch.y) == 10


def test_perturbations_of_labels_are_taken_anew_every_so_many_steps_and_every_epoch():
    images, network = images_of(), make_mlp(64)
    method, batch = liet(network, images, inherent_every=2), batch_of(images)
    seen = []
    for epoch, number in ((0, 0), (0, 1), (0, 2), (1, 3), (1, 4), (1, 5)):
        with torch.no_grad():
            for p in network.parameters():
                p.neg_()
        method.loss(batch, Step(epoch, 0.0, number, 3))
        seen.append(method.training_attack(STEP).inherent)
    anew = [a is not b for a, b in pairwise(seen)]
    assert anew == [False, True, True, False, True]


@pytest.mark.parametrize(("eps", "wide"), [(8 / 255, False), (8.01 / 255, True)])
def test_strong_noise_begins_above_8_of_255(eps, wide):
    attack = liet(linear(), images_of(), eps=eps).training_attack(STEP)
    assert (attack.wide, attack.reach) == (wide, 3 * eps if wide else eps)


def test_the_average_begins_with_the_first_step():
    network = linear()
    method = liet(network, images_of(), average_decay=0.75)
    weight, kept = network[1].weight, []
    for value in (1.0, 2.0, 4.0):
        with torch.no_grad():
            weight.fill_(value)
        method.after_step(STEP)
        kept.append(method.average.network[1].weight[0, 0].item())
    assert kept == [1.0, 1.25, 1.9375]
