"""Problems, operators and spectra against closed forms and the dense Hessian in float64."""

from __future__ import annotations

import copy
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, hessian
from torch.nn import functional as F

from ridgeline.landscape.curvature.eigenpairs import top_eigenpairs
from ridgeline.landscape.curvature.operators import Hessian, Matrix, dense
from ridgeline.landscape.problem import Problem
from ridgeline.landscape.weights.point import (
    add,
    combine,
    cosine,
    dot,
    flatten,
    norm,
    point_of,
    select,
    subtract,
    unflatten,
)  # fmt: skip
from ridgeline.models import InputError
from ridgeline.train.attacks import FGSM, PGD
from ridgeline.train.data.examples import Images
from tests.conftest import make_conv_bn, make_images, make_mlp


def dense_by_functorch(problem: Problem) -> torch.Tensor:
    """The obviously right Hessian: torch.func.hessian of the loss over all images at once."""
    x = problem.images.pixels.double()
    state = {n: b.double() if b.is_floating_point() else b for n, b in problem.buffers.items()}

    def loss(vector):
        point = unflatten(vector, problem.origin)
        return F.cross_entropy(functional_call(problem.network, {**state, **point}, (x,)),
                               problem.images.labels)  # fmt: skip

    return hessian(loss)(flatten(problem.origin))


def least_memory(problem: Problem) -> int:
    """The smallest power of 1.1 in bytes that an operator accepts."""
    for power in range(60, 200):
        try:
            Hessian(problem, memory=int(1.1**power))
        except InputError as error:
            assert "too small" in str(error)
        else:
            return int(1.1**power)
    raise AssertionError


@pytest.mark.parametrize("room", [1, 3, None])
@pytest.mark.parametrize("make", [make_mlp, make_conv_bn])
def test_hessian_product_equals_dense_hessian_on_ragged_batches(make, room):
    problem = Problem(make(), make_images(23), batch_size=7)
    operator = Hessian(problem, memory=room and room * least_memory(problem))
    kept, batches = len(operator._kept), len(operator._batches)
    assert kept == batches == 4 if room is None else kept < batches
    exact = dense_by_functorch(problem)
    ours = dense(operator)
    assert (ours - exact).norm() / exact.norm() < 1e-12
    v, w = torch.randn(2, operator.shape[0], dtype=torch.float64)
    assert torch.dot(v, operator.matvec(w)) == pytest.approx(
        float(torch.dot(w, operator.matvec(v))), rel=1e-9
    )


def test_batch_size_changes_nothing():
    network, images = make_conv_bn(), make_images(23)
    attack = PGD(eps=0.1, iterations=4)
    whole, ragged = (Problem(network, images, attack, batch_size=n) for n in (23, 5))
    torch.testing.assert_close(
        whole.evaluate().losses, ragged.evaluate().losses, rtol=1e-12, atol=0
    )
    torch.testing.assert_close(
        whole.frozen().images.pixels, ragged.frozen().images.pixels, rtol=0, atol=1e-12
    )
    v = torch.randn(sum(p.numel() for p in network.parameters()), dtype=torch.float64)
    a, b = (Hessian(p.frozen()).matvec(v) for p in (whole, ragged))
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_frozen_and_unused_parameters():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(36, 4), nn.Linear(3, 2)
            self.used.bias.requires_grad_(False)

        def forward(self, x):
            return self.used(x.flatten(1))

    torch.manual_seed(0)
    problem = Problem(Half().double(), make_images(9), batch_size=4)
    operator = Hessian(problem)
    exact = dense_by_functorch(problem)
    assert (dense(operator) - exact).norm() / exact.norm() < 1e-12
    unused = sum(p.numel() for p in problem.network.unused.parameters())
    assert exact[-unused:].abs().max() == 0


