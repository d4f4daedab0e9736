"""Commands under torchrun: the numbers of one process, and a process that dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from ridgeline.landscape.result import load_result
from ridgeline.train.files.checkpoint import load_checkpoint
from ridgeline.train.files.run_files import read_state
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


@pytest.mark.slow
def test_batchnorm_over_all_processes_is_that_of_one(folder):
    """Sees statistics, gradients and running values of shares; without it, that they differ.

    With --accumulate a batch is divided into the parts of one process, then among processes.
    """
    for parts in ("1", "2"):
        ours, theirs = (in_float64(n, f"{n}.pt", "sync", parts) for n in (1, 2))
        assert ours.keys() == theirs.keys()
        close = [torch.allclose(theirs[n], t, rtol=1e-9, atol=1e-11) for n, t in ours.items()]
        assert all(close), parts
    split = in_float64(2, "split.pt", "split", "1")
    assert not torch.allclose(split["layer1.1.running_var"], ours["layer1.1.running_var"])


@pytest.mark.slow
def test_a_run_of_two_processes_goes_on_in_one(folder):
    """Sees sums, momenta or order of the first process's share alone in the state."""
    straight = in_float64(1, "straight.pt", "sync", "1")
    with pytest.raises(FileNotFoundError):
        in_float64(2, "half.pt", "sync", "1", "stop")
    assert read_state(Path("half.state"))["position"]["epoch"] == 1
    again = in_float64(1, "half.pt", "sync", "1", "go")
    for name, tensor in straight.items():
        torch.testing.assert_close(again[name], tensor, rtol=1e-9, atol=1e-11, msg=name)
    first, second = metrics("half")
    assert (first["processes"], "processes" in second) == (2, False)


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


def start(count: int, line: str) -> subprocess.Popen:
    """A command in several processes, not waited for."""
    command, *options = line.split()
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node",
         str(count), str(ROOT / "run" / f"{command}.py"), *options],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def kill_the_second(job: subprocess.Popen, ready: Callable[[], bool]) -> str:
    """Kill process 2 with SIGKILL once `ready`; what the job then says on stderr."""
    until = time.monotonic() + 120
    try:
        while not ready():
            assert job.poll() is None, job.communicate()
            assert time.monotonic() < until, "it never began its work"
            time.sleep(0.02)
        children = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
        (second,) = (int(c) for c in children if b"RANK=1\0" in _environment(c))
        os.kill(second, signal.SIGKILL)
        error = job.communicate(timeout=120)[1]
    finally:
        if job.poll() is None:
            job.terminate()  # torchrun passes it on
            job.communicate()
    assert job.returncode != 0
    return error


def _environment(pid: str) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes().replace(b"LOCAL_RANK", b"").replace(
        b"GROUP_RANK", b""
    ).replace(b"ROLE_RANK", b"")  # fmt: skip


def test_training_of_which_a_process_is_killed_ends_clearly_and_resumes(folder):
    """To the last bit, in as many processes."""
    line = f"train_normal --model_type lenet {RUN} --optim name=sgd,lr=0.01 --epoch_num 120"
    line = line.replace(" --optim name=sgd,lr=0.1,momentum=0.9", "").replace("--epoch_num 2 ", "")
    line = line.replace(ATTACK, "")
    shared(2, f"{line} --model_name calm")
    error = kill_the_second(start(2, f"{line} --model_name dead"),
                            lambda: lines_of("dead.jsonl") > 2)  # fmt: skip
    said = [x for x in error.splitlines() if x.startswith("train_normal.py: ")]
    assert len(said) == 1 and "run the same command again to continue" in said[0], error
    assert 0 < read_state(Path("dead.state"))["position"]["epoch"] < 120
    shared(2, f"{line} --model_name dead")
    calm, dead = (load_checkpoint(f"{n}.ckpt").tensors for n in ("calm", "dead"))
    for name, tensor in calm.items():
        assert torch.equal(tensor, dead[name])
    for one, other in zip(metrics("calm"), metrics("dead"), strict=True):
        assert {k: v for k, v in one.items() if "seconds" not in k} == {
            k: v for k, v in other.items() if "seconds" not in k
        }


def lines_of(name: str) -> int:
    return Path(name).read_text().count("\n") if Path(name).exists() else 0


def test_a_scan_of_which_a_process_is_killed_is_taken_up(folder):
    """To the last bit of one process that was left alone."""
    alone(f"train_normal --model_type lenet {RUN} --model_name scanned")
    line = (f"scan_param --model2load scanned.ckpt --subset_size 40 {ATTACK} --adv_budget_list "
            "0,0.1 --vec1_scan min=-1,max=1,step=0.01")  # fmt: skip
    alone(f"{line} --model_name calm")
    error = kill_the_second(start(2, f"{line} --model_name cut"),
                            lambda: any(Path().glob(".cut_results.nc.*of2.nc")))  # fmt: skip
    assert "scan_param.py: " in error and "again to continue" in error
    assert not Path("cut_results.nc").exists()
    shared(2, f"{line} --model_name cut")
    xr.testing.assert_equal(load_result("cut_results.nc"), load_result("calm_results.nc"))


