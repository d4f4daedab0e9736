"""Means, errors, intervals and the division of frequencies against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ridgeline.analysis.frequency.fourier import above_half_nyquist
from ridgeline.analysis.statistics import jackknife, wilson
from ridgeline.models.dct import high_frequencies
from ridgeline.train.statistics import error_of_share, mean_and_error, mean_and_interval


@pytest.mark.parametrize("kind", [np.array, lambda v: torch.tensor(v, dtype=torch.float64)])
def test_mean_and_standard_error(kind):
    # squares about the mean 3: 4 + 1 + 0 + 1 + 4 = 10, s^2 = 10 / 4, error s / sqrt(5)
    mean, error = mean_and_error(kind([1.0, 2.0, 3.0, 4.0, 5.0]))
    assert mean == 3
    assert error == pytest.approx(math.sqrt(0.5), rel=1e-15)
    assert type(mean) is type(error) is float
    assert mean_and_error(kind([7.0]))[0] == 7
    assert math.isnan(mean_and_error(kind([7.0]))[1])
    assert all(map(math.isnan, mean_and_error(kind([]))))
    assert all(map(math.isnan, mean_and_error(kind([1.0, math.nan, 2.0]))))


def test_the_t_interval():
    # for two samples a, b: 12.7062 |a - b| / 2; the table's value for 4 degrees is 2.7764
    mean, half = mean_and_interval(np.array([[1.0, 0.0], [2.0, 0.0]]))
    assert mean.tolist() == [1.5, 0]
    assert half == pytest.approx([12.7062047 / 2, 0])
    _, half = mean_and_interval(np.arange(5.0))
    assert half == pytest.approx(2.7764451 * math.sqrt(0.5))
    mean, half = mean_and_interval(np.array([[1.0, 2.0]]))
    assert mean.tolist() == [1, 2]
    assert np.isnan(half).all()
    assert np.isnan(mean_and_interval(np.array([0.5, np.nan, 0.7]))[0])
    assert np.isnan(mean_and_interval(np.array([np.nan]))[0])


def test_the_error_of_a_share():
    assert error_of_share(np.array([0.0, 0.2, 1.0]), 16) == pytest.approx([0, 0.1, 0])
    # that of 0 and 1 as samples, but for n - 1
    hits = np.array([1.0] * 3 + [0.0] * 7)
    assert error_of_share(0.3, 10) == pytest.approx(mean_and_error(hits)[1] * math.sqrt(9 / 10))


def test_the_jackknife_of_a_mean_is_its_standard_error():
    samples = np.random.default_rng(0).normal(size=(7, 2))
    left_out = (samples.sum(0) - samples) / 6
    assert jackknife(left_out) == pytest.approx([mean_and_error(c)[1] for c in samples.T])
    assert np.isnan(jackknife(left_out[:1])).all()
    assert jackknife(left_out[:1]).shape == (2,)


def test_the_wilson_interval():
    z, p, n = 1.959963985, 0.9, 20
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert wilson(18, 20) == pytest.approx((middle - half, middle + half))
    assert wilson(0, 5)[0] == 0
    assert wilson(5, 5)[1] == 1


@pytest.mark.parametrize("size", [2, 3, 4, 5, 7])
def test_high_frequencies_of_kernels(size):
    expected = [[max(i, j) > size / 2 for j in range(size)] for i in range(size)]
    assert high_frequencies(size).tolist() == expected
    assert high_frequencies(4).sum() == 7


@pytest.mark.parametrize("shape", [(8, 8), (28, 28), (5, 12)])
def test_high_frequencies_of_images(shape):
    """Bin k of n holds |frequency| min(k, n - k) / n; Nyquist is 1/2."""
    place = [[4 * min(k, n - k) > n for k in range(n)] for n in shape]
    expected = [[a or b for b in place[1]] for a in place[0]]
    assert above_half_nyquist(*shape).tolist() == expected
