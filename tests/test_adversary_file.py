"""Perturbations written piece by piece: the same numbers, signs where exact, after a kill too."""

from __future__ import annotations

import errno
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

from ridgeline.analysis import adversaries as module
from ridgeline.analysis.adversaries import AdversaryFile, adversaries
from ridgeline.analysis.perturbations import adversarial_sets, similarity_matrix
from ridgeline.landscape.problem import Problem
from ridgeline.landscape.result import load_result, save_result, stamp
from ridgeline.landscape.resume import resumable
from ridgeline.train.attacks import FGSM, PGD
from ridgeline.train.data.examples import Images
from tests.conftest import Killed, make_images, make_mlp

PGD_ = PGD(eps=0.1, iterations=2)
RECIPE = {"data": {"dataset": "random"}}


def problems(batch_size=7, network=None):
    network = network or make_mlp().float()
    return {"train": Problem(network, make_images(23), batch_size=batch_size),
            "test": Problem(network, make_images(11, seed=1), batch_size=batch_size)}  # fmt: skip


def written(path, given, attack, draws=2):
    file = AdversaryFile(given, attack, draws)
    with resumable(path, RECIPE) as keep:
        save_result(stamp(file.rest(keep), "adversaries", RECIPE), path, file.write)
    return load_result(path, "adversaries")


@pytest.mark.parametrize("attack", [PGD_, PGD(eps=0.3, order=2, iterations=2), None])
def test_a_file_holds_to_the_last_bit_what_memory_would(attack, tmp_path):
    given = problems()
    whole = adversaries(given, attack)
    found = written(tmp_path / "a.nc", given, attack)
    xr.testing.assert_equal(found, whole)
    assert found["perturbation"].dtype == whole["perturbation"].dtype == np.float32
    assert found["perturbation"].dims == whole["perturbation"].dims
    assert found["perturbation"].attrs["units"] == "[0,1]"
    with h5py.File(tmp_path / "a.nc") as file:
        assert file["perturbation"].dtype == np.float32  # x + 0.1 - x is not 0.1
        assert file["perturbation"].chunks[1] == 7


def dyadic(count: int, seed: int) -> Images:
    """Pixels and budget are eighths, so that sums and differences are exact."""
    pixels = torch.randint(0, 9, (count, 1, 6, 6), generator=torch.Generator().manual_seed(seed))
    labels = torch.arange(count) % 4
    return Images(pixels.double() / 8, labels, torch.arange(count), "eighths", 4)


def test_signs_are_written_where_nothing_is_lost(tmp_path):
    """At the ends of [0,1] an entry is clipped to 0: -eps, 0 and eps all occur."""
    network, attack = make_mlp().float(), FGSM(eps=0.125)
    given = {n: Problem(network, dyadic(13, s), batch_size=5)
             for s, n in enumerate(("train", "test"))}  # fmt: skip
    whole = adversaries(given, attack)
    assert set(np.unique(whole["perturbation"])) == {-0.125, 0.0, 0.125}
    found = written(tmp_path / "a.nc", given, attack)
    xr.testing.assert_equal(found, whole)
    assert found["perturbation"].dtype == np.float32
    with h5py.File(tmp_path / "a.nc") as file:
        assert file["perturbation"].dtype == np.int8
        assert file["perturbation"].attrs["scale_factor"] == np.float32(0.125)
    # entries that are clipped half-way make floats of all of them
    images = given["test"].images
    pixels = images.pixels.clone()
    pixels[3] = 1 / 16
    moved = given | {"test": Problem(network, replace(images, pixels=pixels), batch_size=5)}
    step = PGD(eps=0.125, iterations=1, step_size=1.0, random_start=False, keep_best=False)
    assert (adversaries(moved, step)["perturbation"].values == -1 / 16).any()
    xr.testing.assert_equal(written(tmp_path / "b.nc", moved, step), adversaries(moved, step))
    with h5py.File(tmp_path / "b.nc") as file:
        assert file["perturbation"].dtype == np.float32


def test_similarities_read_both_kinds_of_file(tmp_path, monkeypatch):
    network = make_mlp().float()
    given = {n: Problem(network, dyadic(13, s)) for s, n in enumerate(("train", "test"))}
    attacks = {"signs": FGSM(eps=0.125), "floats": PGD_}
    memory = {name: adversaries(given, attack) for name, attack in sorted(attacks.items())}
    for name, attack in attacks.items():
        written(tmp_path / f"{name}.nc", given, attack)
    expected = similarity_matrix(memory, ("train", "test"))
    for large in (2**24, 0):  # read whole, and piece by piece
        monkeypatch.setattr("ridgeline.analysis.perturbations._LARGE", large)
        sets = adversarial_sets(tmp_path)
        xr.testing.assert_equal(similarity_matrix(sets, ("train", "test"), batch_size=5), expected)


def test_a_kill_repeats_one_piece_and_changes_no_number(tmp_path):
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.passes, self.last = make_mlp().float(), 0, None

        def forward(self, x):
            self.passes += 1
            if self.passes == self.last:
                raise Killed
            return self.net(x)

    whole = written(tmp_path / "whole.nc", problems(), PGD_)
    given = problems(network=Counting())
    nets = {id(p.network): p.network for p in given.values()}.values()
    passes = max(net.passes for net in nets)
    for net in nets:
        net.last = net.passes + 9
    with pytest.raises(Killed):
        written(tmp_path / "cut.nc", given, PGD_)
    assert not (tmp_path / "cut.nc").exists()
    (parts,) = tmp_path.glob(".cut.nc.*.parts")
    held = parts.stat().st_size
    assert held > 0 and passes < 9
    again = problems()
    found = written(tmp_path / "cut.nc", again, PGD_)
    xr.testing.assert_equal(found, whole)
    assert not list(tmp_path.glob(".cut.nc.*"))


def test_no_more_than_a_piece_is_held(tmp_path, monkeypatch):
    """Pieces are let go of before the next but one is made."""
    import weakref

    alive: set[int] = set()
    most = 0
    plain = module._Piece

    def watched(draw, place, perturbation, fooled, clean):
        nonlocal most
        key = (draw, place, id(perturbation))
        alive.add(key)
        weakref.finalize(perturbation, alive.discard, key)
        most = max(most, len(alive))
        return plain(draw, place, perturbation, fooled, clean)

    monkeypatch.setattr(module, "_Piece", watched)
    written(tmp_path / "a.nc", problems(batch_size=2), PGD_)
    assert most <= 2
    most = 0
    adversaries(problems(batch_size=2), PGD_)
    assert most > 20  # the same watch sees what memory holds


def test_a_full_disk_is_one_line_and_the_images_are_kept(tmp_path, monkeypatch):
    """Sees HDF5 begin to write where there is no room, and end the process."""
    asked = []

    def full(descriptor, offset, size):
        asked.append(size)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full, raising=False)
    problem = Problem(make_mlp(), make_images(), FGSM(eps=0.1))
    path = tmp_path / "a.nc"
    with (
        pytest.raises(OSError, match=r"a\.nc cannot be written .*No space left"),
        resumable(path, {}) as keep,
    ):
        file = AdversaryFile({"train": problem}, problem.attack, 2)
        rest = file.rest(keep)
        save_result(stamp(rest, "adversaries", {}), path, file.write)
    assert asked == [2 * 23 * 36 * 8]
    assert [p.suffix for p in tmp_path.iterdir()] == [".parts"]
