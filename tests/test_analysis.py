"""Similarities, distances and filter spectra on cases with known answers; figures of all kinds."""

from __future__ import annotations

import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import xarray as xr
from matplotlib.axes import Axes
from scipy.fft import dctn

from ridgeline.analysis.adversaries import adversaries
from ridgeline.analysis.budget_matrix import TrainedAt, budget_matrix
from ridgeline.analysis.cka import cka
from ridgeline.analysis.distances import parameter_distance
from ridgeline.analysis.figures import FIGURES, draw
from ridgeline.analysis.figures.learning import draw_training
from ridgeline.analysis.figures.overview import overview, table
from ridgeline.analysis.figures.style import save_figure, style
from ridgeline.analysis.frequency.filters import filter_spectrum
from ridgeline.analysis.frequency.fourier import fourier_sensitivity, pass_curves
from ridgeline.analysis.perturbations import similarity, similarity_matrix
from ridgeline.analysis.robustness import robustness
from ridgeline.analysis.scattering import scattering
from ridgeline.analysis.sharpness.pairs import pairs
from ridgeline.analysis.training.generator import study
from ridgeline.analysis.training.overfitting import overfitting
from ridgeline.analysis.training.trajectory import trajectory
from ridgeline.landscape.problem import Problem
from ridgeline.landscape.result import stamp
from ridgeline.landscape.sharpness.battery import sharpness
from ridgeline.models import InputError
from ridgeline.train.attacks import FGSM, PGD
from ridgeline.train.evaluation import evaluate
from tests.conftest import make_images, make_mlp


def test_cosines_of_known_perturbations():
    a = torch.tensor([[1.0, 2.0], [1.0, 0.0], [3.0, 4.0], [0.0, 0.0], [1.0, 1.0]])
    b = torch.tensor([[1.0, 2.0], [0.0, 1.0], [-3.0, -4.0], [1.0, 0.0], [1.0, 0.0]])
    result = similarity(a, b)
    np.testing.assert_allclose(result.cosine, [1, 0, -1, np.nan, 0.5**0.5], atol=1e-12)
    np.testing.assert_allclose(result.sign_cosine, [1, 0, -1, np.nan, 0.5**0.5], atol=1e-12)
    assert result.zeros == 1
    mean, error = result.mean_and_error(result.cosine)
    values = np.array([1, 0, -1, 0.5**0.5])
    assert mean == pytest.approx(values.mean())
    assert error == pytest.approx(values.std(ddof=1) / 2)
    alone = similarity(a[3:4], b[3:4])
    assert np.isnan(alone.mean_and_error(alone.cosine)[0])


def test_independent_signs_have_the_null_spread():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(2000, 768, generator=generator).sign() for _ in range(2))
    cosine = similarity(a, b).cosine
    assert cosine.std() == pytest.approx(768**-0.5, rel=0.05)
    assert abs(cosine.mean()) < 4 * 768**-0.5 / 2000**0.5


def adversary_sets(attack, draws=2):
    return {
        name: adversaries(
            {s: Problem(make_mlp(seed=seed).float(), make_images(n, seed=n), batch_size=6)
             for s, n in (("train", 15), ("test", 9))}, attack, draws,
        )
        for name, seed in (("a", 1), ("b", 2))
    }  # fmt: skip


def test_similarity_matrix_has_the_noise_floor_on_its_diagonal():
    sets = adversary_sets(PGD(eps=0.1, iterations=3))
    ds = similarity_matrix(sets, ("train", "test"), batch_size=4)
    whole = similarity_matrix(sets, ("train", "test"))
    xr.testing.assert_allclose(ds, whole)
    a = sets["a"].isel(example=sets["a"]["subset"].values == "test")["perturbation"].values
    floor = similarity(torch.from_numpy(a[0]), torch.from_numpy(a[1]))
    here = ds.sel(subset="test", set_a="a", set_b="a")
    assert float(here["cosine"]) == pytest.approx(floor.cosine.mean().item())
    assert float(ds["null"]) == pytest.approx(1 / 6)
    off = ds["cosine"].sel(subset="train")
    assert float(off.sel(set_a="a", set_b="b")) == float(off.sel(set_a="b", set_b="a"))
    assert float(off.sel(set_a="a", set_b="b")) < float(off.sel(set_a="a", set_b="a"))
    single = similarity_matrix(adversary_sets(PGD(eps=0.1, iterations=3), 1), ("train",))
    assert np.isnan(float(single["cosine"].sel(set_a="a", set_b="a", subset="train")))


def test_zero_perturbations_are_counted_not_averaged():
    ds = similarity_matrix(adversary_sets(None), ("train",))
    assert np.isnan(ds["cosine"]).all()
    assert (ds["zeros"] == 15).all()


