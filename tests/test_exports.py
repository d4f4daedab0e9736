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
from ridgeline.analysis.tables import LONGEST, tables
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
    for suffix in EXPORTS.keys() - {".csv", ".tex"}:
        with pytest.raises(rl.InputError, match="only scans"):
            rl.export(other, tmp_path / f"a{suffix}")
    with pytest.raises(rl.InputError, match="no array"):
        rl.export(xr.Dataset({"a": 1.0}), tmp_path / "a.csv")
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    with pytest.raises(rl.InputError, match="needs plotly"):
        rl.export(scans[2], tmp_path / "a.html")
    assert not list(tmp_path.iterdir())


def measured() -> xr.Dataset:
    """Two conditions with interval and error, three examples, a number; names that TeX obeys."""
    return xr.Dataset(
        {"accuracy": ("condition", [0.75, 0.5]), "accuracy_low": ("condition", [0.7, 0.25]),
         "accuracy_high": ("condition", [0.8, 0.625]), "loss": ("condition", [1.0, np.nan]),
         "loss_se": ("condition", [0.125, np.nan]), "correct": ("example", [True, False, True]),
         "mean_%": 2.0, "map": (("condition", "example"), np.arange(6.0).reshape(2, 3))},
        {"condition": ["clean", "inf a_b&c"], "eps": ("condition", [0.0, np.inf])},
    )  # fmt: skip


def test_every_number_is_in_one_table():
    found = tables(measured())
    assert {k: len(v) for k, v in found.items()} == {
        "condition": 2, "example": 3, "": 1, "condition,example": 6
    }  # fmt: skip
    assert found["condition,example"]["map"].tolist() == [0, 1, 2, 3, 4, 5]
    assert found["condition"]["eps"].tolist() == [0.0, np.inf]


def test_tables_over_named_dimensions(tmp_path):
    """The table that a command prints is seldom the largest of its result."""
    text = rl.export(measured(), tmp_path / "a.csv", ["condition"]).read_text()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [float(r["accuracy_high"]) for r in rows] == [0.8, 0.625]
    turned = rl.export(measured(), tmp_path / "b.csv", ["example", "condition"]).read_text()
    assert len(turned.splitlines()) == 7
    with pytest.raises(rl.InputError, match="unknown dimensions of a table, --over 'eps'"):
        rl.export(measured(), tmp_path / "c.csv", ["eps"])
    with pytest.raises(rl.InputError, match="only tables"):
        rl.export(measured(), tmp_path / "c.html", ["condition"])


def test_latex_tables_hold_errors_beside_values_and_escape_names(tmp_path):
    text = rl.export(measured(), tmp_path / "a.tex", ["condition"]).read_text()
    assert text.splitlines()[1:] == [
        r"\begin{tabular}{llll}", r"\toprule", r"condition & eps & accuracy & loss \\",
        r"\midrule", r"clean & 0 & 0.75 [0.7, 0.8] & 1 $\pm$ 0.12 \\",
        r"inf a\_b\&c & $\infty$ & 0.5 [0.25, 0.625] & -- \\", r"\bottomrule", r"\end{tabular}",
    ]  # fmt: skip
    every = rl.export(measured(), tmp_path / "b.tex").read_text()
    assert every.count(r"\begin{tabular}") == 4 and r"mean\_\%" in every
    long = xr.Dataset({"a": ("x", np.zeros(LONGEST + 1))})
    with pytest.raises(rl.InputError, match="write it as"):
        rl.export(long, tmp_path / "c.tex")
    assert not (tmp_path / "c.tex").exists()