CURVED = (f"calc_hessian --model2load curved.ckpt --subset_size 23 --batch_size 8 {ATTACK} "
          "--topk 3 --density_probes 1 --density_steps 40 --trace_products 80")  # fmt: skip


def cut_hessian(name: str) -> None:
    """A Hessian of two processes, one of which is killed when a part of the products is done."""
    if not Path("curved.ckpt").exists():
        alone(f"train_normal --model_type lenet {RUN} --model_name curved")
    logs = [Path(f".{name}_eps0.1_all.products{n}") for n in ("", ".1")]
    error = kill_the_second(
        start(2, f"{CURVED} --out_file {name}.nc"),
        lambda: all(log.exists() and log.stat().st_size > 2**21 for log in logs),
    )
    said = [x for x in error.splitlines() if x.startswith("calc_hessian.py: ")]
    assert len(said) == 1 and "run the same command again to continue" in said[0], error
    assert not Path(f"{name}.nc").exists() and all(log.exists() for log in logs)


@pytest.mark.slow
def test_processes_that_are_stopped_say_so_once_and_go_on(folder):
    """Sees every process speak, two lines in one, and states that end with the job's time."""
    line = f"train_normal --model_type lenet {RUN} --model_name stopped".replace(
        "--epoch_num 2", "--epoch_num 40"
    )
    job = start(2, line)
    while lines_of("stopped.jsonl") < 2:
        assert job.poll() is None
        time.sleep(0.02)
    job.terminate()
    error = job.communicate(timeout=120)[1]
    assert job.returncode != 0
    said = [x for x in error.splitlines() if "train_normal.py: " in x]
    assert said == ["train_normal.py: stopped; run the same command again to continue"]
    reached = lines_of("stopped.jsonl")
    assert 2 <= reached <= read_state(Path("stopped.state"))["position"]["epoch"] + 1 < 40
    assert not list(Path().glob(".stopped*"))
    shared(2, line)
    calm = line.replace("--model_name stopped", "--model_name unstopped")
    shared(2, calm)
    ours, theirs = (load_checkpoint(f"{n}.ckpt").tensors for n in ("stopped", "unstopped"))
    assert all(torch.equal(ours[n], theirs[n]) for n in theirs)


@pytest.mark.slow
@pytest.mark.parametrize("flipped", [None, "", ".1"], ids=["whole", "first", "second"])
def test_a_hessian_of_which_a_process_is_killed_is_taken_up(folder, flipped):
    """To the last bit of as many processes that were left alone; only one logs damaged products.

    Sees a process wait for ever for a sum that the other has read from its file.
    """
    name = f"flipped{flipped}"
    cut_hessian(name)
    if flipped is not None:
        log = Path(f".{name}_eps0.1_all.products{flipped}")
        content = bytearray(log.read_bytes())
        content[len(content) // 3] ^= 4
        log.write_bytes(content)
    shared(2, f"{CURVED} --out_file {name}.nc")
    if not Path("calm_hessian.nc").exists():
        shared(2, f"{CURVED} --out_file calm_hessian")
    ours, theirs = (load_result(f"{n}.nc").drop_vars("seconds") for n in ("calm_hessian", name))
    xr.testing.assert_equal(theirs, ours)
    assert not list(Path().glob(f".{name}_*"))


@pytest.mark.slow
def test_one_process_goes_on_with_the_hessian_of_two(folder):
    """Sees the second process's files stay, or the products of a share taken for those of all."""
    cut_hessian("half")
    alone(f"{CURVED} --out_file half")
    alone(f"{CURVED} --out_file straight")
    assert not list(Path().glob(".half*"))
    half, straight = (load_result(f"{n}.nc").drop_vars("seconds") for n in ("half", "straight"))
    for name in ("eigenvalue", "trace", "mean_loss"):
        np.testing.assert_allclose(half[name], straight[name], rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("attack", ["pgd,threshold=0.1,iter_num=3,random_start=True",
                                    "fmn,order=2,threshold=0.1,iter_num=4"])  # fmt: skip
def test_processes_evaluate_with_the_bits_of_one(folder, attack):
    """Pieces are whole and in order; three processes have too few of them for the last."""
    if not Path("judged.ckpt").exists():
        alone(f"train_normal --model_type lenet {RUN} --model_name judged")
    name = attack.partition(",")[0]
    line = (
        "test_ensemble --model2load judged.ckpt --subset_size 10 --batch_size 2 --trace True "
        f"--also calibration,classes --attack name={attack} --adv_budget_list 0.05,0.1"
    )
    alone(f"{line} --out_file {name}1.nc")
    shared(2, f"{line} --out_file {name}2.nc")
    xr.testing.assert_equal(load_result(f"{name}1.nc"), load_result(f"{name}2.nc"))
    assert not list(Path().glob(".*.parts*"))
