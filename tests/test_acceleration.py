"""How steps are computed: parts of batches, precision, layout; what cannot be done is refused."""

from __future__ import annotations

import copy
import os
import signal
import threading

import pytest
import torch
from torch import nn

from ridgeline.models import InputError, build_model
from ridgeline.train import stopping
from ridgeline.train.acceleration import Acceleration
from ridgeline.train.attacks import PGD
from ridgeline.train.data.examples import Images
from ridgeline.train.files.run_files import RunFiles, read_state
from ridgeline.train.keeping import Diverged
from ridgeline.train.loop import fit
from ridgeline.train.methods import METHODS, Setup
from ridgeline.train.optimizers import parse_optimizer
from ridgeline.train.position import Guard, Position
from ridgeline.train.stopping import Stopped, stoppable
from ridgeline.train.undisturbed import undisturbed
from tests.conftest import make_conv_bn, make_images, make_mlp
from tests.fake_device import DEVICE, Accelerator

SGD = parse_optimizer("name=sgd,lr=0.05,momentum=0.9")
PGD2 = PGD(eps=0.1, iterations=2)


def trained(network: nn.Module, method: str = "adversarial", **options) -> dict:
    """Weights after two epochs of 23 images in batches of 8, from the same start."""
    method = METHODS[method](copy.deepcopy(network), Setup(attack=PGD2, epochs=2))
    double = next(network.parameters()).dtype == torch.float64  # scores are taken in float32
    test = None if double else make_images(5)
    fit(method, make_images(23), test, epochs=2, batch_size=8, optimizer=SGD, **options)
    return {n: t.detach().clone() for n, t in method.network.state_dict().items()}


def difference(a: dict, b: dict) -> float:
    return max((a[n].double() - b[n].double()).abs().max().item() for n in a)


@pytest.mark.parametrize("parts", [2, 3, 8, 100])
@pytest.mark.parametrize("method", ["adversarial", "standard"])
def test_gradients_of_parts_add_up_to_those_of_the_batch(parts, method):
    """float64, no BatchNorm: any split gives the step of the whole batch, its metrics too."""
    network = make_mlp()
    whole = trained(network, method)
    split = trained(network, method, acceleration=Acceleration(accumulate=parts))
    assert 0 <= difference(whole, split) < 1e-12
    assert difference(whole, network.state_dict()) > 1e-3


def test_parts_cover_a_batch_once_in_its_order():
    places = torch.tensor([5, 1, 4, 2, 9])
    for count in (1, 2, 3, 5, 7):
        parts = Acceleration(accumulate=count).parts(places)
        assert torch.equal(torch.cat(parts), places)
        assert len(parts) == min(count, 5)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_channels_last_changes_rounding_only():
    network = make_conv_bn()
    plain = trained(network)
    last = trained(network, acceleration=Acceleration(channels_last=True))
    assert difference(plain, last) < 1e-10


def test_bfloat16_rounds_steps_and_leaves_scores_in_full_precision():
    """Sees autocast in the evaluation, and a weight whose cast of an earlier step is kept."""
    network = make_conv_bn().float()
    seen = []

    def note(module, inputs, out):
        seen.append((torch.is_autocast_enabled("cpu"), module.training, out.dtype))

    network.head.register_forward_hook(note)
    found = trained(network, acceleration=Acceleration(precision="bf16"))
    scored = {(on, dtype) for on, _, dtype in seen if not on}
    assert scored == {(False, torch.float32)}
    assert {dtype for on, _, dtype in seen if on} == {torch.bfloat16}
    assert all(t.dtype == torch.float32 for n, t in found.items() if t.is_floating_point())
    assert 1e-6 < difference(trained(network), found) < 0.5


def test_the_defaults_are_not_in_recipes_and_others_are():
    assert Acceleration().recipe() == {}
    chosen = Acceleration(precision="bf16", accumulate=2)
    assert chosen.recipe() == {"precision": "bf16", "accumulate": 2}


def test_what_a_device_or_a_method_cannot_do_is_refused():
    with pytest.raises(InputError, match="tf32 is for CUDA devices; use float32 or bf16 here"):
        Acceleration(precision="tf32").check_device(torch.device("cpu"))
    with pytest.raises(InputError, match="unknown --precision 'fp16'"):
        Acceleration(precision="fp16")
    with pytest.raises(InputError, match="--accumulate must be at least 1, got 0"):
        Acceleration(accumulate=0)
    images = make_images(8)
    setup = Setup(images, PGD2, epochs=2)
    kind = METHODS["adversarial"]
    perturbed = kind(make_conv_bn(), setup, kind.options_type(awp_gamma=0.01))
    with pytest.raises(InputError, match="--accumulate 2: adversarial does more"):
        Acceleration(accumulate=2).check_method(perturbed)
    Acceleration(accumulate=2).check_method(kind(make_conv_bn(), setup))
    residual = build_model("wrn16", (1, 6, 6), width=1, num_classes=4)
    kind = METHODS["apart"]
    apart = kind(residual, setup, kind.options_type(cycle_momentum=False))
    for chosen, said in ((Acceleration(accumulate=2), "accumulate"),
                         (Acceleration(compile=True), "compile")):  # fmt: skip
        with pytest.raises(InputError, match=f"--{said}"):
            chosen.check_method(apart)


