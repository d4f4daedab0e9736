"""Rankings and pairs of many networks against cases with known answers."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.stats import kendalltau

from ridgeline.analysis.sharpness.pairs import dendrogram_of, pairs
from ridgeline.analysis.sharpness.ranking import ranking
from ridgeline.landscape.problem import Problem
from ridgeline.landscape.result import stamp
from ridgeline.landscape.weights.point import combine
from ridgeline.models import InputError
from tests.test_sharpness import images, mlp


def result(value: float, gap: float, recipe: dict | None = None) -> xr.Dataset:
    """A sharpness result with one measure that follows `value`, and one against it."""
    cells = np.array([[[value, -(value**3), math.nan]]])
    ds = xr.Dataset(
        {"value": (("loss", "logits", "measure"), cells), "gap": ("loss", [gap]),
         "gap_se": ("loss", [0.1])},
        {"loss": ["robust"], "logits": ["plain"], "measure": ["up", "down", "none"]},
    )  # fmt: skip
    return stamp(ds, "sharpness", recipe or {"attack": "PGD"})


def test_tau_of_measures_that_rank_alike_and_against():
    results = {str(n): result(float(n), 2.0 * n) for n in range(6)}
    ds = ranking(results, draws=200).sel(loss="robust", logits="plain")
    assert ds["tau"].values[:2] == pytest.approx([1, -1])
    assert ds["tau_low"].values[0] == pytest.approx(1)
    assert np.isnan(ds["tau"].values[2])
    tied = {str(n): result(v, g) for n, (v, g) in enumerate([(1, 2), (1, 1), (2, 3), (3, 3)])}
    found = ranking(tied, draws=100)["tau"].sel(measure="up").item()
    assert found == pytest.approx(kendalltau([1, 1, 2, 3], [2, 1, 3, 3]).statistic)
    mixed = {"a": result(1, 1), "b": result(2, 3), "c": result(3, 2), "d": result(4, 4)}
    ds = ranking(mixed, draws=500).sel(loss="robust", logits="plain", measure="up")
    assert float(ds["tau"]) == pytest.approx(4 / 6)  # one of six pairs is turned round
    assert float(ds["tau_low"]) < 4 / 6 < float(ds["tau_high"])


def test_ranking_refuses_what_cannot_be_compared():
    alike = {str(n): result(n, n) for n in range(3)}
    with pytest.raises(InputError, match="3 or more"):
        ranking(dict(list(alike.items())[:2]))
    with pytest.raises(InputError, match="was measured unlike"):
        ranking({**alike, "x": result(1, 1, {"attack": "FGSM"})})
    with pytest.raises(InputError, match="holds no clean gap"):
        ranking(alike, gap="clean")


def test_pairs_of_a_network_its_copy_and_its_mirror():
    network = mlp()
    mirror = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in mirror[5].parameters():
            parameter.neg_()
    attack = "name=pgd,eps=0.05,iterations=3,random_start=False"
    data = images()
    networks = {"a": network, "b": copy.deepcopy(network), "m": mirror}
    problems = {name: Problem(net, data, attack) for name, net in networks.items()}
    ds = pairs(problems, places=3, minibatch=12)
    same = ds.sel(network_a="a", network_b="b")
    assert float(same["distance"]) == 0 and float(same["barrier"]) == 0
    assert float(same["cosine"]) == pytest.approx(1) and float(same["cka"]) == pytest.approx(1)
    last = torch.cat([p.flatten() for p in network[5].parameters()])
    other = ds.sel(network_a="m", network_b="a")
    assert float(other["distance"]) == pytest.approx(2 * last.norm().item())
    a, m = problems["a"], problems["m"]
    ends = a.evaluate().loss, m.evaluate().loss
    rises = [a.evaluate(combine((1 - t, t), (a.origin, m.origin))).loss
             - (1 - t) * ends[0] - t * ends[1] for t in (0.25, 0.5, 0.75)]  # fmt: skip
    assert float(other["barrier"]) == pytest.approx(max(0, *rises))
    assert (ds["distance"].values == ds["distance"].values.T).all()


def test_pairs_of_different_architectures_share_no_weights():
    torch.manual_seed(1)
    other = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3)).double()
    ds = pairs({"a": Problem(mlp(), images()), "b": Problem(other, images())})
    row = ds.sel(network_a="a", network_b="b")
    assert all(math.isnan(float(row[n])) for n in ("distance", "barrier", "cka", "cosine"))
    with pytest.raises(InputError, match="2 or more"):
        pairs({"a": Problem(mlp(), images())})


def test_dendrogram_joins_the_nearest_first():
    far = np.array([[0, 1, 4], [1, 0, 5], [4, 5, 0]], dtype=float)
    tree = dendrogram_of(far, alike=False)
    assert tree[0, :3].tolist() == [0, 1, 1] and tree[1, 2] == 4.5
    assert dendrogram_of(1 - far, alike=True) == pytest.approx(tree)
    with pytest.raises(InputError, match="every pair"):
        dendrogram_of(np.full((3, 3), np.nan), alike=False)
