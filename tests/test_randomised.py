"""Networks that draw random numbers when they predict: expected gradients, seeds, what is said."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ridgeline.analysis.reports import report
from ridgeline.analysis.robustness import CloserLook, robustness
from ridgeline.landscape.problem import Problem
from ridgeline.models import InputError
from ridgeline.train.attacks import ATTACKS, FGSM, PGD, parse_attack
from ridgeline.train.attacks.library import APGD
from ridgeline.train.attacks.record import Trace
from ridgeline.train.data.noise import Noise
from tests.commands import call, tiny_set
from tests.conftest import make_images, make_mlp


class Dropping(nn.Module):
    """A linear network of two classes whose inputs are dropped at random, in eval mode too."""

    def __init__(self, inputs: int = 36):
        super().__init__()
        torch.manual_seed(3)
        self.linear = nn.Linear(inputs, 2)

    def forward(self, x):
        return self.linear(F.dropout(x.flatten(1), 0.5, training=True))


NETWORK = Dropping().double()
STEP = {"eps": 0.1, "order": 2, "iterations": 1, "step_size": 0.1, "random_start": False,
        "keep_best": False, "loss": "cw"}  # fmt: skip


def batch():
    return next(make_images(12, classes=2).batches(12, dtype=torch.float64))


def directions(eot: int):
    """The unit perturbations of one l_2 step on the margin, and weights away from the label."""
    x, y, index = batch()
    found = PGD(**STEP, eot=eot)(NETWORK, x, y, Noise(1, index))
    weight = NETWORK.linear.weight.detach()
    return ((found - x) / 0.1).flatten(1), weight[1 - y] - weight[y]


def test_the_gradient_is_the_mean_over_passes_drawn_from_the_batch_s_seed():
    """That of the margin is w times the mask of a pass, 0 or 2: means of masks times w."""
    eot = 7
    found, w = directions(eot)
    x, _, index = batch()
    torch.manual_seed(Noise(1, index).batch_seed())
    masks = [F.dropout(torch.ones_like(x.flatten(1)), 0.5) for _ in range(eot)]
    assert {float(v) for v in torch.stack(masks).unique()} == {0, 2}
    expected = F.normalize(torch.stack(masks).mean(0) * w)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_many_passes_approach_the_closed_form_of_the_expected_gradient():
    """E[mask] = 1, variance 1: the cosine with w is 1 - O(1 / 2N), about 1/sqrt(2) for N = 1."""
    cosines = {}
    for eot in (1, 16, 1024):
        found, w = directions(eot)
        cosines[eot] = F.cosine_similarity(found, w)
    assert (cosines[1] < 0.9).all()
    assert (cosines[16] > cosines[1]).all()
    assert (cosines[1024] > 0.999).all()
    assert (cosines[1024] < 1 - 1e-6).all()  # drawn, not known


def test_fgsm_and_apgd_average_too():
    x, y, index = batch()
    weight = NETWORK.linear.weight.detach()
    w = weight[1 - y] - weight[y]
    found = FGSM(eps=0.1, eot=400)(NETWORK, x, y, Noise(1, index))
    assert ((found - x).flatten(1).sign() == w.sign())[w.abs() > 0.05].double().mean() > 0.99
    once = FGSM(eps=0.1)(NETWORK, x, y, Noise(1, index))
    assert ((once - x).flatten(1) == 0).double().mean() > 0.4  # what was dropped has no gradient
    backward = []
    for eot in (1, 5):
        record = Trace()
        attack = APGD(eps=0.1, eot=eot, iterations=10, restarts=1)
        attack(NETWORK, x, y, Noise(1, index), record)
        backward.append(record.backward)
    assert backward[1] == 5 * backward[0]


def test_one_pass_is_what_it_always_was():
    for name in ("pgd", "fgsm", "apgd"):
        spec = f"name={name},eps=0.1" + ",iterations=2" * (name != "fgsm")
        assert "eot" not in repr(parse_attack(spec))
        assert parse_attack(spec + ",eot=1") == parse_attack(spec)
        assert repr(parse_attack(spec + ",eot=3")).endswith("eot=3)")
        assert parse_attack(spec + ",eot=3").chunk == 100
    assert PGD(eps=0.1, iterations=2).chunk is None
    assert {n for n, a in ATTACKS.items() if hasattr(a, "eot")} == {"pgd", "fgsm", "apgd"}


def test_seed_and_example_decide_the_draws_whatever_the_batch_size():
    images = make_images(30, classes=2)
    with pytest.raises(InputError, match=r"depend on chance.*randomised"):
        Problem(NETWORK, images)
    state = torch.get_rng_state()
    attack = "name=pgd,eps=0.1,iterations=3,eot=4"
    one, again, ragged, other = (
        robustness([Problem(NETWORK, images, attack, seed=s, batch_size=b, randomised=True)])
        for s, b in ((0, 100), (0, 100), (0, 7), (1, 100))
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert (one["losses"].values == again["losses"].values).all()
    assert (one["losses"].values == ragged["losses"].values).all()
    assert (one["losses"].values != other["losses"].values).any(axis=1).all()


def test_results_say_that_the_network_is_randomised_and_how_it_was_attacked():
    images, look = make_images(20, classes=2), CloserLook(randomised=True)

    def said(attack):
        ds = robustness([Problem(NETWORK, images, attack, seed=5, randomised=True)], closer=look)
        ds.attrs["kind"] = "robustness"
        return report(ds)

    assert said(None).endswith("every image is judged by one draw, seed 5")
    assert said("name=fgsm,eps=0.1,eot=6").endswith("means over 6 passes")
    assert "WARNING, the attack follows single draws" in said("name=fgsm,eps=0.1")


MODEL = """
from torch import nn
from torch.nn import functional as F
class Net(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.linear = nn.Linear(3072, num_classes)
    def forward(self, x):
        return self.linear(F.dropout(x.flatten(1), 0.5, training=True))
"""


def test_the_command_judges_a_randomised_network_only_when_told(tmp_path):
    tiny_set(tmp_path)
    (tmp_path / "drops.py").write_text(MODEL)
    torch.manual_seed(0)
    torch.save({"linear.weight": torch.randn(10, 3072), "linear.bias": torch.zeros(10)},
               tmp_path / "net.pt")  # fmt: skip
    line = ("test_ensemble --model2load net.pt --model_type drops.py:Net --dataset tiny.npz "
            "--attack name=pgd,eps=0.1,iterations=2,eot=3")  # fmt: skip
    refused = call(line, tmp_path)
    assert refused.returncode == 2 and "--randomised" in refused.stderr
    done = call(f"{line} --randomised True --out_file r.nc", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "means over 3 passes" in done.stdout
    for options, message in (
        ("--randomised True --also masking", "--also masking compares single predictions"),
        ("--randomised True --also transfer", "two or more"),
        ("--randomised True --attack name=square,eps=0.1", "only pgd, fgsm and apgd"),
        ("--attack name=pgd,eps=0.1,iterations=2,eot=0", "eot counts forward passes"),
        ("--attack name=pgd,eps=0.1,iterations=2,eot=2,loss_type=kl", "one clean prediction"),
        ("--attack name=fmn,eps=0.1,eot=2", "unknown key"),
    ):
        words = line.split(" --attack")[0] if "--attack" in options else line
        bad = call(f"{words} {options} --out_file bad.nc", tmp_path)
        assert bad.returncode == 2 and message in bad.stderr, (options, bad.stderr)
        assert len(bad.stderr.strip().splitlines()) == 1
        assert not (tmp_path / "bad.nc").exists()


def test_options_for_chance_are_refused_where_nothing_is_drawn(tmp_path):
    """Sees an attack of N equal passes, and a network said to draw numbers, pass in silence."""
    images, still, look = (
        make_images(20, classes=2),
        make_mlp(classes=2),
        CloserLook(randomised=True),
    )
    with pytest.raises(InputError, match="draws none; leave eot out"):
        Problem(still, images, "name=fgsm,eps=0.1,eot=2")
    alone, drawing = (Problem(n, images, randomised=True) for n in (still, NETWORK))
    with pytest.raises(InputError, match="give the same outputs"):
        robustness([alone], closer=look)
    robustness([alone, drawing], closer=look)  # one that draws is enough

    tiny_set(tmp_path)
    (tmp_path / "still.py").write_text(MODEL.replace("training=True", "training=self.training"))
    torch.save({"linear.weight": torch.randn(10, 3072), "linear.bias": torch.zeros(10)},
               tmp_path / "net.pt")  # fmt: skip
    line = "test_ensemble --model2load net.pt --model_type still.py:Net --dataset tiny.npz"
    for options, message in (
        ("--attack name=fgsm,eps=0.1,eot=2", "draws none; leave eot out"),
        ("--randomised True", "give the same outputs"),
    ):
        bad = call(f"{line} {options} --out_file bad.nc", tmp_path)
        assert bad.returncode == 2 and message in bad.stderr, (options, bad.stderr)
        assert len(bad.stderr.strip().splitlines()) == 1
        assert not (tmp_path / "bad.nc").exists()


def test_budgets_that_four_digits_do_not_tell_apart_have_names_of_their_own():
    """Sees two conditions of one name."""
    problem = Problem(make_mlp(), make_images(20, classes=2), "name=fgsm,eps=0.1")
    ds = robustness([problem], [0.1, 0.100001])
    assert ds["condition"].values.tolist() == ["clean", "eps=0.1", "eps=0.100001"]
