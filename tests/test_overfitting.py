"""Features, trajectories, overfitting tables and anytime learning against exact cases."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

from ridgeline.analysis.cka import cka, gram, hsic
from ridgeline.analysis.figures import draw
from ridgeline.analysis.figures.training import draw_weights
from ridgeline.analysis.reports import REPORTS
from ridgeline.analysis.training.overfitting import (
    best_and_last,
    networks_in,
    nrr,
    overfitting,
    recovery,
)
from ridgeline.analysis.training.trajectory import barrier, steepest, trajectory
from ridgeline.landscape.curvature.operators import Hessian, dense
from ridgeline.landscape.problem import Problem
from ridgeline.landscape.weights.point import add, norm, subtract
from ridgeline.models import InputError, build_model
from ridgeline.train.attacks import PGD
from ridgeline.train.evaluation import evaluate
from ridgeline.train.files.checkpoint import load_checkpoint
from ridgeline.train.parts.chunks import (
    Chunks,
    LureOptions,
    chunks,
    few,
    forget_between,
    join,
    replayed,
)
from tests.conftest import make_conv_bn, make_images, make_mlp

ATTACK = PGD(eps=0.1, iterations=3)


# CKA


def unbiased(k: np.ndarray, other: np.ndarray) -> float:
    """The definition as a sum over distinct indices (Song et al. 2012, U-statistic)."""
    n = len(k)
    one = two = three = 0.0
    everyone = range(n)
    for i in everyone:
        for j in everyone:
            if i == j:
                continue
            one += k[i, j] * other[i, j]
            for a in everyone:
                if a in (i, j):
                    continue
                two += k[i, j] * other[i, a]
                for b in everyone:
                    if b not in (i, j, a):
                        three += k[i, j] * other[a, b]
    pairs = n * (n - 1)
    return one / pairs - 2 * two / (pairs * (n - 2)) + three / (pairs * (n - 2) * (n - 3))


def test_hsic_is_the_u_statistic():
    torch.manual_seed(0)
    a, b = torch.randn(7, 3, dtype=torch.float64), torch.randn(7, 4, dtype=torch.float64)
    found = hsic(gram(a)[None], gram(b)[None]).item()
    assert found == pytest.approx(unbiased((a @ a.T).numpy(), (b @ b.T).numpy()))
    with pytest.raises(InputError, match="4 or more"):
        hsic(gram(a[:3])[None], gram(b[:3])[None])


def test_hsic_of_independent_features_is_zero_on_average():
    torch.manual_seed(0)
    values = [hsic(gram(torch.randn(8, 3))[None], gram(torch.randn(8, 3))[None]).item()
              for _ in range(400)]  # fmt: skip
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(len(values))


def test_cka_is_one_with_itself_and_ignores_rotation_and_scale():
    problem = Problem(make_mlp(), make_images(24))
    ds = cka(problem, problem, minibatch=8)
    np.testing.assert_allclose(ds["diagonal"], 1)
    assert ds.attrs["minibatches"] == 3
    turned = copy.deepcopy(problem.network)
    q = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64))[0]
    with torch.no_grad():
        turned[1].weight.copy_(3 * q @ turned[1].weight)
        turned[1].bias.copy_(3 * q @ turned[1].bias)
    found = cka(problem, Problem(turned, make_images(24)), minibatch=8)
    assert float(found["diagonal"][0]) == pytest.approx(1)
    assert float(found["diagonal"][1]) < 0.999


def test_cka_of_one_minibatch_says_why_it_has_no_error():
    problem = Problem(make_mlp(), make_images(24))
    for minibatch, end in ((24, "1 minibatch: no error, which needs several (a smaller --mini"),
                           (8, "3 minibatches")):  # fmt: skip
        lines = list(REPORTS["cka"](cka(problem, problem, minibatch=minibatch)))
        assert lines[-1].startswith(end) and "nan" not in " ".join(lines)
        assert ("+-" in lines[0]) == (minibatch == 8)


def test_cka_of_clean_and_adversarial_features():
    problem = Problem(make_conv_bn(), make_images(24), ATTACK)
    ds = cka(problem, minibatch=12)
    assert list(ds["layer"].values) == ["conv", "bn", "conv2", "bn2", "head"]
    assert (ds["diagonal"] < 1).all()
    still = cka(problem.under(PGD(eps=0.0, iterations=1)), minibatch=12)
    np.testing.assert_allclose(still["diagonal"], 1)
    np.testing.assert_allclose(still["cka"], still["cka"].values.T)
    xr.testing.assert_identical(
        ds, cka(Problem(make_conv_bn(), make_images(24), ATTACK, batch_size=5), minibatch=12)
    )
    with pytest.raises(InputError, match="need an attack"):
        cka(problem.under(None))
    with pytest.raises(InputError, match="no layer"):
        cka(Problem(nn.Sequential(nn.Flatten(), Bare()), make_images(8), ATTACK), minibatch=4)


class Bare(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(36, 4))

    def forward(self, x):
        return x @ self.w


# trajectories


def test_a_trajectory_holds_the_dense_hessian_s_numbers():
    images, problems = make_images(20), {}
    for epoch, seed in ((1, 0), (5, 1)):
        problems[epoch] = Problem(make_mlp(hidden=3, seed=seed), images, ATTACK)
    initial = problems[1].origin
    ds = trajectory(problems, initial, trace_products=40, directions=3)
    for epoch, problem in problems.items():
        row = ds.sel(epoch=epoch)
        frozen = problem.frozen()
        matrix = dense(Hessian(frozen)).double()
        values = torch.linalg.eigvalsh(matrix)
        assert float(row["lambda_max"]) == pytest.approx(values[-1].item(), rel=1e-4)
        assert abs(float(row["trace"]) - matrix.trace()) < 4 * float(row["trace_se"])
        score = evaluate(problem.predict(problem.origin), images, ATTACK, dtype=torch.float64)
        assert float(row["loss"]) == pytest.approx(score.loss)
        expected = norm(subtract(problem.origin, initial))
        assert float(row["distance"]) == pytest.approx(expected)
    assert float(ds["distance"][0]) == 0
    assert (ds["sharpness"] > 0).all()
    assert ds["flatness_se"].notnull().all()


def test_sharpness_is_the_rise_along_the_gradient_to_first_order():
    problem = Problem(make_mlp(hidden=3), make_images(20))
    gradient = Hessian(problem).gradient()
    moved = steepest(problem.origin, gradient, 1e-4)
    for name, w in problem.origin.items():
        length = (moved[name] - w).norm().item()
        assert length == pytest.approx(1e-4 * w.norm().item() if w.ndim > 1 else 0, rel=1e-9)
    rise = problem.evaluate(moved).loss - problem.evaluate().loss
    slope = sum(1e-4 * w.norm() * gradient[n].norm() for n, w in problem.origin.items()
                if w.ndim > 1)  # fmt: skip
    assert rise == pytest.approx(slope.item(), rel=0.01)


def test_the_barrier_of_a_convex_loss_is_zero_and_of_swapped_units_is_not():
    images = make_images(30)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(36, 4)).double()
    problem = Problem(linear, images)
    there = add(problem.origin, {n: torch.randn_like(t) for n, t in problem.origin.items()})
    assert barrier(problem, problem.origin, there)["barrier"] == pytest.approx(0, abs=1e-12)
    torch.manual_seed(0)
    network = make_mlp(hidden=6)
    optimizer = torch.optim.LBFGS(network.parameters(), max_iter=100)
    x, y = images.pixels, images.labels

    def closure():
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(x), y)
        loss.backward()
        return loss

    optimizer.step(closure)
    problem = Problem(network, images)
    order = torch.tensor([3, 4, 5, 0, 1, 2])
    o = problem.origin
    swapped = {"1.weight": o["1.weight"][order], "1.bias": o["1.bias"][order],
               "3.weight": o["3.weight"][:, order], "3.bias": o["3.bias"]}  # fmt: skip
    found = barrier(problem, o, swapped)
    assert found["barrier"] > 0.1
    assert 0 < found["barrier_at"] < 1
    with pytest.raises(InputError, match="3 or more"):
        barrier(problem, o, swapped, points=2)


# tables


def metrics(robust, *, val=None, clean=0.9, **more):
    lines = []
    for n, value in enumerate(robust):
        line = {"epoch": n + 1, "train_accuracy": 0.5, "test_target_accuracy": value,
                "test_clean_accuracy": clean}  # fmt: skip
        if val is not None:
            line["val_target_accuracy"] = val[n]
        lines.append(line | {k: v[n] for k, v in more.items()})
    return lines


def test_best_is_chosen_on_validation_and_gap_is_best_minus_last():
    found = best_and_last(metrics([0.1, 0.5, 0.6, 0.3], val=[0.1, 0.6, 0.5, 0.2]))
    assert (found["best_epoch"], found["best"], found["last"]) == (2, 0.5, 0.3)
    assert found["gap"] == pytest.approx(0.2)
    assert found["nrr_last"] == pytest.approx(nrr(0.9, 0.3)) == pytest.approx(2 * 0.27 / 1.2)
    assert not found["chosen_on_test"]
    alone = best_and_last(metrics([0.1, 0.5, 0.6, 0.3]))
    assert (alone["best"], alone["chosen_on_test"]) == (0.6, 1)
    with pytest.raises(InputError, match="no robust test accuracy"):
        best_and_last([{"epoch": 1, "test_clean_accuracy": 0.5}])


def test_seeds_and_networks_are_told_apart():
    stable = {"test_stable_target_accuracy": [0.2, 0.4], "test_stable_clean_accuracy": [0.5, 0.6]}
    runs = {"AT": [metrics([0.5, 0.3]), metrics([0.6, 0.5])],
            "FOMO": [metrics([0.5, 0.5], **stable)]}  # fmt: skip
    assert networks_in(runs["FOMO"][0]) == ["", "stable"]
    ds = overfitting(runs)
    assert list(ds["label"].values) == ["AT", "FOMO", "FOMO (stable)"]
    at = ds.sel(label="AT")
    assert float(at["gap"]) == pytest.approx(0.15)
    # the 95 % t interval of two values a, b is 12.7062 |a - b| / 2
    assert float(at["gap_ci"]) == pytest.approx(12.7062 * 0.1 / 2, rel=1e-4)
    assert np.isnan(ds.sel(label="FOMO")["gap_ci"])
    assert float(ds.sel(label="FOMO (stable)")["last"]) == 0.4


def test_recovery_counts_epochs_until_the_old_accuracy_is_back():
    phases = ["learn", "relearn", "relearn", "consolidate", "relearn", "relearn", "consolidate"]
    cycles = [0, 1, 1, 1, 2, 2, 2]
    lines = metrics([0.5, 0.2, 0.5, 0.6, 0.3, 0.4, 0.5])
    for line, phase, cycle in zip(lines, phases, cycles, strict=True):
        line |= {"phase": phase, "cycle": cycle}
    np.testing.assert_array_equal(recovery(lines), [2, np.nan])
    assert not len(recovery(metrics([0.5, 0.4])))


def test_figures_are_drawn():
    runs = {"AT": [metrics([0.5, 0.3]), metrics([0.6, 0.5])], "B": [metrics([0.5, 0.4])]}
    ds = overfitting(runs)
    ds.attrs["kind"] = "overfitting"
    figure = draw({"a": ds})
    labels = [t.get_text() for t in figure.legends[0].get_texts()]
    assert labels == ["AT", "B"]
    lines = [{"epoch": 1, "updated": {"conv.weight": 0.7, "bn.weight": 0.5}},
             {"epoch": 2, "updated": {"conv.weight": 0.6, "bn.weight": 0.4}}]  # fmt: skip
    figure = draw_weights({"run": lines}, "updated")
    np.testing.assert_allclose(figure.axes[0].images[0].get_array(), [[0.7, 0.6], [0.5, 0.4]])
    with pytest.raises(InputError, match=r"allowed: .*updated"):
        draw_weights({"run": lines}, "changed")
    with pytest.raises(InputError, match="nothing per tensor"):
        draw_weights({"run": metrics([0.5])}, "updated")


# anytime learning


def test_chunks_are_disjoint_and_replay_is_what_it_says():
    images = make_images(100)
    parts = chunks(images, 20, 4, seed=0)
    seen = torch.cat([p.index for p in parts]).tolist()
    assert len(set(seen)) == 80
    assert [p.sha256 for p in parts] == [p.sha256 for p in chunks(images, 20, 4, seed=0)]
    sizes = {r: len(replayed(parts[:3], r, 5, 0)) for r in ("full", "none", "one", "buffer")}
    assert sizes == {"full": 60, "none": 20, "one": 40, "buffer": 30}
    joined = join(parts[:2])
    for p in parts[:2]:
        places = torch.isin(joined.index, p.index)
        assert torch.equal(joined.pixels[places], p.pixels)
    with pytest.raises(InputError, match="do not fit"):
        chunks(images, 60, 2, 0)
    with pytest.raises(InputError, match="allowed: buffer, full, none, one"):
        replayed(parts, "some", 5, 0)


def test_few_shots_are_as_many_of_every_class():
    images = make_images(60)
    kept = few(images, 3, seed=0)
    counts = torch.bincount(kept.labels, minlength=images.num_classes)
    assert counts.tolist() == [3 * bool(n) for n in torch.bincount(images.labels)]
    assert torch.equal(kept.index, kept.index.sort().values)
    assert kept.sha256 == few(images, 3, seed=0).sha256 != few(images, 3, seed=1).sha256
    with pytest.raises(InputError, match=r"--shots 50: class \d+ of .* has only"):
        few(images, 50, seed=0)
    options = LureOptions(meta_batch_size=10, meta_batch_number=1, shots=3)
    found, _ = Chunks.of(images, options, 0).come(0)
    assert set(found.index.tolist()) <= set(few(images, 3, 0).index.tolist())


def test_the_buffer_replays_as_many_training_and_validation_examples_as_it_says():
    options = LureOptions(meta_batch_size=20, meta_batch_number=3, replay="buffer",
                          buffer_size_train=5, buffer_size_val=1)  # fmt: skip
    parts = Chunks.of(make_images(60), options, 0)
    assert [tuple(map(len, parts.come(n))) for n in range(3)] == [(18, 2), (23, 3), (28, 4)]
    with pytest.raises(InputError, match="--buffer_size_val has no effect without --replay buffer"):
        LureOptions(buffer_size_val=1)


def lenet(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build_model("resnet", (3, 32, 32), width=1)


@pytest.mark.parametrize("rule", ["snip", "llf", "fc", "shrink_perturb", "randinit", "none"])
def test_rules_of_forgetting_change_what_they_say(rule):
    images = make_images(12, (3, 32, 32), classes=10)
    network = lenet(3)
    before = copy.deepcopy(network.state_dict())
    count = forget_between(network, LureOptions(forget=rule), images=images, fresh=lenet, seed=0,
                           chunk=1)  # fmt: skip
    after = network.state_dict()
    changed = {n: int((after[n] != before[n]).sum()) for n in before}
    norms = {n for n in before if "bn" in n or "shortcut.1" in n}
    if rule == "randinit":
        assert all(torch.equal(v, lenet(0).state_dict()[n]) for n, v in after.items())
        return
    assert not any(changed[n] for n in norms)
    total = sum(v.numel() for n, v in before.items() if v.ndim > 1)
    assert sum(changed.values()) == count
    if rule == "snip":
        assert count == round(0.2 * total)
    elif rule == "fc":
        assert {n for n, c in changed.items() if c} == {"classifier.weight"}
    elif rule == "llf":
        assert all(n.startswith(("layer3", "layer4", "classifier"))
                   for n, c in changed.items() if c)  # fmt: skip
    elif rule == "shrink_perturb":
        assert count == total
        rest = after["layer1.0.conv1.weight"] - 0.3 * before["layer1.0.conv1.weight"]
        assert rest.std().item() == pytest.approx(0.001, rel=0.3)
    else:
        assert count == 0


def test_the_lure_command_resumes_chunk_by_chunk(run_command, tmp_path):
    line = ("--dataset", "mnist5k", "--model_type", "lenet", "--width", 1, "--epoch_num", 1,
            "--meta_batch_size", 40, "--meta_batch_number", 2, "--eval_size", 20, "--out_folder",
            "runs", "--model_name", "lure")  # fmt: skip
    done = run_command("train_lure", *line, check=True)
    assert "weights forgotten by snip" in done.stdout
    again = run_command("train_lure", *line, check=True)
    assert again.stdout.count("already trained") == 2
    assert again.stdout.splitlines()[-1] == done.stdout.splitlines()[-1]


@pytest.fixture
def run_files(run_command):
    """A short adversarial run with checkpoints of both epochs."""
    run_command("train_normal", "--width", 1, "--subset_size", 60, "--eval_size", 20,
                "--batch_size", 20, "--epoch_num", 2, "--epoch_ckpts", "1,2",
                "--val_fraction", 0.2, "--out_folder", "runs", "--model_name", "a", "--attack",
                "name=pgd,threshold=0.1,iter_num=2,order=-1", "--optim", "name=sgd,lr=0.05",
                check=True)  # fmt: skip
    return run_command


def test_the_commands_of_overfitting(run_files, tmp_path):
    attack = ("--attack", "name=pgd,threshold=0.1,iter_num=2,order=-1", "--subset_size", 20)
    out = run_files("calc_trajectory", "--trace_products", 4, "--directions", 2, "--model2load",
                    "runs/a_1.ckpt,runs/a_2.ckpt", "--initial", "runs/a_init.ckpt", "--best",
                    "runs/a_best.ckpt", "--metrics", "runs/a.jsonl", "--out_file", "t.nc", *attack,
                    check=True).stdout  # fmt: skip
    assert "barrier from best to last" in out
    ds = xr.load_dataset(tmp_path / "t.nc", engine="h5netcdf")
    lines = [json.loads(x) for x in (tmp_path / "runs/a.jsonl").read_text().splitlines()]
    assert ds["robust_test"].values.tolist() == [x["test_target_accuracy"] for x in lines]
    assert json.loads(ds.attrs["recipe"])["data"]["examples"] == 20
    run_files("calc_trajectory", "--trace_products", 2, "--model2load", "runs/a_2.ckpt",
              "--initial", "runs/a_init.ckpt", "--out_file", "u.nc", "--attack",
              "name=pgd,threshold=0.1,iter_num=2,order=-1", check=True)  # fmt: skip
    recipe = json.loads(xr.load_dataset(tmp_path / "u.nc", engine="h5netcdf").attrs["recipe"])
    trained = load_checkpoint(tmp_path / "runs/a.ckpt").recipe
    assert recipe["data"]["sha256"] == trained["data"]["sha256"]  # the very images, 48 of them
    out = run_files("analyze_overfitting", "--metrics", "runs/a.jsonl", "--label",
                    "AT", "--out_file", "o.nc", check=True).stdout  # fmt: skip
    assert "AT" in out
    out = run_files("calc_cka", "--model2load", "runs/a.ckpt", "--out_file", "c.nc", "--minibatch",
                    10, *attack, check=True).stdout  # fmt: skip
    assert "mean over layers" in out
    run_files("calc_cka", "--model2load", "runs/a.ckpt", "--second", "runs/a_init.ckpt",
              "--subset_size", 20, "--out_file", "d.nc", check=True)  # fmt: skip
    for name in ("t.nc", "o.nc", "c.nc", "d.nc"):
        run_files("plot", "--result", name, check=True)


@pytest.mark.parametrize(
    ("command", "line", "expected"),
    [
        ("calc_trajectory", ("--model2load", "no_1.ckpt", "--initial", "i.ckpt"), "no_1.ckpt"),
        ("calc_trajectory", ("--model2load", "a", "--initial", "i", "--radius", "0"), "positive"),
        ("calc_cka", ("--model2load", "a.ckpt"), "name --attack"),
        ("calc_cka", ("--model2load", "a", "--second", "b", "--minibatch", "3"), "at least 4"),
        ("analyze_overfitting", ("--metrics", "no.jsonl"), "no such metrics file"),
        ("analyze_overfitting", ("--metrics", "a.jsonl", "--label", "a,b"), "one label per file"),
        ("train_lure", ("--dataset", "mnist5k", "--model_type", "lenet"), "chunks of 6250"),
        ("train_lure", ("--snip_size", "20"), "above 0 and at most 1"),
        (
            "train_curve",
            ("--fix_points", "1,0,1", "--model2load", "a,,b", "--val_fraction", "0.1"),
            "--val_fraction and --val_set are for networks",
        ),
        ("train_lure", ("--forget", "some"), "allowed: fc, llf"),
        ("train_lure", ("--attack", "name=fgsm,threshold=0.1"), "clean data"),
    ],
)
def test_bad_input_is_one_line_and_nothing_on_disk(command, line, expected, refuse):
    assert expected in refuse(command, *line)
