"""Eigenvalues, traces and densities of quadratics with known spectra, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ridgeline.landscape.curvature.density import density_dataset, lanczos_quadrature
from ridgeline.landscape.curvature.eigenpairs import ENDS, UNSURE, top_eigenpairs
from ridgeline.landscape.curvature.measures import SpectrumOptions
from ridgeline.landscape.curvature.operators import Hessian, Matrix
from ridgeline.landscape.curvature.trace import estimate_trace
from ridgeline.landscape.problem import Problem
from ridgeline.landscape.result import load_result
from ridgeline.landscape.weights.point import norm
from ridgeline.models import InputError, build_model
from ridgeline.train.files.checkpoint import load_checkpoint, save_checkpoint
from tests.conftest import make_images, make_mlp
from tests.test_problem import symmetric

DTYPES = [torch.float32, torch.float64]
#: size -> eigenvalues
SPECTRA = {
    "zero": np.zeros,
    "identity": np.ones,
    "semidefinite": lambda n: np.r_[np.zeros(n // 2), np.random.default_rng(1).random(n - n // 2)],
    "low rank": lambda n: np.r_[np.zeros(n - 5), 1, 2, 3, 4, 5],
    "repeated": lambda n: np.r_[np.linspace(-1, 1, n - 6), 3, 3, 3, 2.5, 2.5, 4],
    "repeated at both ends": lambda n: np.r_[np.linspace(-1, 1, n - 6), 5, -5, 5, -5, 7, -7],
    "ten times": lambda n: np.r_[np.linspace(-1, 1, n - 10), [3] * 10],
    "indefinite": lambda n: np.r_[np.linspace(-1, 1, n - 4), 5, -5, 7, -8],
    "decaying": lambda n: 100 * 0.8 ** np.arange(n),
}


def quadratic(values, dtype=torch.float64) -> Matrix:
    return Matrix(torch.tensor(symmetric(np.asarray(values, dtype=float))[0], dtype=dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [1, 12, 64, 65, 66, 150])
@pytest.mark.parametrize("name", SPECTRA)
def test_every_eigenvalue_is_found_as_often_as_it_is_repeated(name, size, dtype):
    """ARPACK tracebacks at 0, missed copies, ends at 0 that no relative tolerance can meet."""
    if size < 12 and name not in ("zero", "identity"):
        pytest.skip("the spectrum needs room")
    values = SPECTRA[name](size)
    scale = np.abs(values).max() or 1.0
    for which, rank in {"LA": values, "SA": -values, "LM": np.abs(values)}.items():
        if (name, which) == ("decaying", "SA") and size > 64:
            continue  # a hundred values within a rounding of 0: no solver tells them apart
        for k in sorted({1, min(2, size), min(3, size), min(8, size), min(12, size)}):
            pairs = top_eigenpairs(quadratic(values, dtype), k, which=which, copies=math.inf)
            ranks = np.abs(pairs.values) if which == "LM" else pairs.values
            ranks = -ranks if which == "SA" else ranks
            np.testing.assert_allclose(ranks, np.sort(rank)[::-1][:k], atol=1e-4 * scale)
            assert pairs.converged.all()
            assert set(pairs.reasons) <= {"converged", "converged as far as rounding allows"}
            np.testing.assert_allclose(pairs.vectors.T @ pairs.vectors, np.eye(k), atol=1e-6)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("k", [5, 26, 40])
def test_spectra_of_nothing_but_copies_are_found_whole(k, seed):
    """A search for copies that stops after one product, when the kept vectors hide the low end."""
    values = np.repeat([-2.0, -1.0, 0.0, 1.0, 2.0], [30, 22, 30, 15, 25])
    pairs = top_eigenpairs(quadratic(values), k, seed=seed, copies=math.inf)
    assert pairs.converged.all()
    np.testing.assert_allclose(pairs.values, np.sort(values)[::-1][:k], atol=2e-4)


@pytest.mark.parametrize("size", [200, 1000])
@pytest.mark.parametrize("which", ["LA", "SA"])
def test_copies_close_to_a_bulk_are_found_across_restarts(size, which):
    """A search for copies that a restart makes blind: it ended at once and lost copies."""
    values = np.r_[[10.0] * 3, [9.99] * 3, np.linspace(-1, 9.9, size - 6)]
    values = values if which == "LA" else -values
    truth = np.sort(values)[::-1][:3] if which == "LA" else np.sort(values)[:3]
    for seed in range(4):
        matrix = Matrix(torch.diag(torch.tensor(values)))
        pairs = top_eigenpairs(matrix, 3, which=which, seed=seed, copies=math.inf)
        quick = top_eigenpairs(matrix, 3, which=which, seed=seed)
        whole = np.allclose(quick.values, truth, atol=1e-3)
        assert whole or UNSURE in quick.reasons  # a short search says so
        assert quick.products <= pairs.products
        assert pairs.converged.all()
        np.testing.assert_allclose(pairs.values, truth, atol=1e-3)


def test_restarts_end_where_rounding_does():
    """Thousands of products for tol = 0, whose residuals grow with every restart."""
    rows = np.random.default_rng(0).standard_normal((200, 200))
    matrix = Matrix(torch.tensor((rows + rows.T) / 2))
    pairs = top_eigenpairs(matrix, 5, tol=0.0)
    assert pairs.products < 600
    assert set(pairs.reasons) == {"converged as far as rounding allows"}
    truth = np.linalg.eigvalsh(matrix.matrix.numpy())[::-1][:5]
    np.testing.assert_allclose(pairs.values, truth, rtol=1e-12)


def test_copies_cost_few_products_where_there_are_none():
    """A check for copies that costs as much as the pairs themselves."""
    values = np.r_[np.linspace(-1, 1, 380), np.linspace(2, 20, 20)]
    operator = quadratic(values)
    pairs = top_eigenpairs(operator, 10, seed=1)
    assert pairs.converged.all()
    alone = top_eigenpairs(quadratic(values), 1, seed=1)
    assert alone.products <= 30  # nothing is looked for: a copy of the last changes nothing
    assert pairs.products <= 100


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_no_tolerance_asks_for_rounding(dtype):
    """A tolerance 0, at which nothing would ever converge."""
    values = SPECTRA["indefinite"](150)
    pairs = top_eigenpairs(quadratic(values, dtype), 3, tol=0.0)
    assert pairs.converged.all()
    assert set(pairs.reasons) == {"converged as far as rounding allows"}
    assert pairs.residuals.max() <= 100 * torch.finfo(dtype).eps * 8


@pytest.mark.parametrize("tol", [-1e-4, float("nan"), float("inf"), 1.0])
def test_a_tolerance_that_means_nothing_is_refused(tol):
    """Negative and NaN tolerances, with which every pair is not converged."""
    with pytest.raises(InputError, match="tol must lie in"):
        top_eigenpairs(quadratic(np.ones(9)), 1, tol=tol)
    with pytest.raises(InputError, match="tol must lie in"):
        SpectrumOptions(tol=tol)


def test_a_reason_says_what_helps():
    """`converged` False without a word about what to do."""
    values = 1 + 1e-3 * np.sort(np.random.default_rng(0).random(400))
    pairs = top_eigenpairs(quadratic(values), 6, tol=1e-14, max_iter=1)
    assert not pairs.converged.any()
    assert all("--max_iter" in reason for reason in pairs.reasons)
    assert np.isfinite(pairs.values).all()


@pytest.mark.parametrize("hole", [torch.nan, torch.inf])
@pytest.mark.parametrize("size", [20, 150])
def test_products_that_are_not_finite_are_one_line(hole, size):
    """ARPACK's traceback, or eigenvalues NaN, from weights or losses that are not finite."""
    matrix = torch.eye(size, dtype=torch.float64)
    matrix[3, 3] = hole
    for question in (
        lambda m: top_eigenpairs(m, 2),
        lambda m: lanczos_quadrature(m, probes=1, steps=5),
        lambda m: estimate_trace(m, products=30),
    ):
        with pytest.raises(InputError, match="not finite"):
            question(Matrix(matrix))


