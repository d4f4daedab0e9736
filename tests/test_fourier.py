"""Plane waves, filters and the sensitivity of networks whose frequencies are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from ridgeline.analysis.frequency.fourier import (
    band,
    distinct_cells,
    fourier_sensitivity,
    pass_curves,
    plane_wave,
)
from ridgeline.landscape.problem import Problem
from tests.conftest import make_images


@pytest.mark.parametrize("size", [(8, 8), (6, 9)])
def test_plane_waves_are_real_unit_and_live_on_their_bin(size):
    height, width = size
    for row in range(height):
        for column in range(width):
            wave = plane_wave(height, width, row, column)
            assert wave.norm().item() == pytest.approx(1)
            power = torch.fft.fftshift(torch.fft.fft2(wave)).abs()
            mirror = (2 * (height // 2) - row) % height, (2 * (width // 2) - column) % width
            expected = {(row, column), mirror}
            assert {tuple(p) for p in (power > 1e-9).nonzero().tolist()} == expected


def test_distinct_frequencies_of_a_cifar_image():
    assert distinct_cells((3, 32, 32)) == 514


class Projection(nn.Module):
    """Class 1 where the image contains more of a pattern than its mean image does."""

    def __init__(self, pattern: torch.Tensor):
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))
        self.register_buffer("pattern", pattern)

    def forward(self, x):
        score = self.scale * (x * self.pattern).sum((1, 2, 3))
        return torch.stack([-score, score], dim=1)


def test_a_network_of_one_frequency_errs_at_that_frequency_alone():
    """Half of the random signs push each example the wrong way."""
    wave = plane_wave(8, 8, 3, 2)  # of a pair of mirror images the upper one is measured
    images = make_images(200, (1, 8, 8), classes=2)
    images = replace(images, pixels=0.4 + 0.2 * images.pixels)
    problem = Problem(Projection(wave), images, batch_size=33)
    guess = problem.predict(problem.origin)(images.pixels).argmax(1)
    problem = problem.on(replace(images, labels=guess))
    ds = fourier_sensitivity(problem, 2.0)
    assert float(ds["clean_error"]) == 0
    error = ds["error"].values
    hot = {tuple(p) for p in np.argwhere(error > 0)}
    assert hot == {(5, 6), (3, 2)}
    assert 0.35 < error[5, 6] < 0.65
    assert error[5, 6] == error[3, 2]
    again = fourier_sensitivity(replace(problem, batch_size=200), 2.0)
    np.testing.assert_array_equal(again["error"], error)


def test_low_and_high_pass_keep_what_they_say():
    for k in range(1, 8):
        x = 0.5 + plane_wave(16, 16, 8 + k, 8)[None, None]
        for share in (0.2, 0.5, 0.8):
            low = band(x, share)
            kept = k <= int(share * 8)
            torch.testing.assert_close(low, x if kept else torch.full_like(x, 0.5))
            through = k > int((1 - share) * 8)
            high = band(x, share, high=True)
            expected = (x - 0.5).clamp(0, 1) if through else torch.zeros_like(x)
            torch.testing.assert_close(high, expected, atol=1e-12, rtol=0)


def test_pass_curves_find_where_a_network_listens():
    """A network of frequency 3 of 8 is right from the cutoff on that lets it through."""
    images = make_images(300, (1, 16, 16), classes=2)
    problem = Problem(Projection(plane_wave(16, 16, 5, 8)), images)
    guess = problem.predict(problem.origin)(images.pixels).argmax(1)
    problem = problem.on(replace(images, labels=guess))
    ds = pass_curves(problem, (0.1, 0.3, 0.4, 0.6, 0.9))
    low = ds["pass_accuracy"].sel(filter="low").values
    assert (low[2:] > 0.97).all()
    assert (low[:2] < 0.75).all()
    assert float(ds["clean_accuracy"]) == 1
    assert 0 < float(ds["half_low"]) <= 0.4


def test_the_command_and_its_figure(run_command, tmp_path):
    run_command("train_normal", "--model_name", "a", "--epoch_num", "0", "--width", "1",
                "--out_folder", "runs", check=True)  # fmt: skip
    done = run_command("calc_fourier", "--model2load", "runs/a.ckpt", "--subset_size", "4",
                       "--cutoffs", "0.3,0.6", "--out_file", "f.nc", check=True)  # fmt: skip
    assert "low-pass" in done.stdout
    run_command("plot", "--result", "f.nc", check=True)
    assert (tmp_path / "f.png").stat().st_size > 2000
    for flag, value in (("--strength", "0"), ("--cutoffs", "0.6,0.3"), ("--cutoffs", "0,1")):
        refused = run_command("calc_fourier", "--model2load", "runs/a.ckpt", flag, value)
        assert refused.returncode == 2
        assert flag in refused.stderr
