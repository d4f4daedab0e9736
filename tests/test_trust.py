"""Can a robust accuracy be trusted? Signs of masked gradients, convergence, transfer, ECE."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from ridgeline.analysis.attack_strength import convergence, stronger, transfer
from ridgeline.analysis.calibration import by_class, calibration, confidences
from ridgeline.analysis.figures import draw
from ridgeline.analysis.masking import SIGNS, _p, masking
from ridgeline.analysis.reports import report
from ridgeline.analysis.robustness import CloserLook, robustness
from ridgeline.analysis.statistics import wilson
from ridgeline.landscape.problem import Problem
from ridgeline.models import InputError
from ridgeline.train.attacks import PGD
from ridgeline.train.evaluation import Scores
from tests.commands import call, tiny_set
from tests.conftest import make_images, make_mlp

ATTACK = "name=pgd,eps=0.1,iterations=10"


class Wrapped(nn.Module):
    """A network behind a function of its inputs, or before one of its logits."""

    def __init__(self, network, before=lambda x: x, after=lambda z: z):
        super().__init__()
        self.network, self.before, self.after = network, before, after

    def forward(self, x):
        return self.after(self.network(self.before(x)))


def honest(count: int = 80):
    """A network of hidden units and images under its own predictions, all of them right."""
    network, images = make_mlp(seed=2).float(), make_images(count)
    return network, labelled_by(network, images)


def labelled_by(network, images):
    x = next(images.batches(len(images))).x
    with torch.no_grad():
        return replace(images, labels=network(x).argmax(1))


def warned(network, images, spec=ATTACK) -> set[str]:
    ds = masking(Problem(network, images, spec))
    return set(ds["sign"].values[ds["masking_warning"].values])


@pytest.mark.parametrize("spec", [ATTACK, "name=pgd,eps=0.5,iterations=10,order=2",
                                  "name=apgd,eps=0.1,iterations=10"])  # fmt: skip
def test_an_honest_network_shows_no_sign(spec):
    network, images = honest()
    assert warned(network, images, spec) == set()
    linear = nn.Sequential(nn.Flatten(), nn.Linear(36, 4))  # a single step is all there is to do
    assert warned(linear, labelled_by(linear, images), spec) == set()


def test_a_quantised_network_shows_four():
    """Rounding has no gradient: nothing moves along it, and PGD stays where it begins."""
    network, images = honest()
    coarse = Wrapped(network, before=lambda x: (8 * x).round() / 8)
    found = warned(coarse, labelled_by(coarse, images))
    assert {"black_box", "flat", "unbounded"} <= found


def test_a_saturated_network_shows_signs_although_its_margin_moves():
    """Logits of thousands: the cross-entropy has no gradient in float32, the margin has."""
    network, images = honest()
    loud = Wrapped(network, after=lambda z: 1e5 * z)
    found = warned(loud, images)
    assert {"black_box", "unbounded"} <= found
    assert "flat" not in found
    assert warned(loud, images, f"{ATTACK},loss_type=cw") == set()  # the remedy


def test_flat_hidden_units_are_a_sign():
    _, images = honest()
    steep = nn.Sequential(nn.Flatten(), nn.Linear(36, 40), nn.Hardtanh(), nn.Linear(40, 4))
    with torch.no_grad():
        steep[1].weight *= 1e4
    assert "flat" in warned(steep, labelled_by(steep, images))


class Band(nn.Module):
    """Wrong where the mean pixel is 0.54 to 0.58, most at 0.56; a step moves the mean by itself."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(2))

    def forward(self, x):
        wrong = 0.02 - (x.flatten(1).mean(1) - 0.56).abs()
        return torch.stack([-wrong, wrong], 1) + self.bias


