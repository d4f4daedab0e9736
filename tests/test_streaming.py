"""Image folders that do not fit in memory: the same numbers as in memory, by any workers."""

from __future__ import annotations

import json
import os
import signal
import time

import numpy as np
import pytest
import torch
from PIL import Image

from ridgeline.landscape.result import load_result
from ridgeline.models import InputError
from ridgeline.train.data import streaming
from ridgeline.train.data.datasets import load_images
from ridgeline.train.data.streaming import ImageFiles
from ridgeline.train.files.checkpoint import load_checkpoint
from tests.commands import call

pytestmark = pytest.mark.usefixtures("free_locks")
RUN = (
    "train_normal --dataset pets@8 --model_type vit4 --width 1 --epoch_num 2 --batch_size 4 "
    "--eval_size 5 --augment True --attack name=fgsm,eps=0.1 --val_fraction 0.2 "
    "--optim name=adam,lr=1e-3 --out_folder runs"
)

SCAN = (
    "scan_param --model2load runs/a.ckpt --subset trained --vec1_scan step=1 --batch_size 4 "
    "--attack name=fgsm,eps=0.1"
)


@pytest.fixture
def pets(tmp_path):
    """14 training and 6 test images in two classes, 8 pixels wide and up to 30 high."""
    draw = np.random.default_rng(0)
    for part, count in (("train", 14), ("test", 6)):
        for n in range(count):
            path = tmp_path / f"pets/{part}/{'ab'[n % 2]}/{n:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = draw.integers(0, 256, (17 + n, 8, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(path)
    return tmp_path


@pytest.fixture
def little(monkeypatch):
    """A machine whose memory holds no set."""
    monkeypatch.setattr(streaming, "memory", lambda: 1024)


def both(folder, monkeypatch, workers, dataset="pets@8", part="train"):
    """The set in memory, and streamed."""
    with monkeypatch.context() as patch:
        patch.setattr(streaming, "memory", lambda: None)
        held = load_images(str(folder / dataset), part)
        patch.setattr(streaming, "memory", lambda: 1024)
        streamed = load_images(str(folder / dataset), part, workers=workers)
    assert isinstance(streamed.pixels, ImageFiles)
    assert isinstance(held.pixels, torch.Tensor)
    return held, streamed


@pytest.mark.parametrize("workers", [0, 1, 3, None])
def test_batches_are_those_of_memory_in_the_same_order(pets, monkeypatch, workers):
    held, streamed = both(pets, monkeypatch, workers)
    assert repr(streamed) == repr(held)
    assert streamed.sha256 == held.sha256
    for size in (14, 4, 1):
        for order in (None, held.shuffled(3, 1)):
            pairs = zip(held.batches(size, order=order), streamed.batches(size, order=order),
                        strict=True)  # fmt: skip
            for a, b in pairs:
                assert all(torch.equal(u, v) for u, v in zip(a, b, strict=True))
    first, second = held.split(0.3), streamed.split(0.3)
    assert [s.sha256 for s in first] == [s.sha256 for s in second]
    assert held.subset(5).sha256 == streamed.subset(5).sha256
    assert torch.equal(streamed.loaded().pixels, held.pixels)


def test_a_batch_that_is_ready_may_be_taken_in_parts(pets, monkeypatch):
    held, streamed = both(pets, monkeypatch, 2)
    parts = held.shuffled(0, 0).split(6)
    inner, here, read = streamed.pixels.read, os.getpid(), []

    def noted(path):
        if os.getpid() == here:
            read.append(path)
        return inner(path)

    monkeypatch.setattr(streamed.pixels, "read", noted)
    for places in streamed.ahead(parts):
        for some in places.split(4):
            got = streamed.batch(some, "cpu", torch.float32)
            assert torch.equal(got.x, held.batch(some, "cpu", torch.float32).x)
    assert not read  # in this process


def test_no_worker_is_more_than_a_batch_ahead(pets, monkeypatch, tmp_path):
    """Sees a set that ends in memory although nobody has taken its batches."""
    _, streamed = both(pets, monkeypatch, 2)
    log, inner = tmp_path / "log", streamed.pixels.read

    def noted(path):
        with open(log, "a") as file:
            file.write("x")
        return inner(path)

    streamed.pixels.read = noted
    coming = streamed.ahead(torch.arange(14).split(1))
    next(coming)
    for _ in range(20):
        before = log.stat().st_size
        time.sleep(0.02)
    assert log.stat().st_size == before <= 4
    coming.close()