def test_a_zero_matrix_has_a_density_and_a_trace():
    """A Krylov space that ends at once."""
    ds = density_dataset(lanczos_quadrature(quadratic(np.zeros(80)), probes=2, steps=9))
    assert np.isfinite(ds["density"]).all()
    assert float(ds["moment"][0]) == 0
    assert estimate_trace(quadratic(np.zeros(80)), products=10).mean == 0


@pytest.mark.parametrize("name", ["hutchinson", "hutchpp", "xtrace"])
@pytest.mark.parametrize("size", [5, 12, 13])
def test_the_trace_names_the_estimator_that_made_it(name, size):
    """hutch++ of a small block, which silently was Hutchinson's."""
    values = np.linspace(-1, 2, size)
    found = estimate_trace(quadratic(values), products=24, estimator=name)
    if name == "hutchinson" or size > 12:
        assert found.estimator == name
        assert found.products == 24
    else:
        assert found.estimator == "exact"
        assert found.products == size
        assert found.se == 0
        assert found.mean == pytest.approx(values.sum(), abs=1e-12)


def test_small_hessians_by_both_routes_agree():
    """The threshold between diagonalising and iterating, crossed by k."""
    problem = Problem(make_mlp(inputs=36, hidden=2), make_images(20))
    operator = Hessian(problem)
    size = operator.shape[0]
    assert 64 < size < 100
    every = top_eigenpairs(operator, size)
    for which in ENDS:
        few = top_eigenpairs(operator, 4, which=which, tol=1e-9)
        for value in few.values:
            assert np.abs(every.values - value).min() < 1e-8 * np.abs(every.values).max()


