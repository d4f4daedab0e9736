"""Training runs: killed at every point, claimed before computing, never lost, mixed or diverged."""

from __future__ import annotations

import errno
import importlib
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ridgeline.models import InputError
from ridgeline.train.batches import batches_of, check_batches
from ridgeline.train.files import locks, run_files
from ridgeline.train.files.checkpoint import load_checkpoint, save_checkpoint
from ridgeline.train.files.locks import release_all
from ridgeline.train.files.run_files import DONE, RunFiles
from ridgeline.train.keeping import Diverged
from ridgeline.train.loop import fit
from ridgeline.train.methods import Setup, Standard
from ridgeline.train.optimizers import parse_optimizer
from tests import commands
from tests.conftest import Killed, make_conv_bn, make_images
from tests.methods import TRAINED, cases, staged, train

pytestmark = pytest.mark.usefixtures("free_locks")
ADAM = parse_optimizer("name=adam,lr=0.01")


def test_a_network_that_nobody_claimed_is_not_written(tmp_path):
    """Sees a method write over files that it never named."""
    rogue = Standard(staged(), Setup(epochs=2))
    rogue.end_epoch = lambda epoch: {"surprise": rogue.network.state_dict()}
    with pytest.raises(ValueError, match=r"surprise.*never claimed"):
        train(rogue, RunFiles(tmp_path, "rogue", {}))


@pytest.mark.parametrize("name", ["ema", "fomo"])
@pytest.mark.parametrize("recipe", [{"a": 1}, {"a": 2}])
def test_no_file_of_another_run_is_replaced(name, recipe, tmp_path):
    """Sees `at` writing epoch 1 over the run `at_1`, also when both have the same recipe."""
    method = cases()[name].build()
    files = RunFiles(tmp_path, "at", {"a": 1}).holding(method, (1,), best=True)
    assert {"1", "best", "init"} < set(files.parts)
    for part in filter(None, files.parts):
        other = RunFiles(tmp_path, f"at_{part}", recipe)
        other.save("", staged(5).state_dict())
        before = files.checkpoint(part).read_bytes()
        with pytest.raises(InputError, match=f"at_{part}.ckpt exists.*--overwrite"):
            files.prepare(overwrite=False)
        assert files.checkpoint(part).read_bytes() == before
        assert len(list(tmp_path.iterdir())) == 1
        assert files.prepare(overwrite=True) is None
        release_all()
        # and the other way round: the part stands where another run wants its last network
        files.save(part, staged().state_dict(), 1)
        with pytest.raises(InputError, match=r"--overwrite"):
            other.prepare(overwrite=False)
        files.checkpoint(part).unlink()


def test_two_commands_do_not_write_the_same_checkpoint_at_once(tmp_path):
    """Sees a second process that may write at_1.ckpt while the first one owns it."""
    RunFiles(tmp_path, "at", {"a": 1}, epochs=(1,)).prepare(overwrite=True)
    own, locks._held = locks._held, {}  # what another process holds
    try:
        with pytest.raises(InputError, match=r"at_1.ckpt is being written by another command"):
            RunFiles(tmp_path, "at_1", {"a": 2}).prepare(overwrite=True)
    finally:
        locks._held = own


def test_overwrite_resumes_an_equal_run_and_begins_a_complete_one_anew(tmp_path, monkeypatch):
    """Sees --overwrite throwing away, at every call, what the call before had computed."""
    files = RunFiles(tmp_path, "run", {"a": 1})
    train(Standard(staged(), Setup(epochs=2)), files)
    assert files.prepare(overwrite=False) == DONE
    assert files.prepare(overwrite=True) is None
    assert files.prepare(overwrite=True, anew=False) == DONE
    old = files.path(".ckpt").read_bytes()
    method = Standard(staged(), Setup(epochs=2))
    method.evaluate = lambda *args: (_ for _ in ()).throw(Killed)
    with pytest.raises(Killed):
        train(method, files)
    assert files.path(".ckpt").read_bytes() == old
    for overwrite in (True, False):
        assert files.prepare(overwrite)["position"]["done"] == len(TRAINED)
    other = RunFiles(tmp_path, "run", {"a": 2})
    with pytest.raises(InputError, match="a was 1, now 2"):
        other.prepare(overwrite=False)
    state = files.path(".state").read_bytes()
    assert other.prepare(overwrite=True) is None
    assert files.path(".state").read_bytes() == state


