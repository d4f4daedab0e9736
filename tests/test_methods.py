"""What every training method must pass; a new line in METHODS is tested by itself."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ridgeline.models import InputError
from ridgeline.run.shared import options as o
from ridgeline.run.shared.launch import launch
from ridgeline.run.shared.training import train_method
from ridgeline.train.attacks import PGD
from ridgeline.train.files import run_files
from ridgeline.train.files.checkpoint import load_checkpoint
from ridgeline.train.files.run_files import DONE, RunFiles
from ridgeline.train.keeping import Diverged
from ridgeline.train.methods import METHODS, Method, Setup, Step
from ridgeline.train.methods.apart_options import ApartOptions
from ridgeline.train.methods.cure_options import CureOptions
from ridgeline.train.methods.fomo_options import FomoOptions
from ridgeline.train.methods.liet import LietOptions
from ridgeline.train.optimizers import parse_optimizer
from ridgeline.train.options import Opt, Options, described
from tests.conftest import Killed, make_images
from tests.methods import Case, cases, command_of, content, staged, train

pytestmark = pytest.mark.usefixtures("free_locks")
ADAM = parse_optimizer("name=adam,lr=0.01")


def finite(value) -> bool:
    """Whether all numbers of a line of metrics are finite."""
    if isinstance(value, dict):
        return all(map(finite, value.values()))
    return isinstance(value, str) or math.isfinite(value)


def two_steps_change_the_weights(case: Case, tmp_path, monkeypatch):
    """Sees a method that does not train, or whose metrics, first or last network is another."""
    method = case.build(epochs=case.epochs)
    before = copy.deepcopy(method.weights())
    files = RunFiles(tmp_path, "run", {"a": 1})
    metrics = train(method, files, validation=None)
    assert all(finite(line) for line in metrics)
    lines = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    assert lines == metrics
    initial, final = (load_checkpoint(tmp_path / n) for n in ("run_init.ckpt", "run.ckpt"))
    assert all(torch.equal(v, before[k]) for k, v in initial.tensors.items())
    assert initial.recipe == {"a": 1, "part": "init", "epoch": 0}
    weights = method.weights()
    assert all(torch.equal(v, weights[k]) for k, v in final.tensors.items())
    for name, p in method.network.named_parameters():
        assert p.isfinite().all(), name
    moved = [k for k, v in weights.items() if not torch.equal(v, before[k])]
    assert {"conv1.weight", "classifier.weight"} <= set(moved)
    assert staged(0).state_dict().keys() == final.tensors.keys()  # what diagnostics load


def killed_anywhere_it_resumes_to_the_same_files(case: Case, tmp_path, monkeypatch):
    """Sees a step, file or hook done twice or left out after a kill between any two writes.

    What a killed run leaves behind changes with its writes alone: a kill after each is all kills.
    What resumes it begins with another network, another random state, and reads all it needs.
    """
    writes, fatal = 0, -1

    def mortal(attribute):
        inner = getattr(RunFiles, attribute)

        def wrapped(*args, **kwargs):
            nonlocal writes
            inner(*args, **kwargs)
            writes += 1
            if writes == fatal:
                raise Killed

        monkeypatch.setattr(RunFiles, attribute, wrapped)

    for attribute in ("save", "save_state", "write_metrics"):
        mortal(attribute)

    def begin(folder, seed=0):
        cut_off = (tmp_path / folder / "run.state").exists()
        method = case.build(9 if cut_off else 0)
        files = RunFiles(tmp_path / folder, "run", {"a": 1}).holding(method, (2,), best=True)
        resume = files.prepare(overwrite=False)
        return None if resume == DONE else train(method, files, resume, optimizer=ADAM)

    begin("straight")
    wanted, count = content(tmp_path / "straight"), writes
    assert count > 12
    for fatal in range(1, count + 1, case.every):
        folder, writes = f"killed{fatal}", 0
        with pytest.raises(Killed):
            begin(folder)
        torch.rand(5)
        begin(folder)
        assert content(tmp_path / folder) == wanted, fatal


def it_writes_the_files_it_claims_and_no_other(case: Case, tmp_path, monkeypatch):
    """Sees a file that training writes over others because nobody asked for it beforehand."""
    method = case.build()
    kept = tuple(range(1, case.epochs + 1))
    files = RunFiles(tmp_path, "run", {"a": 1}).holding(method, kept, best=True)
    train(method, files, keep_epochs=kept)
    written = {p.name for p in tmp_path.iterdir() if p.suffix != ".lock"}
    wanted = {files.checkpoint(part).name for part in files.parts} | {"run.jsonl"}
    late = {n for n in wanted - written if any(f"_{c}_" in n for c in method.copy_names)}
    assert written == wanted - late  # a network that begins late has no early epochs
    assert set(method.copies()) == set(method.copy_names)


def its_evaluation_touches_nothing(case: Case, tmp_path, monkeypatch):
    """Sees scores that move a weight, a statistic, a gradient, a flag or the random state."""
    method = case.build()
    train(method, validation=None)
    step = Step(case.epochs - 1, float(case.epochs - 1), 2 * case.epochs - 1, 1)
    networks = [method.network, *(a.network for a in method.followers.values())]
    for network in networks:
        network.train()
    for p in method.network.parameters():
        p.grad = torch.ones_like(p)

    def everything():
        return copy.deepcopy((
            [n.state_dict() for n in networks], [m.training for n in networks for m in n.modules()],
            [p.grad for p in method.network.parameters()], method.state(), torch.get_rng_state(),
        ))  # fmt: skip

    before, images = everything(), make_images(7, seed=5)
    first = method.evaluate(images, step, 4)
    assert same(before, everything())
    again = method.evaluate(images, step, 3)
    assert first.keys() == again.keys()
    wanted = {"clean", "target"} | {
        f"{c}_{w}" for c in method.copies() for w in ("clean", "target")
    }
    assert wanted <= first.keys()
    for name, scores in first.items():
        torch.testing.assert_close(scores.losses, again[name].losses)


def same(a, b) -> bool:
    """Whether two nests of containers hold the same, tensors bit for bit."""
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def divergence_stops_it_and_keeps_finite_files(case: Case, tmp_path, monkeypatch):
    """Sees a method that trains on, or saves NaN, after its loss or weights left the numbers."""
    files = RunFiles(tmp_path, "run", {"a": 1})
    said = []
    for _ in range(2):
        method = case.build()
        resume = files.prepare(overwrite=False)
        with pytest.raises(Diverged, match=r"epoch 1, step \d of 2.*; .*run.state") as line:
            train(method, files, resume, optimizer=parse_optimizer("name=sgd,lr=1e30"),
                  lr_schedule=lambda time: 1e30)  # fmt: skip
        said.append(str(line.value))
    assert said[0] == said[1]
    for path in tmp_path.glob("*.ckpt"):
        assert all(t.isfinite().all() for t in load_checkpoint(path).tensors.values())
    state = run_files.read_state(files.path(".state"))
    assert all(t.isfinite().all() for t in state["network"].values())


def its_recipe_holds_what_was_chosen(case: Case, tmp_path, monkeypatch):
    """Sees defaults in recipes, which make old runs foreign as soon as an option is added."""
    kind = METHODS[case.method]
    assert kind.options_type().recipe() == {}
    recipe = case.build().recipe()
    json.dumps(recipe, default=repr)
    if type(case.build()) is kind:
        assert case.options.keys() <= recipe.keys()


CHECKS: tuple[Callable, ...] = (
    two_steps_change_the_weights,
    killed_anywhere_it_resumes_to_the_same_files,
    it_writes_the_files_it_claims_and_no_other,
    its_evaluation_touches_nothing,
    divergence_stops_it_and_keeps_finite_files,
    its_recipe_holds_what_was_chosen,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("case", cases().values(), ids=cases())
def test_every_method(check, case, tmp_path, monkeypatch):
    check(case, tmp_path, monkeypatch)


def wrong_values(about: Opt) -> list[str]:
    """Values that the limits of an option exclude, as the command line writes them."""
    found = ["nonsense"] if about.choices else []
    found += [f"{about.low - 1:g}"] if about.low is not None else []
    found += [f"{about.above:g}"] if about.above is not None else []
    return found + ([f"{about.high + 1:g}"] if about.high is not None else [])


def refusals(kind: type[Method], main, folder, monkeypatch, capsys) -> int:
    """Give a command every value that an option of its method excludes; how many there were."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.argv", ["train_it.py"])
    tried = 0
    for name, about in described(kind.options_type).items():
        for value in wrong_values(about):
            with pytest.raises(SystemExit) as stop:
                launch(main, [f"--{name}", value])
            said = capsys.readouterr()
            assert stop.value.code == 2
            assert said.err.count("\n") == 1
            assert f"--{name}" in said.err
            assert not said.out
            tried += 1
    assert not list(folder.iterdir())
    return tried


