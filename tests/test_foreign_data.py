"""Data of others opens as it is saved, or says in one line what to do; so do the commands."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from ridgeline.models import InputError, build_model
from ridgeline.train.data.datasets import load_images
from ridgeline.train.files.checkpoint import load_checkpoint, save_checkpoint

PIXELS = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3)).astype(np.uint8)
LABELS = np.arange(7) % 3


def write(path, **arrays) -> str:
    whole = {"train_images": PIXELS, "train_labels": LABELS,
             "test_images": PIXELS[:2], "test_labels": LABELS[:2]}  # fmt: skip
    whole |= arrays
    np.savez(path, **{k: v for k, v in whole.items() if v is not None})
    return str(path)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_in_0_1_and_column_labels_are_the_same_images(dtype, tmp_path):
    """Sees data refused that need no guess, or scaled twice."""
    plain = load_images(write(tmp_path / "a.npz"), "train")
    floats = write(
        tmp_path / "b.npz", train_images=(PIXELS / 255).astype(dtype), train_labels=LABELS[:, None]
    )
    found = load_images(floats, "train")
    assert torch.equal(found.labels, plain.labels) and found.num_classes == 3
    x, expected = (next(i.batches(7, dtype=torch.float64)).x for i in (found, plain))
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-3 if dtype is np.float16 else 1e-7)


def test_a_split_is_needed_only_when_it_is_asked_for(tmp_path):
    """Sees half a data set refused for the other half, and classes counted in one split only."""
    both = write(tmp_path / "a.npz", test_labels=np.array([0, 5]))
    assert load_images(both, "train").num_classes == 6 == load_images(both, "test").num_classes
    for absent, there in (("train", "test"), ("test", "train")):
        gone = {f"{absent}_images": None, f"{absent}_labels": None}
        path = write(tmp_path / "b.npz", **gone)
        assert len(load_images(path, there))
        with pytest.raises(InputError, match=f"lacks {absent}_images and {absent}_labels"):
            load_images(path, absent)


BAD = {
    "strings": ({"train_labels": LABELS.astype(str)}, r"must be integers \(N,\)"),
    "huge": ({"train_labels": LABELS + 10**12}, "must be classes 0..99999, got 10"),
    "beyond int64": ({"train_labels": np.full(7, 2**64 - 1, np.uint64)}, "got 18446744073709"),
    "huge in the other split": ({"test_labels": np.array([0, 10**9])}, "test_labels must be cl"),
    "negative": ({"train_labels": LABELS - 1}, "got -1"),
    "one-hot": ({"train_labels": np.eye(3, dtype=int)[LABELS]}, r"argmax\(1\)"),
    "float labels": ({"train_labels": LABELS / 1}, r"astype\(int\)"),
    "objects": ({"train_labels": np.array([None] * 7)}, "plain arrays"),
    "normalised": ({"train_images": PIXELS / 255 * 4 - 2}, r"must lie in \[0,1\].*--normalize"),
    "0..255 floats": ({"train_images": PIXELS / 1}, "divide by 255"),
    "NaN": ({"train_images": np.full(PIXELS.shape, np.nan)}, r"must lie in \[0,1\]"),
    "int64 pixels": ({"train_images": PIXELS.astype(int)}, "must be uint8, or floats"),
    "channels first": ({"train_images": PIXELS.transpose(0, 3, 1, 2)}, "channels come last"),
    "flat": ({"train_images": PIXELS.reshape(7, -1)}, r"\(N, H, W\)"),
    "none": ({"train_images": PIXELS[:0], "train_labels": LABELS[:0]}, "at least one"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_labelled_images_is_refused_in_one_line(name, tmp_path):
    """Sees strings, overflowing or absurd labels and normalised pixels reach the arithmetic."""
    arrays, message = BAD[name]
    with pytest.raises(InputError, match=message) as error:
        load_images(write(tmp_path / "a.npz", **arrays), "train")
    assert "\n" not in str(error.value)


def test_nan_pixels_are_no_images_wherever_they_come_from():
    """Sees NaN images in a notebook's own Images become NaN losses."""
    from ridgeline.train.data.examples import Images
    from tests.conftest import make_images

    pixels = make_images(3).pixels
    pixels[1, 0, 2, 2] = torch.nan
    with pytest.raises(InputError, match="NaN"):
        Images(pixels, torch.zeros(3).long(), torch.arange(3), "mine", 4)


def test_a_bomb_is_refused_by_its_headers(tmp_path, monkeypatch):
    """Sees 4 GiB unpacked from a file of a few hundred kB, and sizes that lie."""
    path = tmp_path / "a.npz"
    np.savez_compressed(path, test_images=np.zeros((2**27,), np.uint8), test_labels=LABELS)
    monkeypatch.setattr(np, "load", lambda *a, **k: pytest.fail("was read"))
    with pytest.raises(InputError, match="would unpack to 128 MiB"):
        load_images(str(path), "test")


def test_an_array_longer_than_its_header_says_is_damaged(tmp_path):
    """Sees a part of the images taken for all: numpy reads what the header says, and no more."""
    path = tmp_path / "a.npz"
    pixels, labels = io.BytesIO(), io.BytesIO()
    np.save(pixels, PIXELS[:3])
    np.save(labels, LABELS[:3])
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("test_images.npy", pixels.getvalue() + PIXELS[3:].tobytes())
        archive.writestr("test_labels.npy", labels.getvalue())
    with pytest.raises(InputError, match="damaged"):
        load_images(str(path), "test")


def write_network(path, **model) -> str:
    torch.manual_seed(0)
    network = build_model("lenet", (1, 28, 28), width=1)
    known = {"model_type": "lenet", "width": 1, "bias": True, "num_classes": 10, **model}
    recipe = {"model": known, "data": {"dataset": "mnist5k"}}
    save_checkpoint(path, network.state_dict(), recipe)
    return str(path)


