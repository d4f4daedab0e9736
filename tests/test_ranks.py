"""Commands under torchrun: the numbers of one process, and a process that dies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ridgeline.train.files.checkpoint import load_checkpoint
from tests.commands import call, tiny_set
from tests.conftest import ROOT

ATTACK = "--attack name=pgd,threshold=0.1,iter_num=2,random_start=True"
#: 23 examples in batches of 8, 8 and 7: ragged shares
RUN = (f"--out_folder . --dataset tiny.npz --subset_size 23 --batch_size 8 --eval_size 6 --width 1 "
       f"--epoch_num 2 {ATTACK} --optim name=sgd,lr=0.1,momentum=0.9 --augment True")  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a data set, where everything runs."""
    folder = tmp_path_factory.mktemp("ranks")
    tiny_set(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


def torchrun(count: int, line: str, **variables: str) -> subprocess.CompletedProcess:
    """A command in several processes of one thread each."""
    command, *options = line.split()
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node",
         str(count), str(ROOT / "run" / f"{command}.py"), *options],
        timeout=300, capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
    )  # fmt: skip


def alone(line: str) -> str:
    status, said, error = call(line)
    assert status == 0, error
    return said


def shared(count: int, line: str) -> str:
    done = torchrun(count, line)
    assert done.returncode == 0, done.stderr
    return done.stdout


def metrics(name: str) -> list[dict]:
    return [json.loads(line) for line in Path(f"{name}.jsonl").read_text().splitlines()]


def same_run(one: str, other: str, processes: int) -> None:
    """Weights, buffers and metrics to the rounding of float32."""
    ours, theirs = (load_checkpoint(f"{n}.ckpt").tensors for n in (one, other))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(theirs[name], tensor, rtol=2e-4, atol=2e-5, msg=name)
    for line, again in zip(metrics(one), metrics(other), strict=True):
        assert again.pop("processes") == processes
        assert again.keys() == line.keys()
        for key in line.keys() - {"seconds", "eval_seconds"}:
            number = isinstance(line[key], float)
            wanted = pytest.approx(line[key], rel=2e-4, abs=1e-5) if number else line[key]
            assert again[key] == wanted, key


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_processes_train_the_network_of_one(folder, count):
    """Sees gradients averaged by process, noise by place in a share, and examples taken twice."""
    name = f"plain{count}"
    alone(f"train_normal --model_type lenet {RUN} --model_name one{count}")
    shared(count, f"train_normal --model_type lenet {RUN} --model_name {name}")
    same_run(f"one{count}", name, count)


def in_float64(count: int, name: str, *options: str) -> dict[str, torch.Tensor]:
    """Weights and buffers that tests/shared_training.py comes to in so many processes."""
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node",
         str(count), str(ROOT / "tests" / "shared_training.py"), name, *options],
        timeout=300, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    return torch.load(name, weights_only=True)


def test_batchnorm_over_all_processes_is_that_of_one(folder):
    """Sees statistics, gradients and running values of shares; without it, that they differ.

    Two processes whose shares are in two parts normalise by what one sees in two parts.
    """
    for parts in ("1", "2"):
        ours, theirs = (in_float64(n, f"{n}.pt", "sync", parts) for n in (1, 2))
        assert ours.keys() == theirs.keys()
        close = [torch.allclose(theirs[n], t, rtol=1e-9, atol=1e-11) for n, t in ours.items()]
        assert all(close) == (parts == "1")  # of two parts each holds other examples
    split = in_float64(2, "split.pt", "split", "1")
    assert not torch.allclose(split["layer1.1.running_var"], ours["layer1.1.running_var"])


def test_the_command_says_what_batchnorm_sees(folder):
    line = f"train_normal --model_type resnet9 {RUN}"
    said = shared(2, f"{line} --model_name split")
    assert "BatchNorm normalises by each process's share of a batch, 4 of 8 images" in said
    said = shared(2, f"{line} --model_name synced --sync_batchnorm True")
    assert "share of a batch" not in said
    ours, theirs = (load_checkpoint(f"{n}.ckpt").tensors for n in ("split", "synced"))
    assert any((ours[n] - theirs[n]).abs().max() > 1e-3 for n in ours)
    assert load_checkpoint("synced.ckpt").recipe["sync_batchnorm"] is True


def test_fomo_in_two_processes_forgets_and_is_consistent_as_in_one(folder):
    """Sees a mean term of the first process's share alone."""
    line = (f"train_fomo --model_type lenet {RUN} --fomo_warmup 0 --fomo_relearn 1 "
            "--eval_attack None --subset_size 24")  # fmt: skip
    line = line.replace("--subset_size 23 ", "")
    alone(f"{line} --model_name forgetful")
    shared(2, f"{line} --model_name forgetful2")
    same_run("forgetful", "forgetful2", 2)
    same = [load_checkpoint(f"{n}_stable.ckpt").tensors for n in ("forgetful", "forgetful2")]
    for name in same[0]:
        torch.testing.assert_close(same[1][name], same[0][name], rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--awp_gamma 0.01", "adversarial does more with a batch's gradients than add them"),
        ("--subset_size 17 --batch_size 1", "makes a batch of 1, too few for 2 processes"),
        ("--attack name=pgd,threshold=0.1,iter_num=2,eot=2", "draws for 100 examples together"),
    ],
)
def test_what_cannot_be_shared_is_refused_before_anything_is_written(
    folder, options, said, monkeypatch
):
    monkeypatch.setenv("WORLD_SIZE", "2")
    base = f"train_normal --model_type lenet --out_folder new --dataset tiny.npz --width 1 {ATTACK}"
    given = options.split()[::2]
    kept = [w for w in base.split("--")[1:] if f"--{w.split()[0]}" not in given]
    status, _, error = call(f"train_normal --{'--'.join(kept)} {options}")
    assert (status, said in error, error.count("\n")) == (2, True, 1), error
    assert not Path("new").exists()