def test_only_correct_examples_and_foreign_examples():
    sets = adversary_sets(PGD(eps=0.1, iterations=2))
    ds = similarity_matrix(sets, ("train",), only_correct=True)
    both = np.ones(24, bool)
    for each in sets.values():
        both &= (each["clean_prediction"] == each["label"]).values
    count = int((both & (sets["a"]["subset"].values == "train")).sum())
    assert int(ds["examples"].sel(set_a="a", set_b="b", subset="train")) == count
    sets["b"] = sets["b"].isel(example=slice(0, 10))
    with pytest.raises(InputError, match="different examples"):
        similarity_matrix(sets, ("train",))


def test_distance_total_and_per_tensor():
    a = {"w": torch.tensor([[3.0, 0.0]]), "bn.running_mean": torch.zeros(2), "b": torch.zeros(1)}
    b = {"w": torch.tensor([[0.0, 4.0]]), "bn.running_mean": torch.ones(2), "b": torch.ones(1)}
    ds = parameter_distance(a, b)
    assert list(ds["parameter"].values) == ["w", "b"]
    np.testing.assert_allclose(ds["distance"], [5, 1])
    assert float(ds["total_distance"]) == pytest.approx(26**0.5)
    assert float(ds["relative"].sel(parameter="w")) == pytest.approx(5 / 3)
    assert float(ds["cosine"].sel(parameter="w")) == 0
    assert float(parameter_distance(a, a)["total_distance"]) == 0
    with pytest.raises(InputError, match="different architectures"):
        parameter_distance(a, {"w": a["w"]})
    with pytest.raises(InputError, match="different architectures"):
        parameter_distance(a, {**b, "w": torch.zeros(3)})


def test_spectrum_of_pure_frequencies():
    for size in (3, 5):
        for i in range(size):
            for j in range(size):
                pure = np.zeros((size, size))
                pure[j, i] = 1.0  # scipy: rows are vertical frequency
                kernel = dctn(pure, type=3, norm="ortho")[None, None]
                ds = filter_spectrum({"c.weight": torch.tensor(kernel)}).isel(layer=0)
                assert float(ds["energy"].sel(horizontal=i, vertical=j)) == pytest.approx(1)
                high = max(i, j) >= {3: 2, 5: 3}[size]
                assert float(ds["high_share"]) == pytest.approx(float(high), abs=1e-12)
                assert float(ds["centroid"]) == pytest.approx(np.hypot(i, j))
                assert float(ds["entropy"]) == pytest.approx(0, abs=1e-9)


def test_a_horizontal_wave_has_horizontal_frequency():
    row = np.cos(np.pi * 2 * (np.arange(3) + 0.5) / 3)
    kernel = np.tile(row, (3, 1))[None, None]  # varies along columns, the horizontal axis
    ds = filter_spectrum({"c": torch.tensor(kernel)}).isel(layer=0)
    assert float(ds["energy"].sel(horizontal=2, vertical=0)) == pytest.approx(1)


@pytest.mark.parametrize(("size", "share", "centroid"), [(3, 0.556, 1.633), (5, 0.640, 3.174)])
def test_spectrum_of_white_noise_and_parseval(size, share, centroid):
    torch.manual_seed(0)
    kernel = torch.randn(64, 128, size, size)
    ds = filter_spectrum({"w": kernel, "fc": torch.randn(3, 4), "one": torch.randn(2, 2, 1, 1)})
    assert list(ds["layer"].values) == ["w"]
    row = ds.isel(layer=0)
    assert float(row["high_share"]) == pytest.approx(share, abs=0.01)
    assert float(row["white_high_share"]) == pytest.approx(share, abs=0.001)
    assert float(row["high_to_low"]) == pytest.approx(1, abs=0.02)
    assert float(row["centroid"]) == pytest.approx(centroid, abs=0.01)
    assert float(row["entropy"]) == pytest.approx(np.log(size**2), abs=0.01)
    assert float(row["energy"].sum()) == pytest.approx(1)
    d = dctn(kernel.double().numpy(), axes=(2, 3), norm="ortho")
    assert (d**2).sum() == pytest.approx(float((kernel.double() ** 2).sum()))
    np.testing.assert_allclose(row["magnitude"], np.abs(d).mean((0, 1)).T)
    # the standard error is that of repeated draws
    draws = [
        float(filter_spectrum({"w": torch.randn(16, 8, size, size)})["high_share"][0])
        for _ in range(60)
    ]
    small = filter_spectrum({"w": torch.randn(16, 8, size, size)})
    assert float(small["high_share_se"][0]) == pytest.approx(np.std(draws), rel=0.6)


