"""Operators, estimators and the true adversarial Hessian against dense and closed forms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, hessian, jacrev
from torch.nn import functional as F

from ridgeline.landscape.curvature.density import density_dataset, lanczos_quadrature
from ridgeline.landscape.curvature.double_backward import second_order
from ridgeline.landscape.curvature.gauss_newton import GaussNewton
from ridgeline.landscape.curvature.inner_maximum import onto_ball_and_box, refine
from ridgeline.landscape.curvature.input_hessian import InputHessian
from ridgeline.landscape.curvature.operators import Hessian, Matrix, dense
from ridgeline.landscape.curvature.total_hessian import TotalHessian, refined
from ridgeline.landscape.curvature.trace import ESTIMATORS, estimate_diagonal, estimate_trace
from ridgeline.landscape.problem import Problem
from ridgeline.landscape.weights.point import flatten, norm, unflatten
from ridgeline.models import InputError
from ridgeline.train.attacks import PGD
from ridgeline.train.data.examples import Images
from tests.conftest import make_conv_bn, make_images, make_mlp
from tests.test_problem import dense_by_functorch, symmetric


@pytest.fixture(params=[make_mlp, make_conv_bn])
def problem(request):
    return Problem(request.param(), make_images(11), batch_size=4)


def outputs_of(problem, vector):
    point = {**problem.buffers, **unflatten(vector, problem.origin)}
    return functional_call(problem.network, point, (problem.images.pixels,))


def by_outputs(problem, blocks) -> torch.Tensor:
    """J^T B J / N with the dense Jacobian; `blocks` (N, C, C)."""
    jacobian = jacrev(lambda v: outputs_of(problem, v))(flatten(problem.origin))
    return torch.einsum("ncp,ncd,ndq->pq", jacobian, blocks, jacobian) / len(jacobian)


def probabilities(problem):
    return outputs_of(problem, flatten(problem.origin)).softmax(1)


def test_gauss_newton_and_fisher_are_dense_ones(problem):
    p = probabilities(problem)
    ggn = by_outputs(problem, torch.diag_embed(p) - p[:, :, None] * p[:, None, :])
    torch.testing.assert_close(dense(GaussNewton(problem)), ggn, rtol=1e-9, atol=1e-12)
    r = p - F.one_hot(problem.images.labels, p.shape[1])
    empirical = by_outputs(problem, r[:, :, None] * r[:, None, :])
    ours = dense(GaussNewton(problem, curvature="empirical"))
    torch.testing.assert_close(ours, empirical, rtol=1e-9, atol=1e-12)


def test_monte_carlo_fisher_tends_to_gauss_newton_and_ignores_batch_size():
    problem = Problem(make_mlp(), make_images(11), batch_size=4)
    exact = dense(GaussNewton(problem))
    few, many = (
        (dense(GaussNewton(problem, curvature="mc", samples=n)) - exact).norm() / exact.norm()
        for n in (1, 2000)
    )
    assert many < 0.05 < few
    one = GaussNewton(replace(problem, batch_size=11), curvature="mc")
    torch.testing.assert_close(dense(one), dense(GaussNewton(problem, curvature="mc")))


def test_squared_error_of_a_linear_network_has_the_hessian_of_least_squares():
    images = make_images(30)
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 4, bias=False)).double()
    problem = Problem(network, images, loss="squared_error", batch_size=7)
    x = images.pixels.flatten(1)
    expected = torch.kron(torch.eye(4, dtype=torch.float64), 2 * x.T @ x / 30)
    torch.testing.assert_close(dense(Hessian(problem)), expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(dense(GaussNewton(problem)), expected, rtol=1e-10, atol=1e-12)


def test_a_block_is_the_block_of_the_whole_and_weight_decay_is_a_shift(problem):
    whole = dense(Hessian(problem))
    names = list(problem.origin)[1:3]
    sizes = [t.numel() for t in problem.origin.values()]
    inside = slice(sizes[0], sum(sizes[:3]))
    block = Hessian(problem, parameters=names, weight_decay=0.3)
    expected = whole[inside, inside] + 0.3 * torch.eye(block.shape[0], dtype=torch.float64)
    torch.testing.assert_close(dense(block), expected, rtol=1e-10, atol=1e-12)
    direction = block.embed(torch.ones(block.shape[0]))
    assert flatten(direction)[inside].eq(1).all()
    assert norm(direction) ** 2 == pytest.approx(block.shape[0])


def test_weight_decay_in_loss_and_gradient():
    problem = Problem(make_mlp(), make_images(11))
    plain, decayed = Hessian(problem), Hessian(problem, weight_decay=0.2)
    theta = flatten(problem.origin)
    assert decayed.loss() == pytest.approx(plain.loss() + 0.1 * theta.square().sum().item())
    difference = flatten(decayed.gradient()) - flatten(plain.gradient())
    torch.testing.assert_close(difference, 0.2 * theta)


def test_input_hessian_is_the_dense_one(problem):
    operator = InputHessian(problem, 3)
    images = problem.images

    def loss(x):
        state = {**problem.buffers, **problem.origin}
        logits = functional_call(problem.network, state, (x.view(1, 1, 6, 6),))
        return F.cross_entropy(logits, images.labels[3:4])

    exact = hessian(loss)(images.pixels[3].flatten())
    torch.testing.assert_close(dense(operator), exact, rtol=1e-9, atol=1e-12)
    assert operator.loss() == pytest.approx(loss(images.pixels[3].flatten()).item())


GEOMETRIES = [
    {}, {"stride": 2}, {"padding": 1}, {"dilation": 2, "padding": 2}, {"groups": 2},
    {"stride": (2, 1), "padding": (0, 1)}, {"padding": "same"},
]  # fmt: skip


@pytest.mark.parametrize("options", GEOMETRIES, ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_our_convolution_is_torchs_to_the_second_derivative(options, bias):
    torch.manual_seed(0)
    x = torch.randn(3, 4, 7, 7, dtype=torch.float64, requires_grad=True)
    w = torch.randn(6, 4 // options.get("groups", 1), 3, 3, dtype=torch.float64, requires_grad=True)
    b = torch.randn(6, dtype=torch.float64, requires_grad=True) if bias else None
    inputs = [t for t in (x, w, b) if t is not None]
    cotangents = [torch.randn_like(t) for t in inputs]

    def second() -> list[torch.Tensor]:
        y = F.conv2d(x, w, b, **options).tanh().square().sum()
        first = torch.autograd.grad(y, inputs, create_graph=True)
        return [y, *first, *torch.autograd.grad(first, inputs, cotangents)]

    theirs = second()
    with second_order():
        ours = second()
        assert (
            options.get("padding") == "same"
            or "Convolution" in type(F.conv2d(x, w, b, **options).grad_fn).__name__
        )
    for a, e in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-10, atol=1e-10)


class Attention(nn.Module):
    """A transformer layer over image rows."""

    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True)
        self.head = nn.Linear(36, 4)

    def forward(self, x):
        return self.head(self.layer(x[:, 0]).flatten(1))


def test_attention_can_be_differentiated_twice():
    torch.manual_seed(0)
    problem = Problem(Attention().double(), make_images(7), batch_size=3)
    matrix = dense(Hessian(problem))
    v = torch.randn(len(matrix), dtype=torch.float64)
    v = v / v.norm()
    h = 1e-5
    ahead, behind = (
        Hessian(problem, unflatten(flatten(problem.origin) + s * h * v, problem.origin)).gradient()
        for s in (1, -1)
    )
    slope = (flatten(ahead) - flatten(behind)) / (2 * h)
    torch.testing.assert_close(matrix @ v, slope, rtol=1e-4, atol=1e-6)


def test_a_view_that_needs_contiguous_images_still_works():
    class Viewing(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(1, 3, 3), nn.Linear(48, 4)

        def forward(self, x):
            return self.head(self.conv(x).tanh().view(len(x), -1))

    torch.manual_seed(0)
    problem = Problem(Viewing().double(), make_images(9), batch_size=4)
    torch.testing.assert_close(
        dense(Hessian(problem)), dense_by_functorch(problem), rtol=1e-9, atol=1e-12
    )


class Logistic(nn.Module):
    """Two-class logistic regression with logits (0, w'x)."""

    def __init__(self, w):
        super().__init__()
        self.w = nn.Parameter(w)

    def forward(self, x):
        z = x.flatten(1) @ self.w
        return torch.stack([torch.zeros_like(z), z], 1)


@pytest.mark.parametrize("order", [-1, 2])
def test_total_hessian_of_adversarial_logistic_regression_is_the_closed_form(order):
    """softplus(-m + eps ||w||_dual): total and frozen agree for l_inf only."""
    generator = torch.Generator().manual_seed(1)
    x = 0.4 + 0.2 * torch.rand(30, 1, 1, 5, generator=generator, dtype=torch.float64)
    y = torch.randint(2, (30,), generator=generator)
    w = torch.randn(5, generator=generator, dtype=torch.float64)
    images = Images(x, y, torch.arange(30), "logistic", 2)
    attack = PGD(eps=0.2, order=order, iterations=10)
    problem = Problem(Logistic(w), images, attack, batch_size=7)
    sign = 2 * y.double() - 1

    def loss(v):
        dual = v.abs().sum() if order == -1 else v.norm()
        return F.softplus(-sign * (x.flatten(1) @ v) + 0.2 * dual).mean()

    total, frozen = TotalHessian(problem), Hessian(refined(problem))
    assert total.share_regular == 1
    assert total.loss() == pytest.approx(loss(w).item(), rel=1e-12)
    torch.testing.assert_close(dense(total), hessian(loss)(w), rtol=1e-7, atol=1e-10)
    apart = (dense(frozen) - dense(total)).norm() / dense(total).norm()
    assert apart < 1e-9 if order == -1 else apart > 0.05


@pytest.mark.parametrize(("order", "eps"), [(2, 0.3), (-1, 0.25)])
def test_total_hessian_is_the_slope_of_the_gradient_as_the_images_move(order, eps):
    """A smooth network whose maximisers are partly free, also of the faces of [0,1]."""
    torch.manual_seed(3)
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(36, 12), nn.Tanh(), nn.Linear(12, 4)
    ).double()  # fmt: skip
    with torch.no_grad():
        network[1].weight.mul_(2.5)
    pixels = make_images(12).pixels
    pixels = ((pixels - 0.2) / 0.6).where(pixels > 0.3, 0)  # some pixels start on a face
    images = Images(pixels, make_images(12).labels, torch.arange(12), "faces", 4)
    problem = Problem(network, images, PGD(eps=eps, order=order, iterations=40), batch_size=5)
    operator = TotalHessian(problem, inner_maxima=refined(problem, iterations=300))
    assert operator.share_regular == 1
    v = torch.randn(operator.shape[0], dtype=torch.float64)
    v, h = v / v.norm(), 3e-4

    def gradient(s):
        at = unflatten(flatten(problem.origin) + s * v, problem.origin)
        start = operator.problem.images  # follow the same maximum
        moved = [
            climbed(problem, at, batch, begin.x)
            for batch, begin in zip(
                problem.batches(torch.float64), problem.batches(torch.float64, start), strict=True
            )
        ]
        there = operator.problem.on(replace(images, pixels=torch.cat(moved)))
        return flatten(Hessian(there, at).gradient())

    slope = (gradient(h) - gradient(-h)) / (2 * h)
    ours = operator.matvec(v)
    assert (ours - slope).norm() / slope.norm() < 1e-3
    frozen = Hessian(operator.problem).matvec(v)
    assert (frozen - slope).norm() / slope.norm() > 1e-2


