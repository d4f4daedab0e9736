"""A Trace changes no number and counts every pass; success, worst iterate and clean stay apart."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ridgeline.analysis.robustness import CloserLook, robustness
from ridgeline.landscape.problem import Problem
from ridgeline.models import InputError
from ridgeline.train.attacks import PGD, parse_attack
from ridgeline.train.attacks.norms import row_norm
from ridgeline.train.attacks.record import Trace, outcome
from tests.commands import call, tiny_set
from tests.conftest import make_images, make_mlp
from tests.test_attacks import SPECS, batch, linear


@pytest.mark.parametrize("name", [n for n in SPECS if n != "autoattack"])
def test_a_record_changes_no_number_and_counts_every_example_passed(name):
    network, (x, y, _) = linear(), batch()
    attack = parse_attack(SPECS[name].format(e=0.1, o=-1))
    counted = [0]

    def predict(z):
        counted[0] += len(z)
        return network(z)

    trace = Trace()
    found = attack(predict, x, y, 3, record=trace)
    assert torch.equal(found, attack(network, x, y, 3))
    assert trace.forward == counted[0]
    assert (trace.backward > 0) == (name != "square")
    assert trace.success.shape == (len(x),)


def test_the_course_of_pgd_to_the_letter():
    """Two restarts of 3 steps: 3 gradients and a last look each, with the losses on the way."""
    network, (x, y, _) = linear().double(), batch()
    x = x.double()
    attack = PGD(eps=0.1, iterations=3, step_size=0.05, restarts=2)
    seen = []

    def predict(z):
        seen.append(z.detach().clone())
        return network(z)

    trace = Trace()
    attack(predict, x, y, 1, record=trace)
    assert (trace.forward, trace.backward) == (8 * len(x), 6 * len(x))
    course = trace.course
    assert course.shape == (8, 4)
    assert course[:, 3].tolist() == [len(x)] * 8
    fooled = torch.zeros(len(x), dtype=torch.bool)
    for number, z in enumerate(seen):
        z = z.requires_grad_()
        losses = F.cross_entropy(network(z), y, reduction="sum")
        fooled |= network(z).argmax(1) != y
        assert course[number, 0] == pytest.approx(losses.item(), rel=1e-12)
        assert course[number, 1] == fooled.sum()
        if number in (3, 7):
            assert course[number, 2].isnan()
        else:
            (gradient,) = torch.autograd.grad(losses, z)
            assert course[number, 2] == pytest.approx(row_norm(gradient, 2).sum().item())
    assert torch.equal(trace.success, fooled)


class Pass(nn.Module):
    """Ten classes over one pixel at 0.5, 0.55, 0.6: parabolas through three logits each.

    At 0.55 class 1 wins narrowly, alone; at 0.6 class 0 does, among ten that are nearly equal: the
    cross-entropy of class 0 is largest there.
    """

    def forward(self, x):
        u = (x.flatten(1)[:, :1] - 0.55) / 0.05
        rival, rest = (
            b + (c - a) / 2 * u + (a + c - 2 * b) / 2 * u**2
            for a, b, c in ((-5, 0.1, -0.01), (-20, -20, -0.01))
        )
        return torch.cat([0 * u, rival, *[rest] * 8], 1)


def test_success_worst_iterate_and_clean_where_robust_are_three_things():
    network, x, y = Pass().double(), torch.full((1, 1, 1, 1), 0.5).double(), torch.tensor([0])
    attack = PGD(eps=0.1, iterations=2, step_size=0.05, random_start=False)
    found = outcome(attack, network, x, y)
    assert found.worst.item() == pytest.approx(0.6)
    assert found.adversarial.item() == pytest.approx(0.55)
    assert found.success.tolist() == [True]
    # the accuracy at the worst iterate calls it robust; its loss is the larger one all the same
    assert network(found.worst).argmax(1) == 0
    worst, fooled = (F.cross_entropy(network(z), y) for z in (found.worst, found.adversarial))
    assert worst > fooled

    robust = outcome(PGD(eps=0.01, iterations=3), network, x, y)
    assert robust.success.tolist() == [False]
    assert torch.equal(robust.adversarial, x)
    assert not torch.equal(robust.worst, x)


def test_what_is_wrong_from_the_start_counts_as_success_unperturbed():
    network, (x, _, _) = linear(), batch()
    wrong = (network(x).argmax(1) + 1) % 4
    for eps in (0.0, 0.05):
        found = outcome(PGD(eps=eps, iterations=2), network, x, wrong)
        assert found.success.all()
        assert torch.equal(found.adversarial, x)


def test_iterates_outside_the_ball_are_no_success():
    network, (x, _, _) = linear(), batch()
    y = network(x).argmax(1)
    trace = Trace()
    watched = trace.watch(network, x, y, 1e-4, float("inf"))
    watched(1 - x)
    assert (network(1 - x).argmax(1) != y).any()
    assert not trace.success.any()
    watched = trace.watch(network, x, y, 1.0, float("inf"))
    watched(1 - x)
    assert torch.equal(trace.success, network(1 - x).argmax(1) != y)


def test_traced_results_hold_the_same_scores_and_means_over_ragged_batches():
    network, data = make_mlp(), make_images(23)
    plain = robustness([Problem(network, data, "name=pgd,eps=0.1,iterations=4")], [0.0, 0.05, 0.1])
    for size in (23, 5):
        problem = Problem(network, data, "name=pgd,eps=0.1,iterations=4", batch_size=size)
        traced = robustness([problem], [0.0, 0.05, 0.1], closer=CloserLook(trace=True))
        assert (traced["correct"] == plain["correct"]).all()
        torch.testing.assert_close(
            torch.tensor(traced["losses"].values), torch.tensor(plain["losses"].values)
        )
        assert traced["forward_passes"].values[1:].tolist() == [0, 5, 5]
        assert traced["backward_passes"].values[1:].tolist() == [0, 4, 4]
        assert traced["call_loss"].shape == (4, 5)
        last = traced.isel(condition=3)
        assert float(last["call_fooled"][-1]) <= float(last["success"].mean())
        assert (last["success"] | last["correct"].astype(bool)).all()
    assert "call_loss" not in plain


def test_the_command_saves_a_trace_and_refuses_one_without_an_attack(tmp_path):
    tiny_set(tmp_path)
    train = ("train_normal --model_name n --out_folder runs --epoch_num 0 --subset_size 12 "
             "--dataset tiny.npz --model_type lenet --width 1")  # fmt: skip
    assert call(train, tmp_path).returncode == 0
    look = "test_ensemble --model2load runs/n.ckpt --subset_size 6 --out_file runs/r.nc"
    done = call(f"{look} --trace True", tmp_path)
    assert done.returncode == 2 and "--trace needs --attack" in done.stderr
    done = call(f"{look} --attack name=nfgsm,eps=0.1", tmp_path)
    assert done.returncode == 2 and "cannot judge" in done.stderr
    assert not (tmp_path / "runs" / "r.nc").exists()
    done = call(f"{look} --trace True --attack name=fmn,eps=0.1,iterations=8", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "18.0 passes forward and 8.0 back" in done.stdout
    assert "smallest budget that fools: median" in done.stdout


def test_an_attack_that_leaves_its_ball_gives_no_robust_accuracy():
    with pytest.raises(InputError, match="leaves the ball"):
        robustness([Problem(make_mlp(), make_images(4), "name=nfgsm,eps=0.1")])