def regression(seed: int = 0, count: int = 50, features: int = 4):
    """Binary logistic regression written as a two-class network with one free logit."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(count, 1, 1, features, generator=generator, dtype=torch.float64)
    y = torch.randint(2, (count,), generator=generator)

    class Logit(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.tensor([[0.9, -1.2, 0.4, 0.7]], dtype=torch.float64))

        def forward(self, z):
            score = F.linear(z.flatten(1), self.w)
            return torch.cat([torch.zeros_like(score), score], 1)

    return Logit(), Images(x, y, torch.arange(count), "logistic", 2)


def test_logistic_regression_closed_form():
    network, images = regression()
    problem = Problem(network, images, batch_size=8)
    x, y, w = images.pixels.flatten(1), images.labels, network.w.detach()[0]
    s = torch.sigmoid(x @ w)
    expected = (x * (s * (1 - s))[:, None]).T @ x / len(x)
    torch.testing.assert_close(dense(Hessian(problem)), expected, rtol=1e-12, atol=1e-14)
    sign = 2 * y.double() - 1
    assert problem.evaluate().loss == pytest.approx(
        F.softplus(-sign * (x @ w)).mean().item(), 1e-14
    )
    gradient = ((s - y)[:, None] * x).mean(0)
    torch.testing.assert_close(Hessian(problem).gradient()["w"][0], gradient)


@pytest.mark.parametrize("order", [-1, 2])
def test_adversarial_logistic_loss_and_frozen_hessian(order):
    """softplus(-m + eps ||w||_dual); frozen at x + delta the Hessian is X'^T D X' / N.

    For l_inf that is the Hessian of the true adversarial loss; for l_2 it is not: the missing
    term is eps s (I - ww'/|w|^2)/|w|, and the difference must be seen.
    """
    network, images = regression()
    images = Images(0.3 + 0.4 * images.pixels, *[getattr(images, n) for n in
                    ("labels", "index", "name", "num_classes")])  # fmt: skip
    eps = 0.05
    problem = Problem(network, images, FGSM(eps=eps, order=order), batch_size=9)
    x, w = images.pixels.flatten(1), network.w.detach()[0]
    sign = (2 * images.labels.double() - 1)[:, None]
    inf = order == -1
    dual = w.abs().sum() if inf else w.norm()
    margin = (sign[:, 0] * (x @ w)) - eps * dual
    assert problem.evaluate().loss == pytest.approx(F.softplus(-margin).mean().item(), rel=1e-14)
    s = torch.sigmoid(-margin)
    moved = x - eps * sign * (w.sign() if inf else w / w.norm())
    frozen = (moved * (s * (1 - s))[:, None]).T @ moved / len(x)
    ours = dense(Hessian(problem.frozen()))
    torch.testing.assert_close(ours, frozen, rtol=1e-11, atol=1e-14)

    def total_loss(v):
        d = v.abs().sum() if inf else v.norm()
        return F.softplus(-(sign[:, 0] * (x @ v)) + eps * d).mean()

    total = hessian(total_loss)(w)
    gap = (total - ours).norm() / total.norm()
    assert gap < 1e-12 if inf else gap > 1e-3


def symmetric(values, seed=0):
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.standard_normal((len(values), len(values))))
    return (q * values) @ q.T, q


@pytest.mark.parametrize("size", [12, 150])
@pytest.mark.parametrize(
    ("which", "pick"), [("LA", lambda v: -v), ("SA", lambda v: v), ("LM", lambda v: -np.abs(v))]
)
def test_eigenpairs_of_a_quadratic(which, pick, size):
    values = np.concatenate([np.linspace(-1, 1, size - 4), [4.0, -7.0, 5.0, 4.5]])
    matrix, _ = symmetric(values)
    operator = Matrix(torch.tensor(matrix))
    pairs = top_eigenpairs(operator, 3, which=which, tol=1e-10)
    np.testing.assert_allclose(pairs.values, values[np.argsort(pick(values))][:3], atol=1e-8)
    assert pairs.converged.all()
    assert pairs.products == operator.products
    np.testing.assert_allclose(pairs.vectors.T @ pairs.vectors, np.eye(3), atol=1e-8)
    expected = np.linalg.norm(matrix @ pairs.vectors - pairs.vectors * pairs.values, axis=0)
    np.testing.assert_allclose(pairs.residuals, expected, atol=1e-12)


def test_clustered_eigenvalues_give_the_right_subspace():
    values = np.concatenate([np.linspace(-1, 1, 200), [3.0, 3.0 + 1e-9, 3.0 + 2e-9]])
    matrix, q = symmetric(values)
    pairs = top_eigenpairs(Matrix(torch.tensor(matrix)), 3, tol=1e-12)
    cosines = np.linalg.svd(q[:, -3:].T @ pairs.vectors, compute_uv=False)
    np.testing.assert_allclose(cosines, 1, atol=1e-9)


def test_what_did_not_converge_is_said_and_kept():
    values = 1 + 1e-3 * np.sort(np.random.default_rng(0).random(400))
    pairs = top_eigenpairs(Matrix(torch.tensor(symmetric(values)[0])), 6, tol=1e-14, max_iter=1)
    assert not pairs.converged.all()
    assert len(pairs.values) == 6
    assert np.array_equal(np.isnan(pairs.values), np.isnan(pairs.residuals))


def test_eigenpairs_of_a_network_agree_with_dense_and_repeat():
    problem = Problem(make_mlp(), make_images(40), batch_size=9)
    exact = np.linalg.eigvalsh(dense_by_functorch(problem).numpy())[::-1]
    pairs = top_eigenpairs(Hessian(problem), 4, tol=1e-8)
    np.testing.assert_allclose(pairs.values, exact[:4], rtol=1e-8)
    assert (pairs.residuals <= 1e-3 * np.abs(pairs.values)).all()
    again = top_eigenpairs(Hessian(problem), 4, tol=1e-8)
    assert np.array_equal(pairs.vectors, again.vectors)


def test_the_largest_magnitude_of_a_network_may_be_negative():
    """Saddle: examples labelled with what the network believes least."""
    network = make_conv_bn()
    with torch.no_grad():
        network.head.weight.mul_(2)
    problem = Problem(network, make_images(20), batch_size=6)
    logits = problem.predict(problem.origin)(problem.images.pixels)
    problem = problem.on(replace(problem.images, labels=logits.argmin(1)))
    operator = Hessian(problem, parameters=["conv.weight"])
    exact = np.linalg.eigvalsh(dense(operator).numpy())
    pairs = top_eigenpairs(operator, 5, which="LM", tol=1e-10)
    np.testing.assert_allclose(pairs.values, exact[np.argsort(-np.abs(exact))][:5], rtol=1e-8)
    assert pairs.values[0] < 0 < pairs.values.max()


def test_the_callers_network_is_never_touched():
    network = make_conv_bn().train()
    network.conv.weight.requires_grad_(False)
    before = copy.deepcopy(network.state_dict())
    problem = Problem(network, make_images(10), PGD(eps=0.1, iterations=2))
    problem.evaluate()
    top_eigenpairs(Hessian(problem.frozen()), 2)
    assert network.training
    assert not network.conv.weight.requires_grad
    assert all(p.grad is None for p in network.parameters())
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_an_attacked_problem_must_be_frozen_first():
    with pytest.raises(ValueError, match="frozen"):
        Hessian(Problem(make_mlp(), make_images(5), FGSM(eps=0.1)))


def test_topk_beyond_the_parameters_is_refused():
    with pytest.raises(InputError, match=r"1\.\.10"):
        top_eigenpairs(Matrix(torch.eye(10)), 11)


def test_point_algebra():
    a, b = point_of(make_mlp(seed=1)), point_of(make_mlp(seed=2))
    u, v = flatten(a), flatten(b)
    torch.testing.assert_close(flatten(add(a, b, 0.3)), u + 0.3 * v)
    torch.testing.assert_close(flatten(subtract(a, b)), u - v)
    assert dot(a, b) == pytest.approx(torch.dot(u, v).item())
    assert norm(a) == pytest.approx(u.norm().item())
    assert cosine(a, a) == pytest.approx(1)
    assert all(torch.equal(x, a[n]) for n, x in unflatten(u, a).items())
    assert all(torch.equal(x, a[n]) for n, x in combine((1, 0), (a, b)).items())
    assert norm(combine((0, 0), (a, b))) == 0
    with pytest.raises(InputError, match="lacks"):
        select({}, a, "file")
    with pytest.raises(InputError, match="the network has"):
        select({n: t[..., :1] for n, t in a.items()}, a, "file")


def test_one_channel_images_in_either_layout_give_the_same_hessian():
    network = make_conv_bn()
    images = make_images(12)
    view = images.pixels.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    other = Images(view, images.labels, images.index, "view", 4)
    last = Images(images.pixels.contiguous(memory_format=torch.channels_last), images.labels,
                  images.index, "last", 4)  # fmt: skip
    v = torch.randn(sum(p.numel() for p in network.parameters()), dtype=torch.float64)
    expected = Hessian(Problem(network, images)).matvec(v)
    for layout in (other, last):
        torch.testing.assert_close(Hessian(Problem(network, layout)).matvec(v), expected)
        single = Problem(copy.deepcopy(network).float(), layout)
        assert Hessian(single).matvec(v.float()).isfinite().all()


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_kept_graphs_are_freed_with_their_operator():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 400), nn.Tanh(), nn.Linear(400, 4))
    problem = Problem(network, make_images(2000), batch_size=500)
    v = torch.randn(sum(p.numel() for p in network.parameters()))
    sizes = []
    for _ in range(12):
        Hessian(problem).matvec(v)
        sizes.append(resident_bytes())
    assert sizes[-1] - sizes[2] < 40e6  # one operator holds more than 20 MB


class Entangled(nn.Module):
    """One module under two names, whose weight is another's too."""

    def __init__(self):
        super().__init__()
        self.a, self.c = nn.Linear(36, 36), nn.Linear(36, 36)
        self.b, self.head = self.a, nn.Linear(36, 4)
        self.c.weight = self.a.weight

    def forward(self, x):
        return self.head(self.c(self.b(self.a(x.flatten(1)).tanh()).tanh()))


def test_names_and_ties_of_one_weight_stay_as_they_are():
    """Sees a weight that another call finds in one of its places only."""
    network = Entangled().double()
    problem = Problem(network, make_images())
    moved = {n: 1.5 * t for n, t in problem.origin.items()}
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.5)
    wanted = Problem(network, make_images()).evaluate().loss
    assert [problem.evaluate(moved).loss for _ in range(3)] == [wanted] * 3
    assert problem.network.c.weight is problem.network.b.weight