def test_the_random_numbers_of_torch_are_left_alone(pets, monkeypatch):
    _, streamed = both(pets, monkeypatch, 2)
    state = torch.get_rng_state()
    assert len(list(streamed.batches(4))) == 4
    assert torch.equal(torch.get_rng_state(), state)


def trained(folder, name, *options) -> tuple[dict, list, dict]:
    """Weights, metrics without seconds, and recipe of a run."""
    done = call(" ".join((RUN, "--model_name", name, *options)), folder)
    assert done.returncode == 0, done.stderr
    read = load_checkpoint(folder / f"runs/{name}.ckpt")
    lines = (folder / f"runs/{name}.jsonl").read_text().splitlines()
    metrics = [{k: v for k, v in json.loads(m).items() if "seconds" not in k} for m in lines]
    return {k: v.tolist() for k, v in read.tensors.items()}, metrics, read.recipe


def test_training_gives_the_same_numbers_by_any_number_of_workers(pets, monkeypatch):
    wanted = trained(pets, "memory")
    monkeypatch.setattr(streaming, "memory", lambda: 1024)
    for workers in (0, 1, 3):
        assert trained(pets, f"w{workers}", "--workers", str(workers)) == wanted
    parts = trained(pets, "parts", "--workers", "2", "--accumulate", "2")
    assert parts[1][0].keys() == wanted[1][0].keys()


def test_a_diagnostic_finds_the_same_on_the_images_a_run_was_trained_on(pets, monkeypatch):
    """They are recognised by their digest; adversarial images of them are held."""
    trained(pets, "a")
    results = []
    for number, size in enumerate((None, 1024)):
        if size:
            monkeypatch.setattr(streaming, "memory", lambda: 1024)
        line = f"{SCAN} --model_name s{number}"
        done = call(line, pets)
        assert done.returncode == 0, done.stderr
        results.append(load_result(pets / f"runs/s{number}_results.nc"))
    first, second = results
    assert first["loss"].size > 2
    assert np.array_equal(first["loss"].values, second["loss"].values)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_is_named_in_one_line_before_training(pets, little, workers):
    path = pets / "pets/train/b/07.png"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])  # its head is fine
    done = call(f"{RUN} --model_name a --workers {workers}", pets)
    assert (done.returncode, done.stdout) == (2, "")
    last = done.stderr.splitlines()[-1]
    assert "train_normal.py: --dataset pets: cannot read pets/train/b/07.png" in last
    assert "Traceback" not in done.stderr
    assert not (pets / "runs").exists()


def test_a_worker_that_is_killed_ends_the_run_in_one_line(pets, monkeypatch):
    _, streamed = both(pets, monkeypatch, 2)

    def fatal(path):
        os.kill(os.getpid(), signal.SIGKILL)

    streamed.pixels.read = fatal
    with pytest.raises(InputError, match="a process that decodes images ended") as caught:
        list(streamed.batches(4))
    assert "\n" not in str(caught.value)


def test_heads_tell_sizes_and_grey_before_anything_is_decoded(pets, little, monkeypatch):
    with pytest.raises(InputError, match=r"different sizes, 17x8 and 19x8; name a side, .*@64"):
        load_images(str(pets / "pets"), "train")
    for path in (pets / "pets/test").rglob("*.png"):
        Image.open(path).convert("L").save(path)
    held, streamed = both(pets, monkeypatch, 1, part="test")
    assert streamed.image_shape == held.image_shape == (1, 8, 8)
    assert streamed.sha256 == held.sha256
    (pets / "pets/test/a/00.png").write_text("no image")
    with pytest.raises(InputError, match=r"cannot read .*00\.png"):
        load_images(str(pets / "pets@8"), "test")


def test_what_needs_all_images_at_once_says_that_they_do_not_fit(pets, little):
    streamed = load_images(str(pets / "pets@8"), "train", workers=0)
    with pytest.raises(InputError, match=r"take .* GiB, this machine has .*--subset_size"):
        streamed.loaded()