@pytest.mark.parametrize(
    ("attack", "sign"),
    [
        # budgets 0.025, 0.05, 0.1, 0.2 end at means of 0.535, 0.56, 0.61, 0.71
        (PGD(eps=0.1, iterations=1, random_start=False, keep_best=False, step_size=0.1),
         "not_monotone"),
        # one step ends at 0.57, the second goes back to 0.51
        (PGD(eps=0.06, iterations=2, random_start=False, keep_best=False, step_size=0.06),
         "steps"),
    ],
)  # fmt: skip
def test_an_attack_that_overshoots_is_caught(attack, sign):
    images = make_images(30, classes=2)
    images = replace(images, pixels=torch.full_like(images.pixels, 0.51), labels=0 * images.labels)
    ds = masking(Problem(Band().double(), images, attack))
    assert float(ds["masking_value"].sel(sign=sign)) == pytest.approx(0.5**30)
    assert bool(ds["masking_warning"].sel(sign=sign))


def test_comparisons_are_exact_tests_of_the_examples_that_differ():
    right = np.ones(20, dtype=bool)
    assert _p(right, right) == 1  # nothing differs
    few = right.copy()
    few[:6] = False
    assert _p(few, right) == pytest.approx(0.5**6)  # six of six fall to the weaker alone
    assert _p(right, few) == 1
    other = right.copy()
    other[6] = False
    assert _p(few, other) == pytest.approx(8 / 2**7)  # six or seven of seven


def test_the_gap_of_convergence_is_what_the_union_of_stronger_attacks_takes():
    network, images = honest()
    weak = PGD(eps=0.05, iterations=1, step_size=0.001, random_start=False)
    ds = convergence(Problem(network, images, weak))
    right = []
    for name, attack in stronger(weak).items():
        scores = Problem(network, images, attack).evaluate()
        row = ds.sel(search=name)
        right.append(scores.correct.numpy())
        assert float(row["search_accuracy"]) == scores.accuracy
        hits = int(scores.correct.sum())
        assert (float(row["search_accuracy_low"]), float(row["search_accuracy_high"])) == wilson(
            hits, len(images)
        )
    gap = right[0].mean() - np.logical_and.reduce(right).mean()
    assert float(ds["convergence_gap"]) == pytest.approx(gap) and gap > 0.1
    more = stronger(weak)["steps_x4"]
    assert (more.iterations, more.step) == (4, 0.00025)
    full = PGD(eps=0.05, iterations=40)
    assert float(convergence(Problem(network, images, full))["convergence_gap"]) <= 2 / 80


def test_a_transfer_matrix_has_own_accuracies_on_its_diagonal():
    images = make_images(40)
    nets = [make_mlp(seed=s).float() for s in (1, 2)]
    problems = [Problem(n, images, ATTACK) for n in nets]
    ds = transfer(problems)
    for k in range(2):
        assert float(ds["transfer_accuracy"][k, k]) == problems[k].evaluate().accuracy
    found = torch.cat([x for _, x in problems[0].adversarial()])
    labels = images.labels
    crossed = (nets[1](found).argmax(1) == labels).double().mean().item()
    assert float(ds["transfer_accuracy"].sel(source=1, target=2)) == crossed
    twins = transfer([problems[0], Problem(nets[0], images, ATTACK, batch_size=7)])
    assert np.ptp(twins["transfer_accuracy"].values) == 0
    with pytest.raises(InputError, match="two or more"):
        transfer(problems[:1])


def scores_of(logits, y) -> Scores:
    losses = nn.functional.cross_entropy(logits, y, reduction="none")
    own = logits.gather(1, y[:, None])[:, 0]
    margins = own - logits.scatter(1, y[:, None], -torch.inf).amax(1)
    return Scores(losses, logits.argmax(1) == y, margins)


def test_confidences_are_the_largest_probabilities():
    logits = 3 * torch.randn(200, 5, generator=torch.Generator().manual_seed(0)).double()
    found = confidences(scores_of(logits, torch.arange(200) % 5))
    np.testing.assert_allclose(found, logits.softmax(1).amax(1), rtol=1e-12)