@pytest.mark.parametrize("name", METHODS)
def test_values_beyond_an_option_s_limits_are_refused(name, tmp_path, monkeypatch, capsys):
    """Sees an option of a method that no command has, or whose limits no command keeps."""
    main = command_of(METHODS[name])
    if METHODS[name].options_type is Options:
        return
    assert refusals(METHODS[name], main, tmp_path, monkeypatch, capsys) > 3


#: what the papers and their code say (specs of FOMO 3 and 4, CURE 4 and 5, APART 4, FFR 3)
PUBLISHED = {
    "fomo": {"fomo_warmup": 105, "fomo_relearn": 5, "fomo_consolidate_epochs": 1,
             "fomo_rate": 0.035, "fomo_scope": "later", "fomo_include_shortcut": False,
             "fomo_include_fc": True, "fomo_mask": "tensor", "fomo_init": "fresh",
             "fomo_consolidate": "iter_tail", "fomo_ema_decay": 0.999, "fomo_lambda": 1.0,
             "fomo_cr_on": "adv", "fomo_cr_loss": "kl", "fomo_reset_momentum": "masked",
             "fomo_lr": "piecewise", "attack_mode": "eval", "trades_beta": 6.0},
    "cure": {"percentile": 30.0, "alpha": 0.1, "trades_beta": 5.0, "gamma": 1.0,
             "rgp_scope": "layer", "ema_update_freq": 0.2, "ema_alpha": 0.999,
             "aux_loss_type": "kl", "cure_variant": "paper", "epochs_warmup": 0},
    "apart": {"max_lr_alpha": 5e-8, "weight_decay_alpha": 1200.0, "memory": True,
              "layerwise": True, "iter_num": 10, "cycle_epochs": None, "cycle_momentum": True},
    "frequency": {"basis_filter": "WD", "l2_lambda": 0.01, "reg_depth": 3.0, "l2_reg": True,
                  "reg_all_freq": False, "reg_diff": False, "reg_diff_all": False},
    "liet": {"label_noise": 0.6, "average_decay": 0.9995, "consistency": 100.0, "noise_low": 0.1,
             "noise_high": 0.5, "inherent_every": 20, "wide": None},
    "adversarial": {"objective": "at", "trades_beta": 6.0, "awp_gamma": 0.0, "average": None,
                    "average_decay": 0.999},
    "standard": {},
}  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_default_options_are_the_published_ones(name):
    """Sees a default that has moved from its paper, or a method nobody wrote one down for."""
    options = METHODS[name].options_type()
    assert {key: getattr(options, key) for key in PUBLISHED[name]} == PUBLISHED[name]
    built = Case(name, epochs=200).build()
    assert built.options == options
    assert type(built) is METHODS[name]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: FomoOptions(fomo_consolidate_epochs=0), "iter_tail needs"),
        (lambda: FomoOptions(fomo_lr="hold:fast"), "hold:RATE"),
        (lambda: ApartOptions(method="pgd", step="0.1"), "--step fixes the step of apart and fgsm"),
        (lambda: Case("adversarial").build(attack=None), "need --attack"),
        (lambda: Case("fomo").build(attack=None, epochs=200), "need --attack"),
        (lambda: Case("cure").build(attack=None), "need --attack"),
        (lambda: LietOptions(noise_low=0.6), "noise_low 0.6 is above --noise_high 0.5"),
        (lambda: Case("liet").build(attack=None), "need --attack"),
        (lambda: Case("liet").build(attack=PGD(eps=1, order=2, iterations=1)), "order=-1"),
        (lambda: Case("liet").build(images=None), "needs the training images"),
        (lambda: Case("apart").build(attack=None), "must not be None"),
        (lambda: Case("apart").build(optimizer=ADAM), "--optim with momentum"),
        (lambda: Case("fomo").build(fresh=None, epochs=200), "Setup.fresh"),
        (lambda: METHODS["cure"](staged(), Setup(), CureOptions("freeze")), "Cure.build"),
    ],
)
def test_what_does_not_belong_together_is_refused(wrong, said):
    with pytest.raises(InputError, match=said):
        wrong()


