"""Exports read back by other readers hold the numbers of the result."""

from __future__ import annotations

import csv
import io
import re
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import ridgeline as rl
from ridgeline.analysis.exports import EXPORTS
from tests.conftest import make_images


@pytest.fixture(scope="module")
def scans():
    images = make_images(6)
    size = images.pixels[0].numel()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(size, 4)).double()
    problem = rl.Problem(network, images, "name=fgsm,threshold=0.1")
    axes = {"x1": [-1.0, 0.0, 0.5], "x2": [0.0, 2.0], "x3": [0.0, 1.0]}
    return {
        count: rl.scan(problem, rl.random_plane(problem, count),
                       dict(list(axes.items())[:count]), budgets=[0.0, 0.1])
        for count in (1, 2, 3)
    }  # fmt: skip


@pytest.mark.parametrize("count", [1, 2, 3])
def test_csv_has_a_row_per_cell(scans, count, tmp_path):
    ds = scans[count]
    rows = list(csv.DictReader(io.StringIO(rl.export(ds, tmp_path / "a.csv").read_text())))
    assert len(rows) == ds["loss"].size
    for row in rows:
        place = {d: float(row[d]) for d in ds["loss"].dims}
        for name in ("loss", "loss_se", "accuracy"):
            assert float(row[name]) == float(ds[name].sel(place))


@pytest.mark.parametrize("count", [2, 3])
def test_vtk_grid_holds_every_point_and_value(scans, count, tmp_path):
    ds = scans[count]
    root = ET.fromstring(rl.export(ds, tmp_path / "a.vts").read_text())
    low = [int(n) for n in root.find("StructuredGrid").get("WholeExtent").split()]
    shape = [high + 1 for high in low[1::2]]
    assert shape == [3, 2, 2 if count == 3 else 1]
    arrays = {a.get("Name"): np.array(a.text.split(), float) for a in root.iter("DataArray")}
    points = arrays["points"].reshape(-1, 3)
    assert len(points) == np.prod(shape)
    for eps in (0.0, 0.1):
        for point, value in zip(points, arrays[f"loss_eps{eps:g}"], strict=True):
            place = dict(zip(("x1", "x2", "x3")[:count], point, strict=False))
            assert value == float(ds["loss"].sel(eps=eps, **place))
    if count == 2:  # the height of the sheet
        np.testing.assert_array_equal(points[:, 2], arrays["loss_eps0.1"])


@pytest.mark.parametrize("count", [1, 2])
def test_a_page_stands_by_itself(scans, count, tmp_path):
    text = rl.export(scans[count], tmp_path / "a.html").read_text()
    assert "Plotly.newPlot" in text
    assert not re.search(r"<script[^>]+src=", text) and not re.search(r"<link[^>]+href=", text)


def test_what_a_format_cannot_hold_is_refused(scans, tmp_path, monkeypatch):
    for count, name, said in (
        (1, "a.vts", "2 or 3 axes, this is over 1"),
        (3, "a.html", "1 or 2 axes, this is over 3"),
        (2, "a.xlsx", "unknown format"),
    ):
        with pytest.raises(rl.InputError, match=said):
            rl.export(scans[count], tmp_path / name)
    other = xr.Dataset({"a": ("x", [1.0])}, attrs={"kind": "hessian"})
    for suffix in EXPORTS.keys() - {".csv"}:
        with pytest.raises(rl.InputError, match="only scans"):
            rl.export(other, tmp_path / f"a{suffix}")
    with pytest.raises(rl.InputError, match="no array"):
        rl.export(xr.Dataset({"a": 1.0}), tmp_path / "a.csv")
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    with pytest.raises(rl.InputError, match="needs plotly"):
        rl.export(scans[2], tmp_path / "a.html")
    assert not list(tmp_path.iterdir())