def test_commands_refuse_before_anything_is_written(tmp_path, run_command):
    for options, said in (
        (("--precision", "tf32"), "--precision tf32 is for CUDA devices"),
        (("--save_minutes", 0), "--save_minutes must be positive"),
        (("--accumulate", 2, "--awp_gamma", 0.1, "--attack", "name=fgsm,eps=0.1"), "--accumulate"),
    ):
        done = run_command("train_normal", "--epoch_num", 1, "--subset_size", 20, "--width", 1,
                           "--out_folder", "runs", *options)  # fmt: skip
        assert (done.returncode, said in done.stderr) == (2, True), done.stderr
        assert done.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_determinism_is_in_force_inside_and_gone_after():
    before = torch.are_deterministic_algorithms_enabled()
    with Acceleration(deterministic=True).kernels(torch.device("cpu")):
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.backends.cudnn.benchmark
    assert torch.are_deterministic_algorithms_enabled() == before
    with (
        pytest.raises(InputError, match=r"--deterministic: .*leave it out"),
        Acceleration(deterministic=True).kernels(torch.device("cpu")),
    ):
        raise RuntimeError("x does not have a deterministic implementation")


class OneStep(nn.Module):
    """Weights that are NaN from a given training pass on."""

    def __init__(self, at: int):
        super().__init__()
        self.layer, self.at, self.passes = nn.Linear(36, 4), at, 0

    def forward(self, x):
        self.passes += self.training
        bad = float("nan") if self.training and self.passes >= self.at else 1.0
        return self.layer(x.flatten(1)) * bad


@pytest.mark.parametrize("every", [1, 2, 50])
def test_divergence_names_its_step_however_seldom_the_device_is_asked(every, tmp_path, monkeypatch):
    """Sees a step of NaN in a saved state, and the name of the step at which one looked."""
    monkeypatch.setattr(Guard, "pace", lambda self, _: vars(self).update(every=every, _passed=0))
    images = make_images(24)
    files = RunFiles(tmp_path, "a", {"x": 1})
    with pytest.raises(Diverged, match=r"epoch 1, step 3 of 6, with loss nan .* last finite"):
        fit(METHODS["standard"](OneStep(3).double()), images, None, epochs=2, batch_size=4,
            optimizer=SGD, files=files, state_seconds=0)  # fmt: skip
    state = read_state(tmp_path / "a.state")
    assert all(t.isfinite().all() for t in state["network"].values())
    assert state["position"]["done"] <= 8


def test_the_guard_keeps_the_first_failure_and_its_loss():
    weight = torch.zeros(2)
    guard = Guard([weight], torch.device("cpu"))
    for number, (loss, entry) in enumerate([(1, 0), (2, torch.inf), (torch.nan, 0), (3, 0)]):
        weight[0] = entry
        guard.note(torch.tensor(float(loss)), number)
    assert guard.failure() == (1, 2.0)


def test_slow_steps_of_an_accelerator_are_asked_about_one_by_one(monkeypatch):
    """Sees a run of slow steps end without a state, as it asks too seldom whether to stop."""
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    guard, asked = Guard([], torch.device("meta")), []

    def steps(seconds: float, count: int, other: bool = False) -> list[int]:
        due = []
        for number in range(count):
            clock[0] += seconds
            if guard.due():
                due.append(number)
                guard.pace(lambda slow: asked.append(slow) or slow or other)
        return due

    assert steps(0.01, 101) == [0, 50, 100]
    assert steps(2.0, 53) == [49, 50, 51, 52]  # seen at the next look
    assert steps(0.01, 52) == [0, 50]
    assert steps(0.01, 52, other=True) == [48, 49, 50, 51]  # another process is slow
    assert set(asked) == {True, False}
    host = Guard([], torch.device("cpu"))
    for _ in range(3):
        clock[0] += 0.001
        assert host.due()
        host.pace(lambda slow: slow)