# a method of a reader's own: one file, one line in METHODS, a command of a few lines


@dataclass(frozen=True)
class SmoothOptions(Options):
    """How smooth the labels are."""

    smoothing: Annotated[float, Opt("share of the uniform label", low=0, high=1)] = 0.1
    kind: Annotated[str, Opt("kind of smoothing", choices=("uniform", "none"))] = "uniform"
    keep: Annotated[int, Opt("epochs before", low=0)] = 0


class Smooth(Method):
    """Cross-entropy against smoothed labels, with an average beside it."""

    options_type = SmoothOptions
    options: SmoothOptions

    def __init__(self, network, setup=None, options=None):
        super().__init__(network, setup, options)
        self.slow = self.follow("slow", 0.9)

    def start_epoch(self, epoch):
        if epoch == 0:
            self.slow.restart()
        return {}

    def after_step(self, step):
        self.slow.update()

    def loss(self, batch, step):
        logits = self.network(batch.x)
        smoothing = self.options.smoothing
        return F.cross_entropy(logits, batch.y, label_smoothing=smoothing), logits


def train_smooth(
    *, training: o.Training, fresh: o.Fresh, output: o.Output, smooth: SmoothOptions
) -> None:
    """Train against smoothed labels."""
    train_method(METHODS["smooth"], training, fresh, output, smooth)