def test_spectrum_corner_cases():
    ds = filter_spectrum({"a": torch.zeros(2, 1, 3, 3), "b": torch.randn(2, 1, 5, 5)})
    assert np.isnan(ds["high_share"].sel(layer="a"))
    assert np.isnan(ds["energy"].sel(layer="a", horizontal=4)).all()
    with pytest.raises(InputError, match="size 3 or more"):
        filter_spectrum({"fc": torch.randn(3, 4)})


def test_robustness_of_one_network_and_of_an_ensemble():
    images = make_images(30)
    attack = PGD(eps=0.05, iterations=3)
    problems = [Problem(make_mlp(seed=s).float(), images, attack) for s in (1, 2)]
    ds = robustness(problems[:1])
    clean = problems[0].under(None).evaluate()
    assert float(ds["accuracy"].sel(condition="clean")) == clean.accuracy
    assert float(ds["loss"].sel(condition="clean")) == clean.loss
    assert float(ds["loss"].sel(condition="adversarial")) == problems[0].evaluate().loss
    both = robustness(problems)
    nets = [p.network for p in problems]
    mean = lambda x: torch.stack([n(x).softmax(1) for n in nets]).mean(0).log()  # noqa: E731
    expected = evaluate(mean, images).loss
    assert float(both["loss"].sel(condition="clean")) == pytest.approx(expected, rel=1e-6)
    low, high = (float(ds[f"accuracy_{k}"].sel(condition="clean")) for k in ("low", "high"))
    assert low < clean.accuracy < high


def results_of_every_kind() -> dict[str, xr.Dataset]:
    rng = np.random.default_rng(0)
    axis = np.linspace(-1, 1, 5)
    names = ["a", "b"]
    square = (("subset", "set_a", "set_b"), np.full((2, 2, 2), 0.5))
    net = Problem(make_mlp(), make_images(12))
    robust = [{"epoch": e, "train_accuracy": 0.5, "test_target_accuracy": 0.5 / e,
               "test_clean_accuracy": 0.5} for e in (1, 2)]  # fmt: skip
    return {
        "hessian": xr.Dataset(
            {"eigenvalue": ("rank", [3.0, 2.0, -1.0]), "residual": ("rank", [0.1] * 3),
             "converged": ("rank", [True, True, False])}, {"rank": [1, 2, 3]}),
        "scan": xr.Dataset(
            {n: (("eps", "x1", "x2"), rng.random((2, 5, 5)) + 0.1) for n in ("loss", "loss_se")},
            {"eps": [0.0, 0.1], "x1": axis, "x2": axis}),
        "curve": xr.Dataset(
            {**{n: (("path", "subset", "t"), rng.random((2, 2, 5))) for n in ("loss", "loss_se")},
             "barrier": (("path", "subset"), np.zeros((2, 2)))},
            {"path": ["curve", "line"], "subset": ["train", "test"], "t": np.linspace(0, 1, 5)}),
        "similarity": xr.Dataset(
            {"cosine": square, "cosine_se": square, "null": 0.1},
            {"subset": ["train", "test"], "set_a": names, "set_b": names}),
        "spectrum": filter_spectrum({"c.weight": torch.randn(4, 2, 3, 3)}),
        "distance": parameter_distance({"w": torch.ones(2)}, {"w": torch.zeros(2)}),
        "generator": study({1: net, 2: net}, net, FGSM(eps=0.1), FGSM(eps=0.1), net.images),
        "fourier": xr.merge([fourier_sensitivity(net, 1.0), pass_curves(net)]),
        "corruptions": xr.Dataset(
            {"accuracy": (("corruption", "severity"), rng.random((3, 2))), "clean_accuracy": 0.9,
             "mean_accuracy": 0.5, "mean_accuracy_se": 0.01},
            {"corruption": ["fog", "snow", "frost"], "severity": [1, 5]}),
        "spectral_bias": xr.Dataset(
            {"bias": ("network", rng.random(3), {"long_name": "high share"}),
             "accuracy": ("network", rng.random(3)), "accuracy_se": ("network", [0.01] * 3),
             "rho": 0.5, "rho_low": -0.2, "rho_high": 0.9}, {"network": ["a", "b", "c"]}),
        "cka": cka(net, net, minibatch=4),
        "scattering": scattering(net.under(FGSM(eps=0.1)), ["random"], [0.0, 0.1, 0.2, 0.4]),
        "trajectory": trajectory({1: net, 3: net}, net.origin),
        "overfitting": overfitting({"AT": [robust, robust], "B": [robust]}),
        "budgets": budget_matrix({"a": Problem(make_mlp(), make_images(5), FGSM(eps=0.1))}, [0.1],
                                 [TrainedAt(0.1, math.inf)]),
        "robustness": robustness([net.under(FGSM(eps=0.1))], [0.05, 0.1]),
        "sharpness": sharpness(net.under(FGSM(eps=0.1)), ["trace", "sam"]),
        "pairs": pairs({"a": net, "b": net}, places=1, minibatch=4),
        "ranking": xr.Dataset(
            {n: (("loss", "logits", "measure"), rng.random((1, 1, 2)) - 0.5 + k)
             for k, n in enumerate(("tau_low", "tau", "tau_high"))},
            {"loss": ["clean"], "logits": ["plain"], "measure": ["sam", "trace"]}),
    }  # fmt: skip