def test_sums_on_the_device_are_those_of_pythons_floats():
    position, loss_sum = Position(), 0.0
    for number in range(100):
        loss = torch.rand((), generator=torch.Generator().manual_seed(number))
        position.add(loss, torch.tensor(3), 7)
        loss_sum += loss.item() * 7
    assert position.loss == loss_sum / 700
    assert position.accuracy == 300 / 700
    again = Position.restored(position.stored())
    again.add(loss, torch.tensor(1), 1)
    assert (again.done, again.accuracy) == (701, 301 / 701)


def test_batchnorm_is_not_copied_where_it_cannot_change():
    network = make_conv_bn()
    before = copy.deepcopy(network.state_dict())
    x = make_images(4).pixels
    with undisturbed(network, eval_only=True):
        network(x)
    assert all(torch.equal(t, before[n]) for n, t in network.state_dict().items())
    with undisturbed(network):
        network.train()
        network(x)
    assert all(torch.equal(t, before[n]) for n, t in network.state_dict().items())


def test_small_sets_lie_on_an_accelerator_as_bytes_and_give_the_same_batches(monkeypatch):
    pixels = torch.arange(4 * 3 * 2 * 2, dtype=torch.uint8).view(4, 3, 2, 2)
    images = Images(pixels, torch.tensor([0, 1, 1, 0]), torch.tensor([9, 8, 7, 6]), "x", 2)
    assert images.on(torch.device("cpu")) is images
    monkeypatch.setattr("ridgeline.train.data.examples._KEPT", images.pixels.nbytes - 1)
    assert images.on(torch.device("meta")) is images  # too large
    monkeypatch.undo()
    with Accelerator():
        check_there(images)


def check_there(images: Images) -> None:
    there = images.on(DEVICE)
    assert (there.pixels.device, there.pixels.dtype) == (DEVICE, torch.uint8)
    places = torch.tensor([2, 0])
    here, moved = (i.batch(places, d, torch.float32) for i, d in ((images, "cpu"), (there, DEVICE)))
    assert torch.equal(here.x, moved.x.cpu())
    assert torch.equal(here.y, moved.y.cpu())
    assert moved.index.tolist() == [7, 9]


class Terminated:
    """A network that asks for SIGTERM during a training pass, or during evaluation."""

    def __init__(self, training: bool, at: int):
        self.training, self.at, self.passes = training, at, 0

    def __call__(self, module, inputs):
        self.passes += module.training == self.training
        if module.training == self.training and self.passes == self.at:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(("training", "at"), [(True, 2), (True, 6), (False, 1), (False, 4)])
def test_sigterm_writes_a_state_from_which_the_run_ends_bit_for_bit(
    training, at, tmp_path, monkeypatch
):
    """In a step, and in an evaluation; the state is of the steps before."""
    assert threading.current_thread() is threading.main_thread()
    monkeypatch.setattr("ridgeline.train.keeping._SCORING", 0.0)
    images = make_images(24)
    options = {"epochs": 2, "batch_size": 8, "optimizer": SGD}

    def method():
        return METHODS["adversarial"](make_conv_bn().float(), Setup(images, PGD2, epochs=2))

    straight = method()
    expected = fit(straight, images, images, **options)
    files = RunFiles(tmp_path, "a", {"x": 1})
    first = method()
    hook = first.network.register_forward_pre_hook(Terminated(training, at))
    with pytest.raises(Stopped), stoppable():
        fit(first, images, images, **options, files=files)
    hook.remove()
    assert not stopping.asked()
    second = method()
    lines = fit(second, images, images, **options, files=files,
                resume=read_state(tmp_path / "a.state"))  # fmt: skip
    for ours, theirs in zip(second.network.state_dict().values(),
                            straight.network.state_dict().values(), strict=True):  # fmt: skip
        assert torch.equal(ours, theirs)
    for line, other in zip(lines, expected, strict=True):
        assert {k: v for k, v in line.items() if not k.endswith("seconds")} == {
            k: v for k, v in other.items() if not k.endswith("seconds")
        }


def test_a_state_that_is_not_whole_leaves_the_one_before(tmp_path, monkeypatch):
    """Sees a state replaced by one that a disk has cut, though the writing said nothing."""
    files = RunFiles(tmp_path, "a", {"x": 1})
    files.save_state({"n": torch.arange(3)})

    def cut(state, path):
        torch.save(state, path)
        path.write_bytes(path.read_bytes()[:-200])

    monkeypatch.setattr("ridgeline.train.files.run_files._write_tensors", cut)
    with pytest.raises(InputError, match="truncated or damaged"):
        files.save_state({"n": torch.arange(4)})
    assert read_state(tmp_path / "a.state")["n"].tolist() == [0, 1, 2]
    assert [p.name for p in tmp_path.iterdir()] == ["a.state"]