def climbed(problem, at, batch, start):
    options = {"eps": problem.attack.eps, "order": problem.attack.order, "iterations": 300}
    return refine(problem.predict(at), batch.x, batch.y, start, **options)


def test_projection_on_ball_and_box_is_the_nearest_point():
    torch.manual_seed(0)
    x, moved = torch.rand(6, 1, 3, 3).double(), 3 * torch.randn(6, 1, 3, 3).double()
    found = onto_ball_and_box(x, moved, 0.4, 2)
    assert (found - x).flatten(1).norm(dim=1).max() <= 0.4 + 1e-12
    assert found.min() >= 0
    assert found.max() <= 1
    for _ in range(200):  # no feasible point is nearer: <moved - found, z - found> <= 0
        z = onto_ball_and_box(x, x + 0.5 * torch.randn_like(x), 0.4, 2)
        assert ((moved - found) * (z - found)).flatten(1).sum(1).max() <= 1e-9


@pytest.mark.parametrize("steps", [40, 200])
def test_quadrature_of_full_length_holds_every_eigenvalue_and_ends_there(steps):
    values = np.concatenate([np.linspace(-1, 2, 37), [5.0, 6, 9]])
    operator = Matrix(torch.tensor(symmetric(values)[0]))
    quadrature = lanczos_quadrature(operator, probes=2, steps=steps)
    assert quadrature.values.shape == (2, 40)
    np.testing.assert_allclose(np.sort(quadrature.values[0]), np.sort(values), atol=1e-9)
    np.testing.assert_allclose(quadrature.weights.sum(1), 1)


