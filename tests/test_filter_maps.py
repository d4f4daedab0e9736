"""Maps of mean |DCT|, radial profiles and the penalty's trace against exact cases."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import xarray as xr

from ridgeline.analysis.figures import draw, draw_metrics
from ridgeline.analysis.figures.magnitudes import _shares
from ridgeline.analysis.frequency.filters import filter_spectrum
from ridgeline.analysis.frequency.profiles import (
    network_magnitudes,
    radial_profile,
    relative_magnitudes,
)
from ridgeline.landscape.result import save_result, stamp
from ridgeline.models import InputError
from ridgeline.models.dct import DctConv2d, dct_basis, synthesise
from ridgeline.train.methods.frequency import norms


def kernels(table: np.ndarray, slices: int) -> torch.Tensor:
    """Kernels (slices, 1, K, K) whose orthonormal |d_ij| are `table`, with alternating signs."""
    table = torch.from_numpy(table)
    signs = 1 - 2 * (torch.arange(slices) % 2)
    c = table / dct_basis(len(table)).square().sum((2, 3)).sqrt()
    return synthesise(signs[:, None, None] * c)[:, None]


FLAT, TILTED = np.ones((3, 3)), np.arange(9.0).reshape(3, 3)
TENSORS = {"a.weight": kernels(FLAT, 6), "b.weight": kernels(TILTED, 2),
           "c.weight": kernels(np.eye(5), 1), "d.weight": kernels(7 * np.eye(5), 1)}  # fmt: skip


def spectrum(**sizes: int) -> xr.Dataset:
    """The spectrum of TENSORS, entered by maps of the given sizes."""
    named = {f"{layer}.weight": size for layer, size in sizes.items()}
    return filter_spectrum(TENSORS, sizes=named).assign_attrs(kind="spectrum")


def test_maps_of_a_network_count_every_layer_or_every_slice_once():
    ds = spectrum()
    assert ds["slices"].values.tolist() == [6, 2, 1, 1]
    relative = relative_magnitudes(ds)
    np.testing.assert_allclose(relative[1, :3, :3], TILTED / 4, atol=1e-12)
    whole = network_magnitudes(ds)
    assert whole["kernel"].values.tolist() == [3, 5]
    of = lambda size, average: whole.sel(kernel=size, average=average).values  # noqa: E731
    np.testing.assert_allclose(of(3, "layers")[:3, :3], (FLAT + TILTED / 4) / 2)
    np.testing.assert_allclose(of(3, "filters")[:3, :3], (6 * FLAT + 2 * TILTED) / 14)
    np.testing.assert_allclose(of(5, "layers"), 5 * np.eye(5), atol=1e-12)
    assert np.isnan(of(3, "layers")[3:]).all()


def test_taps_that_no_image_meets_do_not_count():
    whole = network_magnitudes(spectrum(a=8, b=2, c=4, d=1))
    np.testing.assert_allclose(whole.sel(kernel=3)[:, :3, :3], np.stack([FLAT, FLAT]))
    assert np.isnan(whole.sel(kernel=5)).all()
    with pytest.raises(InputError, match="run calc_filter_spectrum again"):
        network_magnitudes(spectrum().drop_vars("slices"))


def test_profiles_by_distance_from_dc():
    places = np.arange(-2, 2)
    distance = np.hypot(places[:, None], places[None, :])
    at, mean = radial_profile(distance, places, places)
    np.testing.assert_allclose(at, mean)
    # rings of -2..1: DC, the 4 + 4 around it (1 and sqrt 2), 2 (twice) and sqrt 5 (4), sqrt 8
    np.testing.assert_allclose(at, [0, (4 + 4 * 2**0.5) / 8, (2 * 2 + 4 * 5**0.5) / 6, 8**0.5])
    holes = np.full((3, 3), np.nan)
    holes[0, 0], holes[2, 2] = 5, 7
    at, mean = radial_profile(holes, np.arange(3), np.arange(3))
    np.testing.assert_allclose(at, [0, np.sqrt(8)])
    assert mean.tolist() == [5, 7]


def trace(layers: dict[str, DctConv2d], penalised: int) -> list[dict]:
    """Three epochs of metrics as train_frequency writes them."""
    tables = {n: norms(m.coefficients.detach()).tolist() for n, m in layers.items()}
    by_place = {f"norm_{n}_{i}{j}": v for n, t in tables.items() for i, row in enumerate(t)
                for j, v in enumerate(row)}  # fmt: skip
    return [{"epoch": e, "train_loss": 2 / e, "train_accuracy": 0.5,
             "penalty": 0.1 * penalised,
             "penalised_layers": penalised, **by_place} for e in (1, 2, 3)]  # fmt: skip


def test_the_trace_s_shares_are_those_of_the_spectrum():
    layers = {}
    torch.manual_seed(0)
    for name, size in (("block_1.conv", 3), ("layer.conv_2", 5)):
        plain = torch.nn.Conv2d(2, 4, size).double()
        layers[name] = DctConv2d(plain)
    found = _shares(trace(layers, 1))
    ds = filter_spectrum({f"{n}.weight": m.weight.detach() for n, m in layers.items()})
    assert list(found) == list(layers)
    for values, share in zip(found.values(), ds["high_share"].values, strict=True):
        np.testing.assert_allclose(values, share)
    figure = draw_metrics({"with": trace(layers, 1), "plain": [
        {"epoch": 1, "train_loss": 2.0, "penalty": 0.0, "penalised_layers": 0}]},
        against="penalty")  # fmt: skip
    loss, panel = figure.axes
    assert [line.get_linestyle() for line in panel.lines] == ["-", "--"]
    np.testing.assert_allclose(loss.lines[1].get_ydata(), [2 - 0.1, 1 - 0.1, 2 / 3 - 0.1])
    assert "1 of 2 layers" in panel.get_title()
    with pytest.raises(InputError, match="bare: the metrics hold no penalty"):
        draw_metrics({"bare": [{"epoch": 1, "train_loss": 1.0}]}, against="penalty")


def test_drawings():
    figure = draw({"a": spectrum(a=8, b=8, c=8, d=4), "b": spectrum()}, against="magnitude")
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[:4] == ["all layers, K=3", "all filters, K=3",
                          "all layers, K=5", "all filters, K=5"]  # fmt: skip
    assert titles[4:8] == ["a", "b", "c", "d*"]
    image = figure.axes[5].images[0].get_array()
    np.testing.assert_allclose(
        image, (TILTED / 4).T, atol=1e-12
    )  # horizontal frequency to the right
    lines = draw({"a": spectrum()}, against="radius").axes[0].lines
    np.testing.assert_allclose(lines[0].get_xdata(), np.sqrt([0, 1, 2, 4, 5, 8]))
    with pytest.raises(InputError, match="did you mean 'radius'"):
        draw({"a": spectrum()}, against="radios")
    zero = filter_spectrum({"a.weight": torch.zeros(1, 1, 3, 3)}).assign_attrs(kind="spectrum")
    with pytest.raises(InputError, match="all filters are zero"):
        draw({"a": zero}, against="magnitude")


def test_plot_draws_them_from_files(tmp_path, run_command):
    save_result(stamp(spectrum(), "spectrum", {}), tmp_path / "s.nc")
    fourier = xr.Dataset(
        {"error": (("row", "column"), np.eye(4)), "clean_error": 0.1},
        coords={"row": np.arange(-2, 2), "column": np.arange(-2, 2)},
    )  # fmt: skip
    save_result(stamp(fourier, "fourier", {}), tmp_path / "f.nc")
    layers = {"a": DctConv2d(torch.nn.Conv2d(1, 2, 3))}
    lines = "".join(json.dumps(line) + "\n" for line in trace(layers, 1))
    (tmp_path / "m.jsonl").write_text(lines)
    for file, against in (("s.nc", "magnitude"), ("s.nc", "radius"), ("f.nc", "radius"),
                          ("m.jsonl", "penalty")):  # fmt: skip
        run_command("plot", "--result", file, "--against", against, "--out_file",
                    f"{against}.png", "--overwrite", check=True)  # fmt: skip
        assert (tmp_path / f"{against}.png").stat().st_size > 1000
    wrong = run_command("plot", "--result", "f.nc", "--against", "layer", "--out_file", "x")
    assert (wrong.returncode, "--against for Fourier maps" in wrong.stderr) == (2, True)
