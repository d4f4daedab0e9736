"""The limits that docs/limits.md lists. Each is a test that must fail: one that passes is news."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import nn

import ridgeline as rl
from tests.conftest import ROOT, make_images, make_mlp

limit = pytest.mark.xfail(strict=True, raises=AssertionError)


class Attention(nn.Module):
    """One block of attention over the rows of an image."""

    def __init__(self):
        super().__init__()
        self.block = nn.TransformerEncoderLayer(6, 2, 8, 0.0, batch_first=True)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        """Logits (N, 4) of images (N, 1, 6, 6)."""
        return self.head(self.block(x[:, 0]).mean(1))


def accepted(call) -> bool:
    """False where a call is refused as wrong input."""
    try:
        call()
    except rl.InputError:
        return False
    return True


@limit
def test_curvature_at_a_point_sees_that_a_network_is_wrong_with_certainty():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 4)).double()
    x = next(make_images(12).batches(12, dtype=torch.float64)).x
    wrong = (network(x).argmax(1) + 1) % 4
    doubtful = rl.Problem(network, (x, wrong))
    loss, curvature = doubtful.evaluate().loss, float(rl.top_eigenpairs(doubtful)["eigenvalue"][0])
    with torch.no_grad():
        network[1].weight *= 1e4
        network[1].bias *= 1e4
    certain = rl.Problem(network, (x, wrong))
    if certain.evaluate().loss < 100 * loss:
        pytest.fail("the loss has not risen", pytrace=False)
    assert float(rl.top_eigenpairs(certain)["eigenvalue"][0]) > curvature


@limit
def test_spectra_of_layers_make_up_the_spectrum():
    problem = rl.Problem(make_mlp(), make_images(12))
    whole = rl.top_eigenpairs(problem, k=1)["eigenvalue"].max()
    layers = rl.top_eigenpairs(problem, k=1, blocks="each")["eigenvalue"]
    np.testing.assert_allclose(float(layers.max()), float(whole), rtol=1e-3)


@limit
def test_units_of_attention_are_aligned():
    networks = [Attention(), Attention()]
    problem = rl.Problem(networks[0], make_images(12))
    assert accepted(lambda: rl.align(problem, networks[1]))


@limit
def test_a_network_whose_logits_depend_on_the_batch_is_measured():
    class InBatch(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = make_mlp().float()

        def forward(self, x):
            z = self.body(x)
            return z - z.mean(0)

    assert accepted(lambda: rl.Problem(InBatch(), make_images(12)))


@limit
def test_every_command_shares_its_work_between_processes(monkeypatch, run_command):
    monkeypatch.setenv("WORLD_SIZE", "2")
    done = run_command("calc_cka", "--model2load", "a.ckpt")
    assert "does not share its work" not in done.stderr


def test_every_limit_of_the_page_has_its_test_and_every_test_its_limit():
    named = re.findall(r"`(test_\w+)`", (ROOT / "docs/limits.md").read_text())
    here = [name for name, test in globals().items() if getattr(test, "pytestmark", None)]
    assert sorted(named) == sorted(here)
