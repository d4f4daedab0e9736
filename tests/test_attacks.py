"""Attacks: the ball, the range, exact answers on linear networks, and leaving no trace."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ridgeline.landscape.problem import Problem
from ridgeline.models import InputError
from ridgeline.train.attacks import ATTACKS, FGSM, PGD, mixture, parse_attack
from ridgeline.train.attacks.norms import row_norm, steepest
from ridgeline.train.attacks.single_step import NFGSM
from ridgeline.train.data.noise import Noise
from ridgeline.train.evaluation import evaluate
from ridgeline.train.losses import divergence, dlr, margin
from ridgeline.train.undisturbed import undisturbed
from tests.conftest import make_conv_bn, make_images, make_mlp

SPECS = {
    "pgd": "name=pgd,threshold={e},iter_num=8,order={o},restarts=2",
    "fgsm": "name=fgsm,threshold={e},order={o}",
    "rfgsm": "name=rfgsm,threshold={e},order={o}",
    "dlr": "name=pgd,threshold={e},iter_num=8,order={o},loss_type=dlr",
    "kl": "name=kl,threshold={e},iter_num=8,order={o}",
    "cw": "name=pgd,threshold={e},iter_num=8,order={o},loss_type=cw",
    "apgd": "name=apgd,threshold={e},iter_num=8,order={o},rho=0.75,loss_type=ce,restarts=2",
    "apgd_t": "name=apgd_t,threshold={e},iter_num=8,order={o},targets=2",
    "fab": "name=fab,threshold={e},iter_num=8,order={o},restarts=2",
    "fab_t": "name=fab,threshold={e},iter_num=8,order={o},targets=2,restarts=1",
    "fmn": "name=fmn,threshold={e},iter_num=12,order={o}",
    "square": "name=square,threshold={e},iter_num=60,order={o},window_size_factor=0",
    "autoattack": "name=autoattack,threshold={e},order={o}",
}
FAST = [n for n in SPECS if n != "autoattack"]


def linear(classes: int = 4, inputs: int = 36, seed: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, classes))


def batch(count: int = 12, seed: int = 0):
    return next(make_images(count, seed=seed).batches(count))


def losses(predict, x, y):
    with torch.no_grad():
        return F.cross_entropy(predict(x), y, reduction="none")


def margin_lost(predict, x, y):
    with torch.no_grad():
        logits = predict(x)
    own = logits.gather(1, y[:, None])[:, 0]
    return logits.scatter(1, y[:, None], -torch.inf).amax(1) - own


def ratio_lost(predict, x, y):
    with torch.no_grad():
        return dlr(predict(x), y)


def test_every_registered_attack_is_tested():
    """NFGSM leaves the ball: `test_single_step.py` has its tests."""
    tested = {type(parse_attack(text.format(e=0.1, o=-1))) for text in SPECS.values()}
    assert tested | {NFGSM} == {*ATTACKS.values()}


@pytest.mark.parametrize("order", [-1, 2])
@pytest.mark.parametrize("name", FAST)
def test_ball_range_loss_and_determinism(name, order):
    network, (x, y, index) = linear(), batch()
    eps = 0.1 if order == -1 else 0.5
    attack = parse_attack(SPECS[name].format(e=eps, o=order))
    found = attack(network, x, y, Noise(1, index))
    assert row_norm(found - x, attack.order).max() <= eps + 1e-6
    assert found.min() >= 0
    assert found.max() <= 1
    away = lambda predict, z, _: divergence(predict(x), predict(z)).detach()  # noqa: E731
    # what the attack itself maximises
    margins = ("square", "cw", "apgd_t", "fab", "fab_t", "fmn")
    harm = {"dlr": ratio_lost, "kl": away, **dict.fromkeys(margins, margin_lost)}.get(name, losses)
    assert (harm(network, found, y) >= harm(network, x, y) - 1e-6).all()
    assert harm(network, found, y).mean() > harm(network, x, y).mean()
    assert torch.equal(found, attack(network, x, y, Noise(1, index)))


def test_autoattack_ball_range_and_loss():
    """Some examples fall, the others come back with their worst iterate, none clean."""
    network, (x, y, index) = linear(classes=5), batch()
    y = network(x).argmax(1)
    attack = parse_attack(SPECS["autoattack"].format(e=0.03, o=-1))
    found = attack(network, x, y, Noise(1, index))
    assert row_norm(found - x, math.inf).max() <= 0.03 + 1e-6
    assert found.min() >= 0 and found.max() <= 1
    fooled = network(found).argmax(1) != y
    assert 0 < fooled.sum() < len(y)
    assert (losses(network, found, y) > losses(network, x, y)).all()
    # APGD-CE alone is exact on a linear network up to its last step: AutoAttack fools no fewer
    apgd = parse_attack("name=apgd,threshold=0.03,order=-1")(network, x, y, Noise(1, index))
    assert fooled.sum() >= (network(apgd).argmax(1) != y).sum()


@pytest.mark.parametrize("name", SPECS)
def test_zero_budget_is_the_identity(name):
    x, y, _ = batch()
    attack = parse_attack(SPECS[name].format(e=0, o=-1))
    assert attack(linear(), x, y) is x


@pytest.mark.parametrize("order", [-1, 2])
def test_one_step_is_exact_on_a_linear_two_class_network(order):
    """Max over the ball of the logistic loss: softplus(-margin + eps ||w||_dual)."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 2)).double()
    x, y, _ = next(make_images(10, classes=2).batches(10, dtype=torch.float64))
    weight = network[1].weight.detach()
    w = weight[1] - weight[0]
    eps = 0.03  # images lie in [0.2, 0.8]: the range never binds
    margin = (2 * y - 1) * (network(x)[:, 1] - network(x)[:, 0]).detach()
    dual = w.abs().sum() if order == -1 else w.norm()
    expected = F.softplus(-margin + eps * dual)
    for attack in (
        FGSM(eps=eps, order=order),
        PGD(eps=eps, order=order, iterations=60, step_size=eps),
    ):
        found = attack(network, x, y, 0)
        torch.testing.assert_close(losses(network, found, y), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("order", [-1, 2])
def test_a_margin_step_is_exact_on_a_linear_network(order):
    """The gradient is the difference of two rows of weights: the rival's and the label's."""
    network = linear(classes=5).double()
    x, y, _ = next(make_images(12, classes=5).batches(12, dtype=torch.float64))
    eps, weight = 0.03, network[1].weight.detach()
    logits = network(x).detach()
    rival = logits.scatter(1, y[:, None], -torch.inf).argmax(1)
    w = weight[rival] - weight[y]
    unit = w.sign() if order == -1 else w / w.norm(dim=1, keepdim=True)
    dual = w.abs().sum(1) if order == -1 else w.norm(dim=1)
    attack = PGD(eps=eps, order=order, iterations=1, step_size=eps, random_start=False, loss="cw")
    found = attack(network, x, y, 0)
    torch.testing.assert_close(found, x + eps * unit.view_as(x), rtol=0, atol=1e-12)
    expected = logits.gather(1, rival[:, None])[:, 0] - logits.gather(1, y[:, None])[:, 0]
    pair = network(found).gather(1, torch.stack([rival, y], 1))
    torch.testing.assert_close(pair[:, 0] - pair[:, 1], expected + eps * dual)
    assert (margin(network(found), y) >= expected + eps * dual - 1e-12).all()


def test_the_margin_moves_confident_examples_whose_cross_entropy_is_flat():
    """At a margin of 200 the softmax is 1 in float32: no gradient of the cross-entropy is left."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
    network[1].weight.data = torch.tensor([[400.0, 0.0], [0.0, 0.0]])
    x, y = torch.full((1, 1, 1, 2), 0.5), torch.tensor([0])
    options = {"eps": 0.1, "iterations": 1, "step_size": 0.1, "random_start": False}
    assert torch.equal(PGD(**options)(network, x, y), x)
    found = PGD(**options, loss="cw")(network, x, y)
    torch.testing.assert_close(found, torch.tensor([[[[0.4, 0.5]]]]))


def test_the_margin_is_that_of_the_best_wrong_class():
    logits = torch.tensor([[3.0, 1.0, -2.0], [3.0, 1.0, -2.0], [3.0, 1.0, -2.0]])
    assert margin(logits, torch.tensor([0, 1, 2])).tolist() == [-2, 2, 5]


def test_recipes_of_attacks_on_the_cross_entropy_say_what_they_always_said():
    attack = PGD(eps=0.1, iterations=3)
    assert repr(attack) == (
        "PGD(eps=0.1, order=inf, iterations=3, step_size=None, restarts=1, random_start=True, "
        "keep_best=True)"
    )
    assert repr(PGD(eps=0.1, iterations=3, loss="cw")) == repr(attack)[:-1] + ", loss='cw')"


def test_pgd_starts_uniformly_in_the_whole_ball_not_in_one_step():
    x = torch.full((400, 1, 6, 6), 0.5)
    attack = PGD(eps=0.2, iterations=1, step_size=1e-9, keep_best=False)
    d = attack(linear(), x, torch.zeros(400, dtype=torch.long), Noise(0, torch.arange(400))) - x
    assert d.abs().max() == pytest.approx(0.2, abs=1e-3)
    assert d.abs().mean() == pytest.approx(0.1, abs=2e-3)
    attack = PGD(eps=0.2, order=2, iterations=1, step_size=1e-9, keep_best=False)
    d = attack(linear(), x, torch.zeros(400, dtype=torch.long), Noise(0, torch.arange(400))) - x
    radius = row_norm(d, 2) / 0.2
    assert radius.max() <= 1
    # uniform in a 36-dimensional ball: E[r] = 36/37
    assert radius.mean() == pytest.approx(36 / 37, abs=5e-3)


def test_best_iterate_and_restarts_never_lower_the_loss():
    network, (x, y, index) = make_mlp().float(), batch(23)
    options = {"eps": 0.3, "iterations": 5, "step_size": 0.4}  # a step that overshoots
    last = PGD(**options, keep_best=False)(network, x, y, Noise(0, index))
    best = PGD(**options)(network, x, y, Noise(0, index))
    more = PGD(**options, restarts=4)(network, x, y, Noise(0, index))
    a, b, c = (losses(network, z, y) for z in (last, best, more))
    assert (b >= a).all()
    assert (c >= b).all()
    assert (b > a).any()


def test_l2_step_follows_tiny_gradients():
    """The reference adds 1e-8 to every entry and steps along the all-ones direction instead."""
    g = torch.randn(5, 1, 6, 6) * 1e-25
    g[4] = 0
    unit = steepest(g, 2)
    cosines = F.cosine_similarity(unit.flatten(1).double(), g.flatten(1).double() * 1e25)
    torch.testing.assert_close(cosines[:4], torch.ones(4).double())
    assert unit[4].abs().max() == 0


def test_budget_change_keeps_the_ratio_of_step_and_budget():
    attack = parse_attack("name=pgd,step_size=2,threshold=8,iter_num=10,order=-1")
    assert attack.at(4 / 255).step == pytest.approx(1 / 255, rel=1e-12)
    assert attack.at(attack.eps) == attack
    assert attack.at(0.0).eps == 0
    with pytest.raises(InputError, match="threshold=0"):
        parse_attack("name=pgd,step_size=2,threshold=0,iter_num=10").at(0.1)


@pytest.mark.parametrize("name", FAST)
def test_batch_size_does_not_matter(name):
    images = make_images(23)
    network = make_mlp() if name in ("pgd", "fgsm") else linear()
    dtype = torch.float64 if name in ("pgd", "fgsm") else torch.float32
    attack = parse_attack(SPECS[name].format(e=0.1, o=-1))
    whole, ragged = (
        evaluate(network, images, attack, batch_size=size, dtype=dtype) for size in (23, 5)
    )
    torch.testing.assert_close(whole.losses, ragged.losses, rtol=1e-9, atol=1e-9)
    assert torch.equal(whole.correct, ragged.correct)


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("name", FAST)
def test_attacks_leave_no_trace(name, fails):
    network = make_conv_bn().float().train()
    network.bn2.eval()
    network.head.weight.requires_grad_(False)
    network.conv.weight.grad = torch.full_like(network.conv.weight, 3.0)
    x, y, index = batch()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    modes = [m.training for m in network.modules()]
    flags = [p.requires_grad for p in network.parameters()]
    rng = torch.get_rng_state()
    attack = parse_attack(SPECS[name].format(e=0.1, o=-1))

    def predict(z):
        if fails and len(z) == len(x):
            network.train()(z)  # misbehave, then break
            network.conv.weight.grad.zero_()
            torch.rand(1)
            raise RuntimeError("broken on purpose")
        return network(z)

    try:
        with undisturbed(network):
            attack(predict, x, y, Noise(0, index))
            assert not fails
    except RuntimeError as error:
        assert "on purpose" in str(error)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert [m.training for m in network.modules()] == modes
    assert [p.requires_grad for p in network.parameters()] == flags
    assert torch.equal(network.conv.weight.grad, torch.full_like(network.conv.weight, 3.0))
    assert network.conv.bias.grad is None
    assert torch.equal(torch.get_rng_state(), rng)


def test_evaluation_attacks_do_not_return_robust_examples_clean():
    network, (x, y, index) = linear(), batch()
    y = network(x).argmax(1)  # all right, and robust against so small a budget
    for name in ("apgd", "square"):
        attack = parse_attack(SPECS[name].format(e=1e-4, o=-1))
        found = attack(network, x, y, Noise(0, index))
        assert (network(found).argmax(1) == y).all()
        climbed = losses if name == "apgd" else margin_lost  # Square climbs the margin
        assert (climbed(network, found, y) > climbed(network, x, y)).all()


def test_ensembles_are_attacked_through_their_mixture():
    members = [linear(seed=s) for s in (1, 2, 3)]
    predict = mixture(members)
    x, y, index = batch()
    mean = torch.stack([m(x).softmax(1) for m in members]).mean(0)
    torch.testing.assert_close(predict(x), mean.log())
    for name in FAST:
        attack = parse_attack(SPECS[name].format(e=0.1, o=-1))
        found = attack(predict, x, y, Noise(0, index))
        if name == "kl":  # it moves away from the clean prediction, whatever the label
            assert (divergence(predict(x), predict(found)) > 0).all()
        else:
            harm = margin_lost if name == "cw" else losses
            assert harm(predict, found, y).mean() > harm(predict, x, y).mean()


def test_mixture_stays_finite_where_probabilities_underflow():
    members = [lambda x: torch.tensor([[400.0, 0.0, 0.0]]).expand(len(x), 3)] * 2
    x = torch.zeros(2, 1, 2, 2)
    loss = losses(mixture(members), x, torch.tensor([1, 1]))
    torch.testing.assert_close(loss, torch.tensor([400.0, 400.0]))


def test_pgd_is_as_strong_as_foolbox():
    foolbox = pytest.importorskip("foolbox")
    torch.manual_seed(1)
    network = make_mlp(seed=2).float().eval()
    x, _, index = batch(60)
    y = network(x).argmax(1)
    ours = PGD(eps=0.15, iterations=20, step_size=0.0375)(network, x, y, Noise(0, index))
    rival = foolbox.attacks.LinfPGD(steps=20, abs_stepsize=0.0375)
    model = foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu")
    _, theirs, _ = rival(model, x, y, epsilons=0.15)
    assert losses(network, ours, y).mean() >= losses(network, theirs, y).mean() - 1e-4


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("name=pdg,threshold=0.1,iter_num=3", "did you mean 'pgd'"),
        ("threshold=0.1", "unknown attack name"),
        ("name=pgd,threshold=0.1", "needs iterations"),
        ("name=pgd,threshold=0.1,iter_num=2.5", "whole number"),
        ("name=pgd,threshold=0.1,iter_num=0", "at least 1"),
        ("name=pgd,threshold=0.1,iter_num=3,order=1", "order"),
        ("name=pgd,threshold=0.1,iter_num=3,eps=0.2", "given twice"),
        ("name=pgd,eps=0.1,iterations=3,step=1", "allowed: .*eps"),
        ("name=pgd,threshold=-0.1,iter_num=3", "negative"),
        ("name=pgd,threshold=8,step_size=2/255,iter_num=3", "mixed units"),
        ("name=apgd,threshold=0.1,loss_type=mse", "loss_type"),
        ("name=pgd,threshold=0.1,iter_num=3,loss_type=mse", "allowed: ce, cw, dlr, kl"),
        ("name=pgd,threshold=0.1,iter_num=3,targeted=worst", "allowed: least, next, random"),
        ("name=pgd,threshold=0.1,iter_num=3,targeted=next,loss_type=kl", "ce, cw or dlr"),
        ("name=nfgsm,threshold=0.1,order=2", "l_inf"),
        ("name=nfgsm,threshold=0.1,k=-1", "k must not be negative"),
        ("name=nfgsm,threshold=0.1,step_size=0", "must be positive"),
        ("name=rfgsm,threshold=0.1,random_share=2", "random_share must lie in 0..1"),
        ("name=pgd,threshold=0.1,iter_num=3,loss_type=kl,random_start=0", "random_start=True"),
        ("name=kl,threshold=0.1,iter_num=3,loss_type=ce", "'loss_type' is given twice"),
        ("name=kl,threshold=0.1", "needs iterations"),
    ],
)
def test_malformed_attacks_are_refused(spec, message):
    with pytest.raises(InputError, match=message):
        parse_attack(spec)


@pytest.mark.parametrize(
    ("spec", "fewest"),
    [
        ("name=apgd,threshold=0.1,loss_type=dlr,iter_num=2", 3),
        ("name=pgd,threshold=0.1,iter_num=2,loss_type=dlr", 3),
        ("name=pgd,threshold=0.1,iter_num=2,loss_type=dlr,targeted=next", 4),
        ("name=apgd_t,threshold=0.1,iter_num=2", 4),
    ],
)
def test_attacks_refuse_networks_of_fewer_classes_than_they_look_at(spec, fewest):
    """One clear line, from a Problem before anything is computed, else from the search."""
    x, _, _ = batch()
    y, attack = torch.zeros(12, dtype=torch.long), parse_attack(spec)
    attack(linear(classes=fewest), x, y)
    for look in (
        lambda network: attack(network, x, y),
        lambda network: Problem(network, (x, y), attack=spec),
    ):
        with pytest.raises(InputError, match=f"at least {fewest} classes"):
            look(linear(classes=fewest - 1))
