"""R+FGSM, N-FGSM, and attacks towards a class: their definitions, to the letter."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ridgeline.models import InputError
from ridgeline.train.attacks import PGD, parse_attack
from ridgeline.train.attacks.norms import row_norm
from ridgeline.train.attacks.single_step import FGSM, NFGSM, RFGSM
from ridgeline.train.attacks.targets import TARGETS, target_of, towards
from ridgeline.train.data.noise import Noise
from ridgeline.train.losses import dlr, dlr_towards, margin
from tests.commands import ADAM, call, tiny_set


def linear(classes: int = 5, seed: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, classes)).double()


def batch(count: int = 12, classes: int = 5):
    generator = torch.Generator().manual_seed(0)
    x = 0.3 + 0.4 * torch.rand(count, 1, 6, 6, generator=generator, dtype=torch.float64)
    return x, torch.arange(count) % classes, Noise(1, torch.arange(count))


def gradient_at(network, x, y):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(network(x), y, reduction="sum"), x)[0]


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_rfgsm_is_a_random_step_and_fgsm_with_the_rest(share):
    network, (x, y, noise) = linear(), batch()
    eps = 0.08  # images lie in [0.3, 0.7]: the range never binds
    start = x + share * eps * noise.normal(x).sign()
    expected = start + (1 - share) * eps * gradient_at(network, start, y).sign()
    found = RFGSM(eps=eps, random_share=share)(network, x, y, noise)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-15)
    assert row_norm(found - x, torch.inf).max() <= eps + 1e-12
    if share == 0:
        torch.testing.assert_close(found, FGSM(eps=eps)(network, x, y, noise))


def test_rfgsm_in_l2_spends_the_whole_budget_at_most():
    network, (x, y, noise) = linear(), batch()
    found = RFGSM(eps=0.3, order=2)(network, x, y, noise)
    first = 0.15 * noise.normal(x) / row_norm(noise.normal(x), 2).view(-1, 1, 1, 1)
    gradient = gradient_at(network, x + first, y)
    second = 0.15 * gradient / row_norm(gradient, 2).view(-1, 1, 1, 1)
    torch.testing.assert_close(found, x + first + second, rtol=0, atol=1e-14)
    assert row_norm(found - x, 2).max() <= 0.3


@pytest.mark.parametrize("k", [0.0, 1.0, 2.0])
def test_nfgsm_clips_neither_noise_nor_step_to_the_ball(k):
    network, (x, y, noise) = linear(), batch()
    eps = 0.05
    start = x + k * eps * noise.uniform(x)
    expected = start + 1.25 * eps * gradient_at(network, start, y).sign()
    attack = NFGSM(eps=eps, k=k, step_size=1.25 * eps)
    found = attack(network, x, y, noise)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-15)
    norms = row_norm(found - x, torch.inf)
    assert norms.max() <= attack.reach + 1e-12
    assert attack.reach == pytest.approx((k + 1.25) * eps)
    assert norms.min() > eps  # and so it judges nothing at eps
    assert attack.at(2 * eps).step == pytest.approx(2.5 * eps)
    assert PGD(eps=eps, iterations=1).reach == eps


def test_nfgsm_stays_in_the_range():
    x = torch.tensor([0.0, 1.0]).repeat(18).view(1, 1, 6, 6).double()
    found = NFGSM(eps=0.3)(linear(), x, torch.tensor([1]), Noise(0, torch.arange(1)))
    assert found.min() >= 0 and found.max() <= 1
    assert not torch.equal(found, x)


def test_nfgsm_trains_but_is_not_taken_for_the_judge(tmp_path):
    tiny_set(tmp_path)
    line = (f"train_normal --model_name n --out_folder runs --epoch_num 1 --subset_size 12 "
            f"--batch_size 6 --eval_size 6 --dataset tiny.npz --model_type lenet --width 1 "
            f"--optim {ADAM} --attack name=nfgsm,eps=0.03")  # fmt: skip
    done = call(line, tmp_path)
    assert done.returncode == 2
    assert "--eval_attack" in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "runs").exists()
    done = call(f"{line} --eval_attack name=pgd,eps=0.03,iterations=2", tmp_path)
    assert done.returncode == 0, done.stderr


def test_targets_are_wrong_classes_by_rank_or_by_lot():
    def predict(x):
        return torch.tensor([[5.0, 1.0, 3.0, 2.0]]).expand(len(x), 4)

    x, y = torch.zeros(4, 1, 2, 2), torch.arange(4)
    noise = Noise(0, torch.arange(4))
    assert target_of("least", predict, x, y, noise).tolist() == [1, 3, 1, 1]
    assert target_of("next", predict, x, y, noise).tolist() == [2, 0, 0, 0]
    many, label = torch.zeros(3000, 1, 2, 2), torch.full((3000,), 2)
    drawn = target_of("random", predict, many, label, Noise(0, torch.arange(3000)))
    counts = drawn.bincount(minlength=4)
    assert counts[2] == 0
    # three classes alike likely: five standard deviations of a binomial
    assert (counts[[0, 1, 3]] - 1000).abs().max() <= 5 * (3000 * 2 / 9) ** 0.5
    some = target_of("random", predict, many[:7], label[:7], Noise(0, torch.arange(50, 57)))
    assert torch.equal(some, drawn[50:57])  # by example, not by batch


@pytest.mark.parametrize("order", [-1, 2])
@pytest.mark.parametrize("targeted", TARGETS)
def test_a_targeted_step_follows_the_row_of_its_class(targeted, order):
    """A step of `dlr`'s and `cw`'s numerator on a linear network: w_target - w_rival, exactly."""
    network, (x, y, noise) = linear(), batch()
    weight = network[1].weight.detach()
    target = target_of(targeted, network, x, y, noise)
    logits = network(x).detach()
    rival = logits.scatter(1, target[:, None], -torch.inf).argmax(1)
    w = weight[target] - weight[rival]
    unit = w.sign() if order == -1 else w / w.norm(dim=1, keepdim=True)
    attack = PGD(eps=0.03, order=order, iterations=1, step_size=0.03, random_start=False,
                 loss="cw", targeted=targeted, keep_best=False)  # fmt: skip
    found = attack(network, x, y, noise)
    torch.testing.assert_close(found, x + 0.03 * unit.view_as(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("loss", ["ce", "cw", "dlr"])
def test_targeted_attacks_reach_their_class(loss):
    network, (x, y, noise) = linear(), batch()
    spec = f"name=pgd,eps=0.25,iterations=40,loss_type={loss},targeted=least"
    found = parse_attack(spec)(network, x, y, noise)
    target = target_of("least", network, x, y, noise)
    logits = network(found)
    if loss == "dlr":  # it compares the class with the label alone
        pair = logits.gather(1, torch.stack([target, y], 1))
        assert (pair[:, 0] > pair[:, 1]).all()
    else:
        assert (logits.argmax(1) == target).all()
    assert not (network(x).argmax(1) == target).any()
    pull = towards(target, loss)
    assert (pull(network(found), y) > pull(network(x), y)).all()


def test_ratios_of_logits_are_those_of_the_paper():
    logits = torch.tensor([[4.0, 1.0, 3.0, -2.0], [1.0, 4.0, 3.0, -2.0]]).double()
    y, target = torch.tensor([0, 0]), torch.tensor([3, 2])
    # eq. 6: -(z_y - max other) / (z_1 - z_3); eq. 7: -(z_y - z_t) / (z_1 - (z_3 + z_4) / 2)
    torch.testing.assert_close(dlr(logits, y), torch.tensor([-1 / 3, 3 / 3]).double())
    expected = torch.tensor([-6 / 4.5, 2 / 4.5]).double()
    torch.testing.assert_close(dlr_towards(target)(logits, y), expected)
    torch.testing.assert_close(dlr(7 * logits + 3, y), dlr(logits, y))
    assert (dlr(logits, y).sign() == margin(logits, y).sign()).all()


def test_the_ratio_of_logits_is_the_librarys():
    from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted

    logits = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)).double()
    y, target = torch.arange(40) % 6, (torch.arange(40) + 2) % 6
    library = APGDAttack(None, eps=0.1)
    torch.testing.assert_close(dlr(logits, y), library.dlr_loss(logits, y))
    pulling = APGDAttack_targeted(None, eps=0.1)
    pulling.y_target = target
    torch.testing.assert_close(dlr_towards(target)(logits, y), pulling.dlr_loss_targeted(logits, y))


def test_recipes_name_the_target_only_where_there_is_one():
    attack = PGD(eps=0.1, iterations=3)
    assert "targeted" not in repr(attack)
    assert repr(PGD(eps=0.1, iterations=3, targeted="next")) == (
        repr(attack)[:-1] + ", targeted='next')"
    )


def test_trades_refuses_an_attack_towards_a_class():
    from ridgeline.train.attacks import away_from_clean

    for options in ({"targeted": "next"}, {"loss": "dlr"}):
        with pytest.raises(InputError, match=r"leave loss_type out .* and targeted"):
            away_from_clean(PGD(eps=0.1, iterations=3, **options))