def test_the_calibration_error_of_known_shares():
    """Ten at 0.8 of which 6 are right, five at 0.6 of which all are: (10 * 0.2 + 5 * 0.4) / 15."""
    p = torch.tensor([0.8] * 10 + [0.6] * 5).double()
    logits = torch.stack([p.log(), (1 - p).log()], 1)
    y = torch.tensor([0] * 6 + [1] * 4 + [0] * 5)
    ds = calibration([scores_of(logits, y)])
    assert float(ds["ece"][0]) == pytest.approx((10 * 0.2 + 5 * 0.4) / 15, rel=1e-12)
    count = ds["bin_count"].values[0]
    assert count.sum() == 15 and sorted(count[count > 0]) == [5, 10]
    full = int(np.argmax(count))
    assert ds["bin_accuracy"].values[0, full] == pytest.approx(0.6)
    assert ds["bin_confidence"].values[0, full] == pytest.approx(0.8)
    assert np.isnan(ds["bin_accuracy"].values[0, 0])


def test_accuracies_by_class_add_up():
    logits = torch.eye(4)[torch.tensor([0, 0, 1, 2, 2, 2])].double() * 9
    y = torch.tensor([0, 1, 1, 2, 2, 0])
    ds = by_class([scores_of(logits, y)], y.numpy(), 4)
    np.testing.assert_array_equal(ds["class_accuracy"].values[0], [0.5, 0.5, 1, np.nan])
    assert ds["class_count"].values.tolist() == [2, 2, 2, 0]
    assert ds["class_accuracy_low"].values[0, 2] == wilson(2, 2)[0]
    total = np.nansum(ds["class_accuracy"].values[0] * ds["class_count"].values) / 6
    assert total == pytest.approx(4 / 6)


def test_robustness_holds_what_is_asked_for_and_says_it():
    network, images = honest(40)
    coarse = Wrapped(network, before=lambda x: (8 * x).round() / 8)
    problems = [Problem(n, images, ATTACK) for n in (coarse, make_mlp(seed=5).float())]
    words = ("masking", "convergence", "transfer", "calibration", "classes")
    ds = robustness(problems, closer=CloserLook(also=words))
    for name in ("masking_warning", "convergence_gap", "transfer_accuracy", "ece",
                 "class_accuracy"):  # fmt: skip
        assert name in ds
    ds.attrs["kind"] = "robustness"
    said = report(ds)
    assert "convergence gap" in said and "ECE" in said and "by class" in said
    alone = robustness(problems[:1], closer=CloserLook(also=("masking",)))
    alone.attrs["kind"] = "robustness"
    assert "WARNING, gradients may be masked: Square" in report(alone)
    assert set(alone["sign"].values) == set(SIGNS)
    plain = robustness([Problem(network, images, ATTACK)], closer=CloserLook(also=("masking",)))
    plain.attrs["kind"] = "robustness"
    assert "no sign of masked gradients among 5" in report(plain)


def test_the_figure_has_security_curve_and_reliability_where_there_are_any():
    network, images = honest(20)
    look = CloserLook(also=("calibration",))
    both = robustness([Problem(network, images, "name=fmn,eps=0.1,iterations=10")], closer=look)
    both.attrs["kind"] = "robustness"
    curve, diagram = draw(both).axes
    x, y = curve.lines[1].get_data()
    np.testing.assert_array_equal(x, both["radius"])
    np.testing.assert_array_equal(y, both["security"])
    lines = diagram.lines[1:]  # the first is the diagonal
    assert len(lines) == both.sizes["condition"]
    kept = both["bin_count"].values[0] > 0
    np.testing.assert_array_equal(lines[0].get_ydata(), both["bin_accuracy"].values[0, kept])
    plain = robustness([Problem(network, images, ATTACK)])
    plain.attrs["kind"] = "robustness"
    assert len(draw(plain).axes) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--also masking", "--also masking needs --attack"),
        ("--also masking --attack name=pgd,eps=0,iterations=1", "budget above 0"),
        ("--also transfer --attack name=pgd,eps=0.1,iterations=1", "two or more checkpoints"),
        ("--also mask", "did you mean 'masking'"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_is_written(options, message, tmp_path):
    tiny_set(tmp_path)
    (tmp_path / "runs").mkdir()
    done = call(f"test_ensemble --model2load runs/n.ckpt --out_file runs/r.nc {options}", tmp_path)
    assert done.returncode == 2
    assert message in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not any((tmp_path / "runs").iterdir())