def test_weights_that_are_no_numbers_are_not_written(tmp_path):
    """Sees NaN in a checkpoint."""
    with pytest.raises(InputError, match="hold NaN"):
        RunFiles(tmp_path, "run", {}).save("", {"w": torch.tensor([1.0, math.nan])})


def test_a_statistic_that_overflows_counts_as_divergence():
    """Sees running variances that become infinite while loss and weights stay finite."""
    method = Standard(make_conv_bn().float(), Setup(epochs=2))
    with torch.no_grad():
        method.network.conv.weight.mul_(1e25)
    with pytest.raises(Diverged, match=r"step 1 of 2, with loss .* and weights"):
        train(method, None)


# commands, in this process


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Run a training command here on 24 images: its exit status, output and lines on stderr."""
    rng = np.random.default_rng(0)
    arrays = {f"{part}_images": rng.integers(0, 256, (n, 28, 28)).astype(np.uint8)
              for part, n in (("train", 24), ("test", 5))}  # fmt: skip
    arrays |= {f"{part}_labels": np.arange(n) % 3 for part, n in (("train", 24), ("test", 5))}
    np.savez(tmp_path / "d.npz", **arrays)
    monkeypatch.chdir(tmp_path)

    def run(command: str, *options: str) -> tuple[int, str, str]:
        line = ["--width", "1", "--batch_size", "12", "--epoch_num", "2", "--out_folder", "out",
                "--dataset", "d.npz", "--model_type", "lenet"]  # fmt: skip
        given = [str(x) for x in options]
        pairs = [line[i : i + 2] for i in range(0, len(line), 2) if line[i] not in given]
        done = commands.call((command, *(x for pair in pairs for x in pair), *given))
        errors = [x for x in done.stderr.splitlines() if x.startswith(f"{command}.py:")]
        return done.returncode, done.stdout, "\n".join(errors)

    return run


def names(folder: str = "out") -> set[str]:
    return {p.name for p in Path(folder).iterdir()}


def test_a_diverged_curve_is_one_line_and_no_checkpoint(call):
    """Sees train_curve writing NaN knots that scan_curve then measures."""
    for name, seed in (("a", 0), ("b", 1)):
        assert call("train_normal", "--model_name", name, "--seed", seed)[0] == 0
    curve = ("--fix_points", "1,0,1", "--model2load", "out/a.ckpt,,out/b.ckpt", "--optim",
             "name=sgd,lr=1e12")  # fmt: skip
    lines = [call("train_curve", *curve) for _ in range(2)]
    assert lines[0][0] == 2
    assert "curve.state holds the last finite state" in lines[0][2]
    assert lines[0] == lines[1]
    assert "curve.ckpt" not in names()


def test_checkpoints_of_epochs_wanted_later(call):
    """Sees --epoch_ckpts ignored because the run is complete or beyond those epochs."""
    run = ("train_normal", "--model_name", "a")
    assert call(*run)[0] == 0
    before = {p.name: p.read_bytes() for p in Path("out").iterdir()}
    status, _, line = call(*run, "--epoch_ckpts", "1,2")
    assert status == 2
    assert "beyond epoch 1 and kept no checkpoint" in line
    assert "--overwrite" in line
    assert {p.name: p.read_bytes() for p in Path("out").iterdir()} == before
    status, out, _ = call(*run, "--epoch_ckpts", "2")
    assert (status, "already trained" in out) == (0, True)
    last, kept = load_checkpoint("out/a.ckpt"), load_checkpoint("out/a_2.ckpt")
    assert all(torch.equal(v, kept.tensors[k]) for k, v in last.tensors.items())
    assert kept.recipe["epoch"] == 2
    assert call(*run, "--epoch_ckpts", "1,2", "--overwrite", "True")[0] == 0
    assert "a_1.ckpt" in names()


CURE = ("train_cure", "--model_name", "c", "--val_fraction", "0",
        "--attack", "name=pgd,threshold=0.1,iter_num=1,order=-1", "--eval_attack", "None",
        "--percentile", "0")  # fmt: skip
LURE = ("train_lure", "--model_name", "l", "--meta_batch_size", "12", "--meta_batch_number", "2",
        "--forget", "none")  # fmt: skip


@pytest.mark.parametrize(("line", "stages"), [(CURE, 2), (LURE, 2)])
def test_overwrite_of_a_command_of_several_runs_goes_on_where_it_was_cut_off(
    line, stages, call, monkeypatch
):
    """Sees finished stages trained anew at every call with --overwrite, or others' files lost."""
    started: list[str] = []
    inner = fit

    def watched(method, *args, files, resume, **options):
        started.append(files.name)
        if fatal and len(started) == stages:
            method.evaluate = lambda *a: (_ for _ in ()).throw(KeyboardInterrupt)
        return inner(method, *args, files=files, resume=resume, **options)

    fatal = False
    assert call(*line)[0] == 0
    monkeypatch.setattr(importlib.import_module("ridgeline.run.shared.training"), "fit", watched)
    for fatal, wanted in ((True, stages), (True, 1), (False, 1), (False, stages)):
        started.clear()
        if fatal and wanted == 1:
            stages, wanted = 1, 1  # the last stage alone is left, and is cut off again
        status, _, _ = call(*line, "--overwrite", "True")
        assert status == (130 if fatal else 0)
        assert len(started) == wanted
        stages = max(stages, 1) if fatal else 2


