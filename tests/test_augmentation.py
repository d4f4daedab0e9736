"""Augmentation: bit for bit numpy's streams, per example, by the set's name and shape."""

from __future__ import annotations

import importlib
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ridgeline.models.errors import InputError
from ridgeline.train.data.augmentation import (
    CROP_AND_FLIP,
    Augmentation,
    Crop,
    augmentation_of,
    cut_out,
    rotated,
)
from ridgeline.train.data.counters import below, fractions, halves, philox_words
from ridgeline.train.data.examples import Batch, Images
from ridgeline.train.data.noise import Noise, Purpose, stream
from ridgeline.train.methods import METHODS

PLACES = torch.tensor([0, 1, 7, 49_999, 2**40])
ALL = Augmentation(crop=2, border="reflect", flip=True, rotate=30.0, cutout=3)


def batch_of(index: torch.Tensor, size: int = 9) -> Batch:
    x = torch.rand(len(index), 3, size, size - 1, generator=torch.Generator().manual_seed(0))
    return Batch(x, torch.zeros(len(index)).long(), index)


def named(name: str, side: int = 32, channels: int = 3) -> Images:
    pixels = torch.zeros(2, channels, side, side, dtype=torch.uint8)
    return Images(pixels, torch.tensor([0, 1]), torch.arange(2), name, 2)


@pytest.mark.parametrize("seed", [0, 7, 2**63 + 5, 2**64 - 1])
def test_words_are_those_of_numpys_philox(seed):
    words = philox_words((seed, int(Purpose.CROP)), (3, PLACES, 2), 5)
    for row, place in zip(words, PLACES.tolist(), strict=True):
        raw = stream(seed, Purpose.CROP, 3, place, 2).bit_generator.random_raw(20)
        assert np.array_equal(row.numpy(), np.asarray(raw, np.uint64).view(np.int64))


def test_fractions_and_whole_numbers_are_those_of_numpys_generator():
    index = torch.arange(2000)
    numbers = halves(philox_words((4, int(Purpose.CROP)), (1, index, 0), 1))
    found, again = below(numbers[:, :3], torch.tensor([9, 9, 2]))
    assert not again.any()
    own = [stream(4, Purpose.CROP, 1, i) for i in index.tolist()]
    assert found.tolist() == [g.integers((9, 9, 2)).tolist() for g in own]
    own = [stream(4, Purpose.CROP, 1, i) for i in index.tolist()]
    assert np.array_equal(fractions(numbers), [g.random(8, np.float32) for g in own])


def test_a_number_that_numpy_would_draw_again_is_named():
    """Lemire's rejection: for a limit of 9 the products with a low half below 4."""
    _, again = below(torch.tensor([0, 1, 2**32 - 1]), torch.tensor([9, 9, 9]))
    assert again.tolist() == [True, False, False]
    _, again = below(torch.tensor([0, 5]), torch.tensor([2, 2]))
    assert not again.any()