def test_every_kind_of_result_has_a_figure(tmp_path):
    results = results_of_every_kind()
    assert set(results) == set(FIGURES)
    for kind, ds in results.items():
        stamp(ds, kind, {})
        written = save_figure(draw({"first": ds, "second": ds} if kind == "hessian" else {"": ds}),
                              tmp_path / kind)  # fmt: skip
        assert all(p.stat().st_size > 2000 for p in written), kind
    line = stamp(results["scan"].isel(x2=0, drop=True), "scan", {})
    save_figure(draw({"line": line}), tmp_path / "line")
    metrics = [{"epoch": e, "train_loss": 1 / e} for e in (1, 2, 3)]
    save_figure(draw_training({"run": metrics}), tmp_path / "training")
    with pytest.raises(InputError, match="one kind"):
        draw({"a": results["scan"], "b": results["curve"]})
    with pytest.raises(InputError, match="kind of result"):
        draw({"a": stamp(xr.Dataset(), "adversaries", {})})
    empty = stamp(results["scan"].where(False), "scan", {})
    with pytest.raises(InputError, match="no finite loss"):
        draw({"a": empty})


def hidden(axes: Axes) -> int:
    """Pixels that are not white where the legend of a panel stands, once it is taken away."""
    legend, canvas = axes.get_legend(), axes.figure.canvas
    canvas.draw()
    box = legend.get_window_extent()
    legend.set_visible(False)
    canvas.draw()
    legend.set_visible(True)
    drawn = np.asarray(canvas.buffer_rgba())[::-1]  # the first row is the top
    (x0, y0), (x1, y1) = np.floor(box.min).astype(int), np.ceil(box.max).astype(int)
    return int((drawn[y0:y1, x0:x1] < 255).any(2).sum())


def test_no_legend_of_a_panel_hides_what_is_drawn():
    """Sees a legend over a line, a band or an axis, for data that fill their panels."""
    results = {kind: stamp(ds, kind, {}) for kind, ds in results_of_every_kind().items()}
    metrics = [{"epoch": e, "train_loss": e % 2, "classes": 4} for e in range(1, 9)]
    clean = robustness([Problem(make_mlp(), make_images(12))])
    hessian = results["hessian"].assign(eigenvalue=("rank", [3.0, 3.0, 3.0]))
    page = overview(
        {"a": metrics, "b": metrics}, {"a": clean}, {"a": hessian, "b": results["hessian"]},
        {"a": results["scan"], "b": results["scan"]}, 0.1, results["curve"],
        results["similarity"], {"a": results["spectrum"]},
    )  # fmt: skip
    budgets = xr.concat([hessian] * 2, xr.Variable("eps", [0.0, 0.1])).assign_attrs(hessian.attrs)
    several = {"a": draw({"a": results["fourier"]}), "b": draw({"a": results["cka"]}),
               "c": draw({"a": budgets, "b": budgets}, against="eps")}  # fmt: skip
    with style():
        grid = plt.subplots(2, 2, layout="constrained", figsize=(8, 6))[1]
        draw({"": results["curve"]}, axes=grid[0, 1])
    panels = [axes for figure in (page, *several.values(), grid[0, 0].figure)
              for axes in figure.axes if axes.get_legend() is not None]  # fmt: skip
    assert len(panels) == 9
    assert {n: found for n, axes in enumerate(panels) if (found := hidden(axes))} == {}
    letters = [t.get_text() for axes in page.axes for t in axes.texts
               if t.get_visible() and t.get_fontweight() == "bold"]  # fmt: skip
    assert "".join(letters) == "abcdefgh"
    plt.close("all")


def test_table_lines_up():
    text = table(["name", "value"], [["a", "1.0"], ["longer", "22.5"]]).splitlines()
    assert len({len(line) for line in text}) == 1
    assert text[-1].startswith("longer") and text[-1].endswith("22.5")
