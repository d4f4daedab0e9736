"""Image folders, files of corrupted images, MedMNIST's .npz: what a file or folder means."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ridgeline.models import InputError
from ridgeline.models.torchvision_import import import_torchvision
from ridgeline.train.data import streaming
from ridgeline.train.data.datasets import load_images, splits_of
from ridgeline.train.data.folders import NAMED, RESTRICTED_IMAGENET
from ridgeline.train.files.checkpoint import load_checkpoint

RNG = np.random.default_rng(0)


def paint(path, size=(8, 8), colour=None, mode="RGB"):
    """A file of one colour, or of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0], 3)
    pixels = RNG.integers(0, 256, shape) if colour is None else np.full(shape, colour)
    image = Image.fromarray(pixels.astype(np.uint8)).convert(mode)
    image.save(path)
    return np.asarray(image)


def test_classes_are_numbered_by_name_and_pixels_are_kept(tmp_path):
    """Sees another order of files on another disk, and lossy decoding."""
    kept = {}
    for part, names in (("train", ("b/2", "a/1", "c/3", "a/0")), ("test", ("c/9", "a/7"))):
        for name in names:
            kept[part, name] = paint(tmp_path / part / f"{name}.png")
    train, test = (load_images(str(tmp_path), part) for part in ("train", "test"))
    assert train.labels.tolist() == [0, 0, 1, 2]
    assert test.labels.tolist() == [0, 2]
    assert train.num_classes == test.num_classes == 3
    assert splits_of(str(tmp_path)) == ("test", "train")
    for images, part, names in ((train, "train", ("a/0", "a/1", "b/2", "c/3")),
                                (test, "test", ("a/7", "c/9"))):  # fmt: skip
        expected = np.stack([kept[part, n] for n in names]).transpose(0, 3, 1, 2)
        assert np.array_equal(images.pixels.numpy(), expected)
    assert train.name == tmp_path.name


def test_images_of_any_size_are_scaled_and_their_middle_is_cut(tmp_path):
    """Sees squashed images: three vertical stripes keep the middle one."""
    stripes = np.zeros((10, 30, 3), np.uint8)
    stripes[:, 10:20] = 255
    (tmp_path / "a").mkdir()
    Image.fromarray(stripes).save(tmp_path / "a/x.png")
    paint(tmp_path / "b/y.png", (7, 21), 255)
    images = load_images(f"{tmp_path}@10", "test")
    assert images.pixels.shape == (2, 3, 10, 10)
    assert (images.pixels == 255).all()
    smaller = load_images(f"{tmp_path}@4", "test")
    assert smaller.pixels.shape == (2, 3, 4, 4)
    with pytest.raises(InputError, match=r"different sizes, 10x30 and 21x7; name a side, .*@64"):
        load_images(str(tmp_path), "test")
    assert splits_of(str(tmp_path)) == ("test",)
    with pytest.raises(InputError, match="has no train images; it holds test"):
        load_images(f"{tmp_path}@4", "train")


def test_grey_images_have_one_channel_if_all_of_them_are(tmp_path):
    kept = [paint(tmp_path / f"a/{n}.png", mode="L") for n in range(2)]
    grey = load_images(str(tmp_path), "test")
    assert np.array_equal(grey.pixels.numpy(), np.stack(kept)[:, None])
    paint(tmp_path / "b/0.png")
    assert load_images(str(tmp_path), "test").image_shape == (3, 8, 8)


@pytest.fixture
def tiny_imagenet(tmp_path):
    """Its layout: images within class folders, validation in a table, test without labels."""
    root = tmp_path / "tiny-imagenet-200"
    for name in ("n02", "n01"):
        paint(root / f"train/{name}/images/{name}_0.JPEG", (64, 64))
        (root / f"train/{name}/{name}_boxes.txt").write_text("")
    lines = []
    for number, name in enumerate(("n02", "n01", "n02")):
        paint(root / f"val/images/val_{number}.JPEG", (64, 64), 80 * number)
        lines.append(f"val_{number}.JPEG\t{name}\t0\t0\t62\t62")
    (root / "val/val_annotations.txt").write_text("\n".join(lines) + "\n")
    paint(root / "test/images/test_0.JPEG", (64, 64))
    return tmp_path