def test_an_exhausted_krylov_space_leaves_no_ghosts():
    values = np.repeat([1.0, 3.0, 7.0], 10)
    quadrature = lanczos_quadrature(Matrix(torch.tensor(symmetric(values)[0])), probes=1, steps=20)
    assert (quadrature.weights > 0).sum() == 3


def test_density_integrates_to_one_and_moments_lie_within_their_errors():
    values = np.concatenate([np.random.default_rng(0).standard_normal(200), [20.0]])
    quadrature = lanczos_quadrature(
        Matrix(torch.tensor(symmetric(values)[0])), probes=30, steps=30, seed=4
    )
    ds = density_dataset(quadrature, points=4000)
    step = float(ds["density_x"][1] - ds["density_x"][0])
    assert float(ds["density"].sum()) * step == pytest.approx(1, abs=1e-3)
    for order, moment, error in zip((1, 2, 3, 4), ds["moment"], ds["moment_se"], strict=True):
        assert error > 0
        assert abs(float(moment) - (values**order).mean()) < 4 * float(error)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_trace_estimates_cover_the_truth(name):
    """Coverage over 60 seeds of the 2 se interval, which a wrong standard error would miss."""
    values = 1 / np.arange(1, 121) ** 1.5
    operator = Matrix(torch.tensor(symmetric(values)[0]))
    truth, inside = values.sum(), 0
    for seed in range(60):
        result = estimate_trace(operator, products=120, estimator=name, seed=seed)
        assert result.products == 120
        inside += abs(result.mean - truth) < 2 * result.se
    assert 48 <= inside <= 60


def test_diagonal_and_its_error():
    problem = Problem(make_mlp(hidden=2), make_images(11))
    operator = Hessian(problem)
    exact = torch.diag(dense(operator))
    mean, se = (flatten(p) for p in estimate_diagonal(operator, products=400, seed=1))
    assert (se > 0).any()
    off = (mean - exact).abs() / se.clamp_min(1e-12)
    assert off.square().mean() ** 0.5 == pytest.approx(1, abs=0.4)


def test_estimates_need_products_for_an_error():
    with pytest.raises(InputError, match="at least 24"):
        estimate_trace(Matrix(torch.eye(50)), products=20, estimator="hutchpp")
