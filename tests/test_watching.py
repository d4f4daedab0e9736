"""What is looked at after epochs: gradients, the attack's certificate, constancy, and how often."""

from __future__ import annotations

import copy
import json
import logging
import math

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn
from torch.nn import functional as F

from ridgeline.analysis.figures import draw, draw_metrics
from ridgeline.analysis.training.metrics import best_epoch
from ridgeline.analysis.training.overfitting import recovery
from ridgeline.models import InputError
from ridgeline.train.attacks import FGSM, PGD
from ridgeline.train.attacks.single_step import NFGSM
from ridgeline.train.data.noise import Noise
from ridgeline.train.files.checkpoint import load_checkpoint
from ridgeline.train.files.run_files import RunFiles
from ridgeline.train.methods import Adversarial, Setup, Standard, Step
from ridgeline.train.watching import Watch, certificate, constant_class, gradient
from tests.conftest import Killed, make_conv_bn, make_images
from tests.methods import cases, content, train

pytestmark = pytest.mark.usefixtures("free_locks")
STEP = Step(1, 1.0, 4, 1)


class Linear(nn.Module):
    """Logits W x + b of the pixels, in float64."""

    def __init__(self, images, classes: int = 4):
        super().__init__()
        torch.manual_seed(0)
        self.classifier = nn.Linear(images.pixels[0].numel(), classes).double()

    def forward(self, x):
        return self.classifier(x.flatten(1))


@pytest.mark.parametrize("attack", [None, PGD(eps=0.1, iterations=2)])
def test_the_gradient_is_that_of_the_mean_loss_on_the_attacked_images(attack):
    """Sees a sum in place of a mean, a batch left out, statistics of the batch, a moved attack."""
    images, network = make_images(230), make_conv_bn()
    network.conv2.bias.requires_grad_(False)  # does not train, so it has no part
    found = gradient(network, images, attack, seed=3)
    network.eval()
    x, y = images.pixels.double(), images.labels
    if attack is not None:
        x = attack(network, x, y, Noise(3, images.index))
    weights = {n: p for n, p in network.named_parameters() if n != "conv2.bias"}
    wanted = torch.autograd.grad(F.cross_entropy(network(x), y), list(weights.values()))
    assert found.keys() == weights.keys()
    for got, want in zip(found.values(), wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)


def test_looking_changes_nothing():
    """Sees a statistic, gradient, flag or random number that a look moves: another training."""
    images = make_images(24)
    method = Adversarial(make_conv_bn().float(), Setup(images, PGD(eps=0.1, iterations=2)))
    network = method.network.train()
    for p in network.parameters():
        p.grad = torch.ones_like(p)
    network.conv.weight.requires_grad_(False)

    def everything():
        return copy.deepcopy(
            [*network.state_dict().values(), *(p.grad for p in network.parameters()),
             torch.tensor([m.training for m in network.modules()]), torch.get_rng_state(),
             torch.tensor([p.requires_grad for p in network.parameters()])]
        )  # fmt: skip

    before = everything()
    line = Watch(1, images, images).look(method, images, {"test": images}, STEP, 10)
    assert all(torch.equal(a, b) for a, b in zip(before, everything(), strict=True))
    assert {"gradient_norm_clean", "gradient_norm_target", "certificate_gap"} <= line.keys()
    squares = sum(g.square().sum() for g in gradient(network, images).values())
    assert line["gradient_norm_clean"] == pytest.approx(math.sqrt(squares), rel=1e-12)
    assert "conv.weight" not in line["gradient_magnitude"]


def test_an_optimal_attack_has_no_gap_and_an_idle_one_all_of_it():
    """A linear classifier of two classes: one FGSM step is the maximum, |w|_1 eps of the margin."""
    images, eps = make_images(40, classes=2), 0.02  # far from 0 and 1: no pixel is clipped
    network, x = Linear(images, 2), images.pixels.flatten(1)
    w, bias = network.classifier.weight.data, network.classifier.bias.data
    slope, sign = w[0] - w[1], 1 - 2 * images.labels
    bias[0] = bias[1] - (x @ slope).median()  # half of the images on either side
    clean = sign * (x @ slope + bias[0] - bias[1])
    margins = clean - eps * slope.abs().sum()
    best = certificate(network, FGSM(eps=eps), images, seed=0)
    for who in ("own", "strong"):
        loss = best[f"certificate_{who}_loss"]
        assert loss == pytest.approx(F.softplus(-margins).mean().item(), rel=1e-9)
        assert best[f"certificate_{who}_accuracy"] == (margins > 0).double().mean().item()
    assert best["certificate_gap"] == 0

    class Idle(FGSM):
        def perturb(self, predict, x, y, noise):
            return x

    idle = certificate(network, Idle(eps=eps), images, seed=0)
    only = (clean > 0) & (margins <= 0)
    assert idle["certificate_gap"] == only.double().mean().item() > 0
    with pytest.raises(InputError, match="ball of its eps, which NFGSM"):
        certificate(network, NFGSM(eps=eps), images, seed=0)  # it stands outside of it
    nothing = certificate(network, PGD(eps=0.0, iterations=2), images, seed=0)
    assert nothing["certificate_gap"] == 0
    assert nothing["certificate_own_loss"] == nothing["certificate_strong_loss"]