def test_every_stage_is_claimed_before_the_first_is_trained(call):
    """Sees a command that trains for hours and then finds the files of its last stage taken."""
    for line, taken in ((CURE, "c_natural_init.ckpt"), (CURE, "c_revision.ckpt"),
                        (LURE, "l_chunk2_best.ckpt")):  # fmt: skip
        save_checkpoint(Path("out") / taken, {"w": torch.zeros(1)}, {"of": "others"})
        status, _, said = call(*line)
        assert status == 2
        assert taken in said
        assert names() == {taken}
        (Path("out") / taken).unlink()


@pytest.mark.parametrize("still_fits", [0, 500])
def test_a_full_disk_is_one_line_and_leaves_the_state(still_fits, call, monkeypatch):
    """Sees torch's own error ("unexpected pos") in place of the reason, or a lost state."""

    class Full:
        def __init__(self, path, mode):
            self.file = Path(path).open(mode)  # noqa: SIM115 (closed below)

        def write(self, data):
            if files_written >= 2 and len(data) > still_fits:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self.file.write(data)

        def flush(self):
            self.file.flush()

        def __enter__(self):
            return self

        def __exit__(self, *_):
            nonlocal files_written
            files_written += 1
            self.file.close()

    files_written = 0
    monkeypatch.setattr(run_files, "open", Full, raising=False)
    status, _, line = call("train_normal", "--model_name", "a")
    assert status == 2
    assert "a.state cannot be written" in line
    assert "No space left on device" in line
    assert names() == {"a.state", "a_init.ckpt", "a.jsonl"}
    assert run_files.read_state(Path("out/a.state"))["position"]["epoch"] == 1
    monkeypatch.delattr(run_files, "open")
    resumed, straight = RunFiles(Path("out"), "a", {}), RunFiles(Path("out"), "b", {})
    assert call("train_normal", "--model_name", "a")[0] == 0
    assert call("train_normal", "--model_name", "b")[0] == 0
    a, b = (load_checkpoint(f.path(".ckpt")).tensors for f in (resumed, straight))
    assert all(torch.equal(v, b[k]) for k, v in a.items())


def test_a_last_batch_of_one_joins_the_one_before():
    """Sees BatchNorm crash after an epoch, or an example left out, at size % batch_size == 1."""
    order = torch.arange(25)
    for size, lengths in ((12, [12, 13]), (8, [8, 8, 9]), (25, [25]), (30, [25]), (1, [1] * 25)):
        parts = batches_of(order, size)
        assert [len(p) for p in parts] == lengths
        assert torch.equal(torch.cat(parts), order)
        for done in range(0, 25, size):  # what is left after a kill
            assert all(map(torch.equal, batches_of(order[done:], size), parts[done // size :]))
    assert batches_of(order[:0], 12) == []
    norm = nn.Sequential(nn.Flatten(), nn.Linear(36, 4), nn.BatchNorm1d(4))
    images = make_images(13)
    assert len(fit(Standard(norm), images, images, epochs=1, batch_size=12, optimizer=ADAM)) == 1
    check_batches(norm, images, 12)
    for count, size in ((13, 1), (1, 12)):
        with pytest.raises(InputError, match=r"one example.*BatchNorm"):
            check_batches(norm, make_images(count), size)
    check_batches(make_conv_bn(), images, 1)  # its maps have more than one pixel