def test_tiny_imagenet_is_read_as_it_is_unpacked(tiny_imagenet):
    train, test = (load_images("tinyimagenet", part, tiny_imagenet) for part in ("train", "test"))
    assert train.labels.tolist() == [0, 1]
    assert test.labels.tolist() == [0, 1, 1]
    assert test.pixels[:, 0, 0, 0].tolist() == [80, 0, 160]
    assert test.name == "tinyimagenet"
    inside = load_images("tinyimagenet", "test", tiny_imagenet / "tiny-imagenet-200")
    assert inside.sha256 == test.sha256
    assert load_images("tinyimagenet@32", "test", tiny_imagenet).image_shape == (3, 32, 32)
    with pytest.raises(InputError, match=r"'tinyimagenet' is not in .*nowhere"):
        load_images("tinyimagenet", "test", tiny_imagenet / "nowhere")


def test_restricted_imagenet_merges_the_published_ranges(tmp_path):
    assert RESTRICTED_IMAGENET["dog"] == (151, 268)
    sizes = [last - first + 1 for first, last in RESTRICTED_IMAGENET.values()]
    assert sizes == [118, 5, 3, 5, 21, 18, 9, 4, 20]
    for number in range(1000):
        (tmp_path / f"val/n{number:08d}").mkdir(parents=True)
    for number in (29, 30, 32, 33, 151, 268, 269, 319, 320):
        paint(tmp_path / f"val/n{number:08d}/x.JPEG", (6, 5))
    images = load_images("restricted_imagenet@4", "test", tmp_path)
    names = list(RESTRICTED_IMAGENET)
    assert [names[n] for n in images.labels] == ["frog", "frog", "turtle", "dog", "dog", "insect"]
    assert (images.num_classes, images.image_shape) == (9, (3, 4, 4))
    (tmp_path / "val/n00000999").rmdir()
    with pytest.raises(InputError, match="needs the 1000 class folders of ImageNet, has 999"):
        load_images("restricted_imagenet", "test", tmp_path)
    assert NAMED["restricted_imagenet"].side == 224


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("empty", "no images in its class folders"),
        ("broken", "cannot read .*x.png"),
        ("other class", "test has classes that train lacks: b"),
    ],
)
def test_folders_that_are_none_are_one_line(case, said, tmp_path):
    if case == "broken":
        (tmp_path / "a").mkdir()
        (tmp_path / "a/x.png").write_text("no image")
    if case == "other class":
        paint(tmp_path / "train/a/0.png")
        paint(tmp_path / "test/b/0.png")
    with pytest.raises(InputError, match=said) as caught:
        load_images(str(tmp_path), "test")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("dataset", "said"),
    [
        ("cifar10@32", "cifar10 has neither"),
        ("a.npz@2", "no such file"),
        ("no/such/folder@32", "no such file or folder: no/such/folder"),
        ("c.npy@6", "severities are 1..5, got 6"),
        ("tinyimagenet@0", "from 1 to 4096"),
        ("tinyimagenet@x", "from 1 to 4096"),
        ("cifar11", "did you mean 'cifar10'"),
    ],
)
def test_names_of_data_that_mean_nothing(dataset, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("c.npy", np.zeros((5, 4, 4, 3), np.uint8))
    with pytest.raises(InputError, match=said):
        load_images(dataset, "test")


def test_corrupted_images_of_a_severity(tmp_path):
    pixels = RNG.integers(0, 256, (20, 4, 4, 3)).astype(np.uint8)
    labels = np.tile(np.array([1, 0, 2, 1]), 5)
    np.save(tmp_path / "fog.npy", pixels)
    with pytest.raises(InputError, match="needs its labels beside it"):
        load_images(str(tmp_path / "fog.npy"), "test")
    np.save(tmp_path / "labels.npy", labels)
    path = str(tmp_path / "fog.npy")
    third = load_images(f"{path}@3", "test")
    assert np.array_equal(third.pixels.numpy(), pixels[8:12].transpose(0, 3, 1, 2))
    assert third.labels.tolist() == [1, 0, 2, 1]
    assert third.index.tolist() == [0, 1, 2, 3]
    assert (third.name, third.num_classes) == ("fog_3", 3)
    assert len(load_images(path, "test")) == 20
    assert splits_of(path) == splits_of(f"{path}@3") == ("test",)
    with pytest.raises(InputError, match="holds test images only"):
        load_images(path, "train")
    np.save(tmp_path / "labels.npy", labels[:7])
    with pytest.raises(InputError, match="7 labels for an array"):
        load_images(path, "test")
    np.save(tmp_path / "fog.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(InputError, match="damaged, or no array of numbers"):
        load_images(path, "test")


def test_medmnist_files_are_read_as_they_are(tmp_path):
    """Labels are a column there, and a third split stands beside the two that are used."""
    arrays = {}
    for part, count in (("train", 6), ("val", 3), ("test", 4)):
        arrays[f"{part}_images"] = RNG.integers(0, 256, (count, 28, 28)).astype(np.uint8)
        arrays[f"{part}_labels"] = (np.arange(count) % 3)[:, None].astype(np.uint8)
    np.savez(tmp_path / "pneumoniamnist.npz", **arrays)
    for part in ("train", "test"):
        images = load_images(str(tmp_path / "pneumoniamnist.npz"), part)
        assert torch.equal(images.pixels[:, 0], torch.from_numpy(arrays[f"{part}_images"]))
        assert images.labels.tolist() == arrays[f"{part}_labels"].ravel().tolist()


def test_a_run_on_a_folder_and_its_diagnostics(tmp_path, run_command):
    """The side stands in the recipe: what is loaded is what was trained on."""
    for part, count in (("train", 6), ("test", 3)):
        for number in range(2 * count):
            paint(tmp_path / f"pets/{part}/{'ab'[number % 2]}/{number}.png", (20, 12 + number))
    run_command("train_normal", "--dataset", "pets@8", "--model_type", "vit4", "--width", 1,
                "--epoch_num", 1, "--batch_size", 6, "--out_folder", "runs", "--model_name", "a",
                check=True)  # fmt: skip
    said = run_command("test_ensemble", "--model2load", "runs/a.ckpt", check=True).stdout
    assert "clean" in said
    run_command("scan_param", "--model2load", "runs/a.ckpt", "--subset_size", 4, "--vec1_scan",
                "step=1", check=True)  # fmt: skip


def test_the_val_images_of_a_set_are_a_part_of_their_own(tmp_path, run_command):
    """Sees val images counted as test or train, and a network chosen by others."""
    arrays = {}
    for part, count in (("train", 12), ("val", 5), ("test", 4)):
        arrays[f"{part}_images"] = RNG.integers(0, 256, (count, 28, 28)).astype(np.uint8)
        arrays[f"{part}_labels"] = np.arange(count) % 3
    np.savez(tmp_path / "m.npz", **arrays)
    val = load_images(str(tmp_path / "m.npz"), "val")
    assert np.array_equal(val.pixels[:, 0].numpy(), arrays["val_images"])
    options = ("--dataset", "m.npz", "--width", 1, "--epoch_num", 1, "--batch_size", 6,
               "--out_folder", "runs", "--model_name", "a")  # fmt: skip
    both = run_command("train_normal", *options, "--val_set", "True", "--val_fraction", 0.5)
    assert "--val_set and --val_fraction exclude each other" in both.stderr
    assert not (tmp_path / "runs").exists()
    run_command("train_normal", *options, "--val_set", "True", check=True)
    recipe = load_checkpoint(tmp_path / "runs/a_best.ckpt").recipe
    assert recipe["validation"] == {"dataset": "m.npz", "examples": 5, "sha256": val.sha256}
    assert recipe["data"]["examples"] == 12
    looked = run_command(
        "scan_param", "--model2load", "runs/a.ckpt", "--subset", "val", "--vec1_scan", "step=1"
    )
    assert looked.returncode == 0, looked.stderr
    with pytest.raises(InputError, match="mnist5k: has no val images"):
        load_images("mnist5k", "val")


def test_a_folder_of_three_splits(tmp_path):
    for part, color in (("train", (9, 0, 0)), ("val", (0, 9, 0)), ("test", (0, 0, 9))):
        for kind in "ab":
            paint(tmp_path / f"{part}/{kind}/0.png", (4, 4), color)
    for part, channel in (("train", 0), ("val", 1), ("test", 2)):
        images = load_images(str(tmp_path), part)
        assert images.pixels[:, channel].unique().tolist() == [9]


def test_classes_of_the_grocery_store_are_its_innermost_folders(tmp_path):
    root = tmp_path / "GroceryStoreDataset/dataset"
    for part in ("train", "val", "test"):
        for kind in ("Fruit/Banana", "Fruit/Apple/Red", "Fruit/Apple/Green", "Packages/Milk"):
            paint(root / part / kind / "x.jpg", (9, 7))
    images = load_images("grocerystore@6", "test", tmp_path)
    assert (images.num_classes, images.image_shape) == (4, (3, 6, 6))
    assert images.labels.tolist() == [0, 1, 2, 3]
    assert len(load_images("grocerystore@6", "val", tmp_path)) == 4


def dtd(root: Path) -> None:
    """Three classes of the Describable Textures, one image each in three splits."""
    (root / "labels").mkdir(parents=True)
    for number, part in enumerate(("train", "val", "test")):
        names = [f"{kind}/{kind}_{number}.jpg" for kind in ("banded", "dotted", "zigzagged")]
        (root / f"labels/{part}1.txt").write_text("\n".join(names) + "\n")
        for name in names:
            paint(root / "images" / name, (20 + number, 12), (40 * number, 0, 0))


def test_photographs_of_torchvision_are_read_from_their_folder_and_never_fetched(
    tmp_path, monkeypatch
):
    with pytest.raises(InputError, match=r"'dtd' is not in .* it is not downloaded: get it as"):
        load_images("dtd", "train", tmp_path)
    dtd(tmp_path / "dtd/dtd")
    sets = import_torchvision("datasets")
    monkeypatch.setattr(sets.DTD, "_download", lambda self: pytest.fail("downloads"))
    for number, part in enumerate(("train", "val", "test")):
        images = load_images("dtd@8", part, tmp_path)
        assert (images.num_classes, images.image_shape) == (47, (3, 8, 8))
        assert images.labels.tolist() == [0, 1, 2]
        assert (images.pixels[:, 0].float() - 40 * number).abs().max() <= 2  # JPEG
    assert load_images("dtd", "test", tmp_path).image_shape == (3, 224, 224)
    (tmp_path / "dtd/dtd/images/banded/banded_2.jpg").write_text("no image")
    with pytest.raises(InputError, match="dtd: cannot read image 0"):
        load_images("dtd", "test", tmp_path)
    monkeypatch.setattr(streaming, "memory", lambda: 16)
    with pytest.raises(InputError, match=r"dtd: its images take .* GiB, this machine has"):
        load_images("dtd", "train", tmp_path)


def test_sun397_is_split_once_and_for_all(tmp_path):
    names = [f"/a/abbey/sun_{n}.jpg" for n in range(10)]
    for name in names:
        paint(tmp_path / f"SUN397{name}", (5, 5))
    (tmp_path / "SUN397/ClassName.txt").write_text("/a/abbey\n")
    train, test = (load_images("sun397@4", part, tmp_path) for part in ("train", "test"))
    assert (len(train), len(test)) == (8, 2)
    assert sorted([*train.index.tolist(), *test.index.tolist()]) == list(range(10))
    with pytest.raises(InputError, match="sun397: has no val images"):
        load_images("sun397", "val", tmp_path)


def test_flowers_and_pets_have_a_registered_name():
    for name in ("flowers102", "oxfordiiitpet"):
        with pytest.raises(InputError, match=f"data set '{name}' is not in /nowhere"):
            load_images(name, "train", "/nowhere")