@pytest.fixture
def elsewhere(tmp_path_factory):
    """Inputs stand outside the folder that a refused command must leave empty."""
    return tmp_path_factory.mktemp("inputs")


def test_the_splits_of_one_study_have_one_shape(elsewhere, refuse):
    """Sees training or a diagnostic begin on images that the evaluation cannot take."""
    path = write(
        elsewhere / "a.npz", train_images=PIXELS[..., 0].repeat(4, 1).repeat(4, 2)[:, :28, :28],
        test_images=PIXELS[:2, :, :, 0],
    )  # fmt: skip
    said = refuse("train_normal", "--dataset", path, "--model_type", "lenet")
    assert "splits are of different shapes" in said


def test_a_foreign_checkpoint_asks_for_its_data(elsewhere, refuse):
    """Sees MNIST or CIFAR-10 assumed, downloaded and measured, where nobody named a data set."""
    torch.save(build_model("lenet", (1, 28, 28), width=1).state_dict(), elsewhere / "a.pt")
    said = refuse("calc_hessian", "--model2load", elsewhere / "a.pt", "--width", 1)
    assert "pass --dataset" in said and "--normalize" in said


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ({"num_classes": 3}, (), "of another architecture"),
        ({}, ("--normalize", "mean=0:0:0,std=1:1:1"), "3 means, the images 1 channels"),
        ({"width": 10**9}, (), "cannot be built|another architecture"),
        ({}, ("--state_key", "ema"), "no entry 'ema'"),
    ],
)
def test_a_network_that_does_not_fit_is_one_line(model, options, message, elsewhere, refuse):
    """Sees torch's own traceback where a network meets data or a recipe it was not made for."""
    import re

    path = write_network(elsewhere / "a.ckpt", **model)
    assert re.search(message, refuse("test_ensemble", "--model2load", path, *options))


def test_fewer_classes_in_the_data_than_in_the_network_are_fine(elsewhere, run_command):
    """Sees a part of the classes build a smaller network, into which the weights do not fit."""
    path = write_network(elsewhere / "a.ckpt")
    data = write(elsewhere / "d.npz", test_images=np.zeros((2, 28, 28), np.uint8))
    done = run_command("test_ensemble", "--model2load", path, "--dataset", data, check=True)
    assert "clean" in done.stdout


def test_a_stored_normalisation_is_used_and_recorded(elsewhere, run_command, tmp_path):
    """Sees a network trained on normalised images measured on raw ones.

    The logits are linear in the images: mean 0.5, std 0.01 changes every loss.
    """
    import xarray as xr

    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    wrapped = {f"1.{k}": v for k, v in network.state_dict().items()}
    constants = {"0.mean": torch.full((1, 1, 1, 1), 0.5), "0.std": torch.full((1, 1, 1, 1), 0.01)}
    torch.save({**wrapped, **constants}, elsewhere / "a.pt")
    (elsewhere / "fe_linear.py").write_text(
        "from torch import nn\ndef net(): return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))\n"
    )
    losses = []
    for number, options in enumerate(((), ("--normalize", "mean=0.5,std=0.01"),
                                      ("--normalize", "mean=0,std=1"))):  # fmt: skip
        run_command("test_ensemble", "--model2load", elsewhere / "a.pt", "--dataset", "mnist5k",
                 "--model_type", f"{elsewhere / 'fe_linear.py'}:net", "--subset_size", 20,
                 "--out_file", f"{number}.nc", *options, check=True)  # fmt: skip
        ds = xr.load_dataset(tmp_path / f"{number}.nc", engine="h5netcdf")
        losses.append(float(ds["loss"].sel(condition="clean")))
        assert '"mean": [' in ds.attrs["recipe"]
    assert losses[0] == losses[1] != losses[2]
    x = load_images("mnist5k", "test").subset(20)
    batch = next(x.batches(20))
    expected = nn.functional.cross_entropy(network((batch.x - 0.5) / 0.01), batch.y)
    assert losses[0] == pytest.approx(expected.item(), rel=1e-5)


def test_perturb_param_moves_a_tied_network_as_far_as_it_says(elsewhere, run_command):
    """Sees "moved by 3" said of a file whose network, once loaded, has not moved by 3."""
    (elsewhere / "fe_tied.py").write_text(
        "from torch import nn\n"
        "def net():\n"
        "    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 4), nn.Linear(4, 4), nn.Linear(4, 4),"
        " nn.Linear(4, 10))\n"
        "    net[3].weight = net[2].weight\n"
        "    return net\n"
    )
    name = f"{elsewhere / 'fe_tied.py'}:net"
    network = build_model(name, (1, 28, 28))
    torch.save(network.state_dict(), elsewhere / "a.pt")
    run = lambda *words: run_command(*words, check=True).stdout  # noqa: E731
    out = run("perturb_param", "--model2load", elsewhere / "a.pt", "--model_type", name,
              "--dataset", "mnist5k", "--vec_scale", 3, "--model_name", "moved")  # fmt: skip
    again = build_model(name, (1, 28, 28))
    load_checkpoint(elsewhere / "moved.ckpt").load_into(again)
    pairs = zip(network.parameters(), again.parameters(), strict=True)
    squares = sum(float(((p - q) ** 2).sum().detach()) for p, q in pairs)
    assert "moved by 3 " in out and squares**0.5 == pytest.approx(3, rel=1e-5)
    out = run("calc_param_distance", "--ckpt_file1", elsewhere / "a.pt", "--ckpt_file2",
              elsewhere / "moved.ckpt")  # fmt: skip
    assert "2.weight is tied to 3.weight" in out and "distance     3.0000" in out
