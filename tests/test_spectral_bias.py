"""Corruptions, and the correlation of filter spectra with robustness."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

from ridgeline.analysis.corruptions import GROUPS, corrupted, corruption_scores, group_of, names_of
from ridgeline.analysis.figures import draw
from ridgeline.analysis.frequency.filters import filter_spectrum, map_sizes
from ridgeline.analysis.frequency.spectral_bias import accuracy_of, network_spectrum, spectral_bias
from ridgeline.landscape.problem import Problem
from ridgeline.models import InputError
from ridgeline.train.statistics import error_of_share
from tests.conftest import make_images

FAST = ["gaussian_noise", "impulse_noise", "fog", "contrast"]


@pytest.fixture
def images():
    return make_images(6, (3, 32, 32))


@pytest.mark.parametrize("name", FAST)
def test_corruptions_belong_to_seed_and_example(images, name):
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    whole = corrupted(images, name, 3, seed=1)
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002
    part = corrupted(images.take(torch.tensor([4, 2])), name, 3, seed=1)
    assert torch.equal(part.pixels, whole.pixels[[4, 2]])
    assert whole.pixels.shape == images.pixels.shape
    other = corrupted(images, name, 3, seed=2)
    assert torch.equal(other.pixels, whole.pixels) == (name == "contrast")  # nothing is drawn
    harder = corrupted(images, name, 5, seed=1).pixels.float() / 255
    assert (harder - images.pixels).abs().mean() > (
        whole.pixels.float() / 255 - images.pixels
    ).abs().mean()


def test_the_benchmarks_lists():
    assert len(names_of(["common"])) == 15
    assert len(names_of(["all"])) == 19
    assert names_of(["fog", "snow", "fog"]) == ["fog", "snow"]
    assert names_of(["weather", "fog", "blur"]) == names_of(["weather"]) + names_of(["blur"])
    with pytest.raises(InputError, match="corruption"):
        names_of(["fogg"])


def test_an_image_that_no_drop_hits_stays_as_it_is(recwarn):
    """Sees 0 / 0 of the package cast to pixels, which every machine does as it likes."""
    images = make_images(60, (3, 32, 32))
    pixels = (images.pixels * 255).round().to(torch.uint8)
    found = corrupted(images, "spatter", 1).pixels
    assert not recwarn.list
    assert (found == pixels).flatten(1).all(1).any()
    assert not (found == 0).flatten(1).all(1).any()


def test_networks_on_other_corruptions_are_not_compared_by_group():
    """Sees bars over other corruptions stand beside each other, and rows left out of a heat map."""
    problem = Problem(Bright(), make_images(40, (3, 32, 32), 2))
    one, two = (corruption_scores(problem, names, [1]).assign_attrs(kind="corruptions")
                for names in (["brightness"], ["brightness", "contrast"]))  # fmt: skip
    with pytest.raises(InputError, match="other corruptions or severities"):
        draw({"a": one, "b": two}, against="groups")
    maps = [axes for axes in draw({"a": one, "b": two}).axes if axes.images]
    assert [axes.images[0].get_array().shape for axes in maps] == [(2, 1)] * 2
    assert np.isnan(maps[0].images[0].get_array().filled(np.nan)).sum() == 1
    clean = float(two["clean_accuracy"])
    assert float(two["clean_accuracy_se"]) == pytest.approx(error_of_share(clean, 40))
    assert draw({"b": two}, against="groups").axes


def test_small_images_are_refused():
    with pytest.raises(InputError, match="32x32 pixels or more"):
        corrupted(make_images(2, (1, 28, 28)), "fog", 1)


class Bright(nn.Module):
    """Class 1 for images brighter than a level."""

    def __init__(self):
        super().__init__()
        self.level = nn.Parameter(torch.tensor(0.5))

    def forward(self, x):
        score = x.mean((1, 2, 3)) - self.level
        return torch.stack([-score, score], dim=1)


def test_scores_are_counts_over_cells(images):
    two = type(images)(images.pixels, images.labels % 2, images.index, "x", 2)
    problem = Problem(Bright(), two.subset(6), batch_size=4)
    labels = problem.predict(problem.origin)(images.pixels.float()).argmax(1)
    images = type(images)(images.pixels, labels, images.index, "x", 2)
    ds = corruption_scores(problem.on(images), ["brightness", "contrast"], [1, 5])
    assert float(ds["clean_accuracy"]) == 1
    brightest = corrupted(images, "brightness", 5).pixels.float() / 255
    guess = problem.predict(problem.origin)(brightest).argmax(1)
    expected = (guess == labels).double().mean().item()
    assert float(ds["accuracy"].sel(corruption="brightness", severity=5)) == expected
    assert float(ds["mean_accuracy"]) == pytest.approx(float(ds["accuracy"].mean()))
    assert ds["group"].values.tolist() == ["weather", "digital"]
    for group, name in (("weather", "brightness"), ("digital", "contrast")):
        mean = float(ds["accuracy"].sel(corruption=name).mean())
        assert float(ds["group_accuracy"].sel(group=group)) == pytest.approx(mean)
    ds.attrs["kind"] = "corruptions"
    bars = draw({"a": ds}, against="groups").axes[0]
    assert [t.get_text() for t in bars.get_xticklabels()] == ["clean", "weather", "digital"]
    assert accuracy_of(ds)[0] == float(ds["mean_accuracy"])


def spectra(count):
    rng = np.random.default_rng(0)
    found = {}
    for n in range(count):
        low = np.ones((3, 3))
        kernels = low + 0.1 * (n + 1) * rng.standard_normal((8, 2, 3, 3))
        found[f"n{n}"] = filter_spectrum({"conv.weight": torch.from_numpy(kernels)})
    return found


def test_every_corruption_has_its_group_and_the_paper_has_seventeen():
    """Gowda et al. 2024, figure 7: five blurs, four of every other group."""
    names = names_of(["cure"])
    groups = [group_of(name) for name in names]
    assert {g: groups.count(g) for g in GROUPS} == {
        "noise": 4, "blur": 5, "weather": 4, "digital": 4,
    }  # fmt: skip
    assert {group_of(name) for name in names_of(["all"])} == set(GROUPS)
    for group in GROUPS:
        assert {group_of(name) for name in names_of([group])} == {group}  # as the package has it


def test_rank_correlation_of_a_monotone_relation_is_minus_one():
    found = spectra(6)
    shares = [network_spectrum(ds)["high_share"] for ds in found.values()]
    assert (np.diff(shares) > 0).all()
    ds = spectral_bias(found, {n: (0.9 - 0.1 * k, 0.01) for k, n in enumerate(found)})
    assert float(ds["rho"]) == pytest.approx(-1)
    assert float(ds["rho_low"]) == pytest.approx(-1)
    shuffled = (0.3, 0.5, 0.1, 0.6, 0.2, 0.4)
    weak = spectral_bias(found, {n: (a, 0.01) for n, a in zip(found, shuffled, strict=True)})
    assert float(weak["rho_low"]) < float(weak["rho"]) < float(weak["rho_high"])
    assert float(weak["rho_high"]) > 0.3
    with pytest.raises(InputError, match="3 or more"):
        spectral_bias(spectra(2), {"n0": (0.1, 0.1), "n1": (0.2, 0.1)})


def test_layers_whose_map_is_below_the_kernel_are_flagged():
    model = {"model_type": "efficientnet_b0", "image_shape": [3, 32, 32], "width": 1,
             "bias": True, "num_classes": 10}  # fmt: skip
    sizes = map_sizes(model)
    assert min(sizes.values()) < 5
    assert map_sizes({"model_type": "a:b"}) == map_sizes(None) == {}
    kernels = {"a.weight": torch.randn(4, 1, 5, 5), "b.weight": torch.randn(4, 1, 3, 3)}
    ds = filter_spectrum(kernels, initial=kernels, sizes={"a.weight": 2, "b.weight": 32})
    assert ds["seen"].values.tolist() == [False, True]
    turned = filter_spectrum(kernels, initial=kernels, sizes={"b.weight": 32, "a.weight": 2})
    assert turned["layer"].values.tolist() == ["b.weight", "a.weight"]
    np.testing.assert_allclose(turned["initial_high_share"], turned["high_share"])
    np.testing.assert_allclose(ds["initial_high_share"], ds["high_share"])
    only = network_spectrum(ds)["high_share"]
    assert only == pytest.approx(float(ds["high_share"][1]))
    with pytest.raises(InputError, match="another architecture"):
        filter_spectrum(kernels, initial={"a.weight": torch.randn(4, 1, 3, 3)})


def test_commands_and_figures(run_command, tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "d.npz",
             train_images=rng.integers(256, size=(30, 32, 32, 3), dtype=np.uint8),
             train_labels=rng.integers(10, size=30),
             test_images=rng.integers(256, size=(20, 32, 32, 3), dtype=np.uint8),
             test_labels=rng.integers(10, size=20))  # fmt: skip
    for seed in range(3):
        run_command("train_frequency", "--dataset", "d.npz", "--width", "1", "--epoch_num", "2",
                    "--epoch_ckpts", "1,2", "--out_folder", "runs", "--model_name", f"n{seed}",
                    "--seed", seed, "--augment", "False", check=True)  # fmt: skip
        run_command("test_corruptions", "--model2load", f"runs/n{seed}.ckpt", "--corruptions",
                    "fog,contrast", "--severities", "1,5", check=True)  # fmt: skip
        run_command("calc_filter_spectrum", "--model2load", f"runs/n{seed}.ckpt", "--initial",
                    f"runs/n{seed}_init.ckpt", check=True)  # fmt: skip
    for epoch in (1, 2):
        run_command("calc_filter_spectrum", "--model2load", f"runs/n0_{epoch}.ckpt", check=True)
    listed = lambda what: ",".join(f"runs/n{s}_{what}.nc" for s in range(3))  # noqa: E731
    done = run_command("analyze_spectral_bias", "--spectra", listed("spectrum"), "--robustness",
                       listed("corruptions"), check=True)  # fmt: skip
    assert "3 networks" in done.stdout
    for files, options in (
        ("spectral_bias.nc", ()), (listed("corruptions"), ()), (listed("spectrum"), ()),
        (listed("spectrum"), ("--against", "kernels")),
        ("runs/n0_1_spectrum.nc,runs/n0_2_spectrum.nc", ("--against", "epoch")),
    ):  # fmt: skip
        run_command("plot", "--result", files, *options, "--out_file", "p", "--overwrite",
                    check=True)  # fmt: skip
    refused = run_command("test_corruptions", "--model2load", "runs/n0.ckpt", "--severities", "6")
    assert (refused.returncode, "must lie in 1..5, got 6" in refused.stderr) == (2, True)
    mnist = run_command("analyze_spectral_bias", "--spectra", listed("spectrum"), "--robustness",
                        listed("spectrum"), "--out_file", "q")  # fmt: skip
    assert (mnist.returncode, "robustness" in mnist.stderr) == (2, True)


def test_accuracy_is_read_from_robustness_results():
    ds = xr.Dataset({"accuracy": ("condition", [0.9, 0.5]), "losses": (("condition", "example"),
                     np.zeros((2, 100)))}, attrs={"kind": "robustness"})  # fmt: skip
    assert accuracy_of(ds) == pytest.approx((0.5, 0.05))