@pytest.fixture
def smooth(monkeypatch):
    monkeypatch.setitem(METHODS, "smooth", Smooth)
    return Case("smooth", {"smoothing": 0.3})


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
def test_a_new_method_passes_the_shared_tests(check, smooth, tmp_path, monkeypatch):
    assert "smooth" in cases()
    check(smooth, tmp_path, monkeypatch)


def test_a_new_method_has_a_command_of_one_line(smooth, tmp_path, monkeypatch, capsys):
    assert refusals(Smooth, train_smooth, tmp_path, monkeypatch, capsys) == 4
    small = ["--width", "1", "--subset_size", "20", "--batch_size", "10", "--eval_size", "5"]
    where = ["--model_name", "s", "--out_folder", "runs", "--optim", "name=adam,lr=1e-3"]
    line = [*small, *where, "--epoch_num", "1", "--smoothing", "0.2"]
    launch(train_smooth, line)
    assert {p.name for p in (tmp_path / "runs").glob("*.ckpt")} == {
        "s.ckpt", "s_init.ckpt", "s_slow.ckpt",
    }  # fmt: skip
    recipe = load_checkpoint(tmp_path / "runs/s.ckpt").recipe
    assert (recipe["method"], recipe["options"]) == ("smooth", {"smoothing": 0.2})
    launch(train_smooth, line)
    assert "already trained" in capsys.readouterr().out