@pytest.mark.parametrize("size", [1, 7, 8, 13])
def test_attack_noise_has_the_same_bits_by_tensor_operations(size):
    noise = Noise(11, PLACES, epoch=2, purpose=Purpose.TRAINING_ATTACK)
    x = torch.zeros(len(PLACES), 1, 1, size)
    expected = noise.uniform(x, 3)
    own = [stream(11, Purpose.TRAINING_ATTACK, 2, i, 3) for i in PLACES.tolist()]
    rows = torch.stack([torch.from_numpy(g.random(size, np.float32)) for g in own])
    assert torch.equal(expected, (2 * rows - 1).view_as(x))
    words = philox_words((11, int(Purpose.TRAINING_ATTACK)), (2, PLACES, 3), -(-size // 8))
    assert torch.equal(expected.flatten(1), 2 * fractions(halves(words))[:, :size] - 1)


def test_every_part_depends_on_seed_epoch_and_example_alone():
    """Sees a draw shared by a batch, or one that changes with the batch's split or order."""
    batch = batch_of(torch.tensor([4, 900, 17, 3, 55]))
    whole = ALL(batch, 5, 2, 0.5).x
    order = torch.tensor([3, 0, 4, 1, 2])
    for places in (*order.split(2), torch.tensor([1])):
        part = Batch(*(t[places] for t in batch))
        assert torch.equal(ALL(part, 5, 2, 0.5).x, whole[places])
    assert not torch.equal(ALL(batch, 5, 3, 0.5).x, whole)
    assert not torch.equal(ALL(batch, 6, 2, 0.5).x, whole)


def test_draws_are_uniform_and_uncorrelated():
    """20,000 examples: every offset within 4.5 standard errors, correlations within 4.5 too."""
    count = 20_000
    crop = Crop.draw(torch.arange(count), 0, 0)
    for draws, kinds in ((crop.top, 9), (crop.left, 9), (crop.flip, 2)):
        seen = torch.bincount(draws, minlength=kinds).double() / count
        error = math.sqrt((1 / kinds) * (1 - 1 / kinds) / count)
        assert (seen - 1 / kinds).abs().max() < 4.5 * error
    later, other = Crop.draw(torch.arange(count), 0, 1), Crop.draw(torch.arange(count), 1, 0)
    table = np.corrcoef(
        torch.stack([
            *crop[:3], *later[:3], *other[:3], *(t.roll(1) for t in crop[:3]),
        ]).numpy()
    )  # fmt: skip
    assert np.abs(table - np.eye(12)).max() < 4.5 / math.sqrt(count)


def test_reflected_borders_are_those_of_the_image():
    batch = batch_of(torch.arange(40))
    found = Augmentation(crop=2, border="reflect")(batch, 0, 0).x
    padded = F.pad(batch.x, (2,) * 4, mode="reflect")
    crop = Crop.draw(batch.index, 0, 0, padding=2)
    for n, (top, left) in enumerate(zip(crop.top, crop.left, strict=True)):
        assert torch.equal(found[n], padded[n, :, top : top + 9, left : left + 8])
    assert set(crop.top.tolist()) == set(range(5))
    assert bool((found > 0).all())  # no black border


@pytest.mark.parametrize(("degrees", "turns"), [(0, 0), (90, 1), (180, 2), (-90, 3)])
def test_rotation_by_right_angles_is_exact(degrees, turns):
    x = torch.rand(2, 3, 7, 7)
    turned = rotated(x, torch.full((2,), float(degrees)))
    assert torch.equal(turned, torch.rot90(x, turns, (2, 3)))


def test_rotation_leaves_the_middle_and_blackens_the_corners():
    x = torch.ones(1, 1, 11, 11)
    turned = rotated(x, torch.tensor([45.0]))[0, 0]
    assert turned[5, 5] == 1
    assert turned[0, 0] == turned[-1, -1] == 0
    angles = 15 * (2 * fractions(halves(
        philox_words((0, int(Purpose.ROTATION)), (0, torch.arange(5000), 0), 1)
    )[:, 0]) - 1)  # fmt: skip
    assert angles.abs().max() <= 15
    assert abs(float(angles.mean())) < 4.5 * 15 / math.sqrt(3 * 5000)


def test_cutout_hides_a_square_that_the_border_may_cut():
    hidden = cut_out(torch.ones(3, 2, 6, 5), torch.tensor([[3, 2], [0, 0], [5, 4]]), 3)[:, 0] == 0
    assert hidden.sum((1, 2)).tolist() == [9, 4, 4]
    assert hidden[0, 2:5, 1:4].all()
    assert hidden[1, :2, :2].all()
    assert hidden[2, 4:, 3:].all()


@pytest.mark.parametrize(
    "text", ["cutout=8", "cutout=50", "crop=8", "crop=9,border=reflect", "True"]
)
def test_augmentation_that_may_leave_nothing_to_see_is_refused(text):
    """Sees windows of padding alone, and squares that hide whole images."""
    side = 4 if text == "True" else 8
    images = Images(torch.rand(4, 3, side, side + 1), torch.arange(4), torch.arange(4), "x", 4)
    with pytest.raises(InputError, match=f"needs images larger than that, these are {side}x"):
        augmentation_of(text, images)
    assert augmentation_of("crop=3,cutout=3", images) == Augmentation(crop=3, cutout=3)


@pytest.mark.parametrize(
    ("name", "side", "crop"),
    [("cifar10", 32, 4), ("CIFAR-10_train", 32, 4), ("cifar100", 32, 4), ("cifar10", 64, 8),
     ("tiny-imagenet-200", 64, 8), ("flowers102", 224, 28), ("restricted_imagenet", 224, 28)],
)  # fmt: skip
def test_photographs_are_cropped_by_an_eighth_and_flipped(name, side, crop):
    found = augmentation_of(None, named(name, side))
    assert found == Augmentation(crop=crop, flip=True)
    assert str(found) == f"crop={crop},flip=1"


@pytest.mark.parametrize("name", ["mnist5k", "svhn", "mine", "cifar101", "cifar1000", "tiny"])
def test_digits_and_unknown_sets_stay_as_they_are(name):
    assert augmentation_of(None, named(name)) is None
    assert augmentation_of("False", named("cifar10")) is None
    assert augmentation_of("True", named(name)) == CROP_AND_FLIP


def test_a_method_has_its_papers_augmentation():
    fomo, cure = (METHODS[n].augmentations for n in ("fomo", "cure"))
    assert augmentation_of(None, named("cifar10"), fomo).border == "reflect"
    assert augmentation_of(None, named("cifar100"), fomo).rotate == 15
    assert augmentation_of(None, named("svhn"), fomo) is None
    assert augmentation_of(None, named("svhn"), cure) == CROP_AND_FLIP
    assert augmentation_of(None, named("svhn"), METHODS["adversarial"].augmentations) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("crop", "cannot read 'crop'"),
        ("crop=-1", "crop must be a whole number in 0..256, got -1"),
        ("crop=1.5", "crop must be a whole number in 0..256, got 1.5"),
        ("rotate=nan", "rotate must be a number, got 'nan'"),
        ("rotate=200", "rotate must be a number in 0..180"),
        ("flip=2", "flip must be 0 or 1, got '2'"),
        ("border=mirror,crop=4", "unknown --augment border 'mirror'; allowed: constant, reflect"),
        ("border=reflect", "border has no effect without crop=PIXELS"),
        ("pad=4", "unknown key in --augment 'pad'"),
        ("crop=40,border=reflect", "needs images larger than that, these are 32x32"),
    ],
)
def test_a_wrong_augmentation_is_refused_in_one_line(text, said):
    with pytest.raises(InputError) as refused:
        augmentation_of(text, named("cifar10"))
    assert said in str(refused.value)