def test_a_constant_network_is_seen_said_once_and_noted(caplog):
    """Sees a run stuck at chance that nobody hears of, and a warning at every epoch."""
    images = make_images(24)
    network = Linear(images).float()
    assert constant_class(network, images) is None
    nn.init.zeros_(network.classifier.weight)
    network.classifier.bias.data = torch.tensor([0.0, 0, 1, 0])
    assert constant_class(network, images) == 2
    one = images.take((images.labels == 1).nonzero()[:, 0])
    assert constant_class(network, one) is None  # nothing else could be right there
    network.classifier.weight.requires_grad_(False)  # so that no step leaves chance
    with caplog.at_level(logging.WARNING):
        lines = train(Standard(network, Setup(images, epochs=3)), epochs=3, validation=None)
    assert [line["constant_classifier"] for line in lines] == [True] * 3
    assert caplog.text.count("the same class") == 1
    assert "epoch 1" in caplog.text
    assert "ln 4 = 1.3863" in caplog.text
    draw_metrics({"stuck": lines})


def test_only_some_epochs_are_evaluated_and_the_last_always():
    """Sees numbers that depend on how often one looks, and a last epoch without scores."""
    case = cases()["pas"]
    every, some = (train(case.build(epochs=5), epochs=5, watch=Watch(n)) for n in (1, 3))
    times = ("seconds", "eval_seconds")
    for n, (a, b) in enumerate(zip(every, some, strict=True)):
        if n in (2, 4):
            assert {k: v for k, v in a.items() if k not in times} == {
                k: v for k, v in b.items() if k not in times
            }
        else:
            assert not [k for k in b if k.startswith(("test_", "val_", "constant", "eval_"))]
            assert b["train_loss"] == a["train_loss"]


def test_the_best_network_is_one_that_was_evaluated(tmp_path):
    """Sees NAME_best.ckpt of an epoch without a score, and metrics nobody can choose from."""
    files = RunFiles(tmp_path, "run", {"a": 1})
    lines = train(cases()["pas"].build(epochs=5), files, epochs=5, watch=Watch(2))
    judged = {m["epoch"]: m["val_target_accuracy"] for m in lines if "val_target_accuracy" in m}
    assert list(judged) == [2, 4, 5]
    best = load_checkpoint(tmp_path / "run_best.ckpt").recipe["epoch"]
    assert best == next(e for e, v in judged.items() if v == max(judged.values()))
    chosen = best_epoch(tmp_path / "run.jsonl")
    assert chosen["val_clean_accuracy"] == max(m.get("val_clean_accuracy", 0) for m in lines)


def test_killed_between_evaluations_it_ends_the_same(tmp_path, monkeypatch):
    """Sees an evaluation that is done twice, left out, or forgotten after a kill."""
    watch = Watch(2, make_images(9, seed=4), make_images(9, seed=4))
    writes, fatal, write = 0, -1, RunFiles.save_state

    def mortal(self, state):
        nonlocal writes
        write(self, state)
        writes += 1
        if writes == fatal:
            raise Killed

    monkeypatch.setattr(RunFiles, "save_state", mortal)

    def begin(folder):
        files = RunFiles(tmp_path / folder, "run", {"a": 1})
        method = cases()["pas"].build(epochs=3)
        resume = files.holding(method, (2,), best=True).prepare(overwrite=False)
        train(method, files, resume, epochs=3, watch=watch)

    begin("straight")
    wanted, count = content(tmp_path / "straight"), writes
    for fatal in range(1, count + 1, 3):
        writes = 0
        with pytest.raises(Killed):
            begin(f"{fatal}")
        begin(f"{fatal}")
        assert content(tmp_path / f"{fatal}") == wanted


def test_epochs_that_were_not_judged_do_not_hide_a_recovery():
    """Sees NaN taken for what robust accuracy was before forgetting."""
    robust = [0.5, 0.6, None, 0.2, None, 0.6]
    phases = ["learn"] * 3 + ["relearn"] * 3
    lines = [{"epoch": n + 1, "phase": p, "cycle": int(p == "relearn"),
              **({} if r is None else {"test_target_accuracy": r})}
             for n, (r, p) in enumerate(zip(robust, phases, strict=True))]  # fmt: skip
    assert recovery(lines).tolist() == [3.0]


_SHORT = (
    "--dataset tiny.npz --width 1 --epoch_num 3 --subset_size 20 --batch_size 10 --eval_size 6 "
    "--model_type lenet --optim name=adam,lr=1e-3 --model_name run"
)