FEW = ["--subset_size", "5"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A LeNet's checkpoint outside the folder of the commands."""
    torch.manual_seed(0)
    network = build_model("lenet", (1, 28, 28), width=1)
    path = tmp_path_factory.mktemp("nets") / "net.ckpt"
    model = {"model_type": "lenet", "width": 1, "bias": True}
    recipe = {"model": model, "data": {"dataset": "mnist5k"}}
    save_checkpoint(path, network.state_dict(), recipe)
    return path


@pytest.mark.parametrize(
    ("options", "size"),
    [
        (["--blocks", "each", "--topk", "60"], "1..52, the number of parameters of block conv1"),
        (["--operator", "input", "--topk", "785"], "784, the number of pixels"),
        (["--topk", "1000000"], "the number of parameters"),
        (["--tol", "-1"], "tol must lie in"),
        (["--tol", "nan"], "--tol must be finite"),
    ],
    ids=str,
)
def test_what_cannot_be_had_is_refused_before_computing(tiny, refuse, options, size):
    """Pairs beyond a block's or an image's size, which were NaN at the end of the work."""
    said = refuse(
        "calc_hessian", "--model2load", tiny, "--dataset", "mnist5k", "--subset_size", "5", *options
    )
    assert size in said


def test_results_in_float64_stay_so_and_say_how_they_were_made(tiny, tmp_path, run_command):
    """Eigenvectors cut to float32; the asymmetry, the reasons and the estimator left unsaid."""
    options = ["--precision", "float64", "--blocks", "conv1.*,*.bias", "--topk", "2", "--out_file",
               "h.nc", "--trace_products", "24", "--trace_estimator", "hutchpp"]  # fmt: skip
    done = run_command("calc_hessian", "--model2load", tiny, *FEW, *options, check=True)
    ds = load_result(tmp_path / "h.nc", "hessian")
    assert float(ds["asymmetry"].max()) < 1e-10
    assert "|u'Hv - v'Hu|" in ds["asymmetry"].attrs["long_name"]
    assert set(ds["reason"].values.ravel()) <= {"converged", UNSURE}
    assert set(ds["trace_estimator"].values.ravel()) == {"hutchpp"}
    assert "kernels" in ds["evaluation"].values.ravel()[0]
    assert done.stdout.count("converged") == 4
    assert "(hutchpp)" in done.stdout
    vector = load_checkpoint(min(tmp_path.glob("h_*_vec0.ckpt"))).tensors
    assert {t.dtype for t in vector.values()} == {torch.float64}
    assert norm(vector) == pytest.approx(1, abs=1e-14)


def test_a_trace_estimator_that_breaks_down_says_which_one_does_not():
    """A traceback of LinAlgError for a matrix of low rank."""
    for values in (np.zeros(40), np.r_[1.0, np.zeros(39)]):
        matrix = Matrix(torch.diag(torch.tensor(values)))  # exactly: rounding would regularise it
        with pytest.raises(InputError, match="use hutchpp"):
            estimate_trace(matrix, products=24, estimator="xtrace")
        found = estimate_trace(matrix, products=24, estimator="hutchpp")
        assert found.mean == pytest.approx(values.sum(), abs=1e-9)