def test_a_spec_is_what_it_prints():
    text = "crop=4,border=reflect,flip=1,rotate=15.0,cutout=8"
    assert str(augmentation_of(text, named("x"))) == text


@pytest.mark.parametrize("file", ["cifar10.npz", "mine.npz"])
def test_augmentation_follows_the_data_set_and_not_the_spelling_of_its_path(
    file, tmp_path, monkeypatch
):
    """Sees cifar10.npz cropped and flipped, and ./cifar10.npz not."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    parts = {f"{p}_images": rng.integers(0, 256, (4, 32, 32, 3), np.uint8) for p in TRAIN_TEST}
    np.savez(tmp_path / file, **parts, **{f"{p}_labels": np.arange(4) % 2 for p in TRAIN_TEST})
    options, trainer = (
        importlib.import_module(f"ridgeline.run.shared.{n}") for n in ("options", "training")
    )
    expected = CROP_AND_FLIP if file == "cifar10.npz" else None
    for path in (file, f"./{file}", str(tmp_path / file)):
        assert trainer.trainer_of(options.Training(), path).setup.augment == expected
        asked = options.Training(augment="True")
        assert trainer.trainer_of(asked, path).setup.augment == CROP_AND_FLIP


TRAIN_TEST = ("train", "test")


def test_a_spec_that_cannot_be_read_is_told_its_own_form():
    with pytest.raises(InputError, match=r"write True, False, or crop=PIXELS"):
        augmentation_of(
            "crop", Images(torch.rand(4, 3, 8, 8), torch.arange(4), torch.arange(4), "x", 4)
        )