def test_a_command_watches_and_says_what_it_saw(tmp_path):
    """The whole way of the three options, and every drawing of what they leave."""
    from tests.commands import PGD as SPEC
    from tests.commands import call, tiny_set

    tiny_set(tmp_path)
    line = (f"train_normal {_SHORT} --attack {SPEC} --eval_freq 2 --gradient_size 8 "
            "--certify_size 7")  # fmt: skip
    done = call(line, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "attack certificate: accuracy" in done.stdout
    assert "is already trained" in call(line, tmp_path).stdout
    refused = call(line.replace("--eval_freq 2", "--eval_freq 3"), tmp_path)
    assert refused.returncode == 2
    assert "eval_freq" in refused.stderr
    leaving = f"{line.split(' --attack')[0]}2 --attack name=nfgsm,eps=0.1 --eval_attack {SPEC}"
    refused = call(f"{leaving} --certify_size 7", tmp_path)
    assert refused.returncode == 2 and "--certify_size compares the attack" in refused.stderr
    assert not (tmp_path / "runs/run2").exists()
    lines = [json.loads(t) for t in (tmp_path / "runs/run/run.jsonl").read_text().splitlines()]
    assert ["certificate_gap" in m for m in lines] == [False, True, True]
    for against in ("gradients", "magnitudes", "certificate", "tradeoff", "final", "cost"):
        assert draw_metrics({"a": lines, "b": lines}, against).axes
    with pytest.raises(InputError, match="--certify_size"):
        draw_metrics({"a": [{"epoch": 1, "train_loss": 1.0}]}, "certificate")


def test_networks_are_put_side_by_side():
    """Sees a box without the images nobody fooled, and a trade-off with the axes exchanged."""
    budgets = np.array([0.0, 0.1, 0.2, 0.4, np.inf])
    ds = xr.Dataset(
        {"smallest_budget": ("example", budgets), "accuracy": ("eps", [0.8, 0.3]),
         "accuracy_low": ("eps", [0.7, 0.2]), "accuracy_high": ("eps", [0.9, 0.4])},
        coords={"eps": [0.0, 0.1]}, attrs={"kind": "robustness"},
    )  # fmt: skip
    axes = draw({"a": ds, "b": ds}, against="smallest").axes[0]
    assert [t.get_text() for t in axes.texts] == ["median 0.2\nnone: 20 %"] * 2
    axes = draw({"a": ds}, against="clean").axes[0]
    assert axes.containers[0].lines[0].get_xydata().tolist() == [[0.8, 0.3]]
    with pytest.raises(InputError, match="name=fmn"):
        draw({"a": ds.drop_vars("smallest_budget")}, against="smallest")
    recipe = json.dumps({"attack": "FMN(eps=0.1, order=%s, iterations=2)", "seed": 0})
    inf, two = (ds.assign_attrs(recipe=recipe % order) for order in ("inf", "2.0"))
    assert "l_2 budget" in draw({"a": two}, against="smallest").axes[0].get_ylabel()
    with pytest.raises(InputError, match="several norms cannot be compared: a l_inf, b l_2"):
        draw({"a": inf, "b": two}, against="smallest")
    with pytest.raises(InputError, match="clean and a robust"):
        draw({"a": ds.isel(eps=[1])}, against="clean")


def test_apart_stands_beside_nfgsm_in_one_figure(tmp_path):
    """From their metrics alone, whatever command trained them; time is that of training only."""
    from tests.commands import PGD as SPEC
    from tests.commands import call, tiny_set

    tiny_set(tmp_path)
    short = _SHORT.replace("adam,lr=1e-3", "sgd,lr=0.1,momentum=0.9").replace(" run", "")
    noisy = f"--attack name=nfgsm,eps=0.1 --eval_attack {SPEC}"
    for line in (
        f"train_apart {short} apart --attack {SPEC}",
        f"train_normal {short} nfgsm {noisy}",
    ):
        done = call(f"{line} --eval_freq 2 --out_folder r", tmp_path)
        assert done.returncode == 0, done.stderr
    both = "r/apart.jsonl,r/nfgsm.jsonl"
    for against in ("cost", "final", "tradeoff"):
        done = call(f"plot --result {both} --against {against} --out_file {against}.png", tmp_path)
        assert done.returncode == 0, done.stderr
    assert call(f"analyze_overfitting --metrics {both}", tmp_path).returncode == 0
    lines = [json.loads(t) for t in (tmp_path / "r/apart.jsonl").read_text().splitlines()]
    figure = draw_metrics({"apart": lines, "again": lines}, "cost")
    spent = np.cumsum([m["seconds"] - m.get("eval_seconds", 0) for m in lines])
    np.testing.assert_allclose(figure.axes[0].lines[0].get_xdata(), spent[[1, 2]])


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (f"train_normal {_SHORT} --certify_size 5", "looks at the attack of training"),
        (f"train_normal {_SHORT} --eval_freq 0", "at least 1"),
        (f"train_normal {_SHORT} --gradient_size 21", "1..20"),
    ],
)
def test_what_cannot_be_watched_is_refused(line, says, tmp_path):
    from tests.commands import call, tiny_set

    tiny_set(tmp_path)
    done = call(line, tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert says in done.stderr
    assert not (tmp_path / "runs").exists()
