"""Sharpness measures against exact problems: quadratics, a linear layer, rescaled networks."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, hessian
from torch.nn import functional as F

from ridgeline.landscape.problem import Problem
from ridgeline.landscape.sharpness import MEASURES
from ridgeline.landscape.sharpness.battery import sharpness
from ridgeline.landscape.sharpness.critical import critical_step
from ridgeline.landscape.sharpness.options import SharpnessOptions
from ridgeline.landscape.sharpness.relative_flatness import last_linear, logit_hessians
from ridgeline.landscape.sharpness.view import View, normalised_logits
from ridgeline.landscape.weights.point import point_of
from ridgeline.models import InputError
from ridgeline.train.data.examples import Images
from ridgeline.train.losses import cross_entropy

PGD = "name=pgd,eps=0.1,iterations=3"


def images(count: int = 24, side: int = 4, classes: int = 3, seed: int = 0) -> Images:
    generator = torch.Generator().manual_seed(seed)
    x = 0.2 + 0.6 * torch.rand(count, 1, side, side, generator=generator, dtype=torch.float64)
    y = torch.randint(classes, (count,), generator=generator)
    return Images(x, y, torch.arange(count), "drawn", classes)


#: their unit is the norm of a whole tensor
OF_WHOLE_TENSORS = {"robust_flatness_average", "robust_flatness_worst"}


def mlp(bias: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(16, 8, bias=bias), nn.ReLU(), nn.Linear(8, 6, bias=bias), nn.ReLU(),
        nn.Linear(6, 3, bias=bias),
    ).double()  # fmt: skip


class Quadratic(nn.Module):
    """Outputs (N, 3) whose squared distance to 0 is w'Aw, whatever the image."""

    def __init__(self, a: torch.Tensor, w: torch.Tensor):
        super().__init__()
        self.w = nn.Parameter(w)
        self.root = torch.linalg.cholesky(a).T

    def forward(self, x):
        return (self.root @ self.w).expand(len(x), -1) + 0 * x.sum()


A = torch.tensor([[3.0, 1.0, 0.0], [1.0, 2.0, 0.5], [0.0, 0.5, 1.0]], dtype=torch.float64)
H = 2 * A


def quadratic(w: list[float]) -> Problem:
    x = torch.full((6, 1, 1, 1), 0.5, dtype=torch.float64)
    network = Quadratic(A, torch.tensor(w, dtype=torch.float64))
    return Problem(network, (x, torch.zeros(6, 3, dtype=torch.float64)), loss="squared_error")


def value(problem: Problem, name: str, **options) -> float:
    return float(MEASURES[name].compute(View(problem), SharpnessOptions(**options)).value)


def test_hessian_measures_of_a_quadratic():
    problem, values = quadratic([0.0, 0.0, 0.0]), torch.linalg.eigvalsh(H)
    assert value(problem, "lambda_max") == pytest.approx(values[-1].item(), rel=1e-10)
    assert value(problem, "trace") == pytest.approx(values.sum().item(), rel=1e-10)
    found = MEASURES["trace"].compute(View(problem), SharpnessOptions(trace_products=2))
    assert found.value == pytest.approx(values.sum().item(), abs=5 * found.se)


def test_worst_case_of_a_quadratic_is_half_rho_squared_lambda_max():
    largest = torch.linalg.eigvalsh(H)[-1].item()
    found = value(quadratic([0.0, 0.0, 0.0]), "worst_case_l2", steps=60, rho_l2=0.3)
    assert found == pytest.approx(0.3**2 / 2 * largest, rel=1e-6)
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 3)
    best = torch.einsum("ni,ij,nj->n", corners, A, corners).max().item()
    found = value(quadratic([0.0, 0.0, 0.0]), "worst_case_linf", steps=60, rho_linf=0.3)
    assert found == pytest.approx(0.09 * best, rel=1e-9)


def test_adaptive_ball_is_scaled_by_each_weight():
    w = [0.5, -0.2, 0.0]
    found = value(quadratic(w), "adaptive_linf", steps=40, rho_adaptive_linf=0.1)
    theta, best = torch.tensor(w, dtype=torch.float64), 0.0
    for signs in torch.cartesian_prod(*[torch.tensor([-0.1, 0.1], dtype=torch.float64)] * 3):
        moved = theta + theta.abs() * signs
        best = max(best, (moved @ A @ moved - theta @ A @ theta).item())
    assert found == pytest.approx(best, rel=1e-9)


def test_keskar_divides_by_one_plus_the_loss():
    problem = quadratic([0.5, 0.1, 0.3])
    theta, box = problem.origin["w"], 0.2
    best = 0.0
    for signs in torch.cartesian_prod(*[torch.tensor([-box, box], dtype=torch.float64)] * 3):
        moved = theta + (theta.abs() + 1) * signs
        best = max(best, (moved @ A @ moved).item())
    loss = (theta @ A @ theta).item()
    expected = 100 * (best - loss) / (1 + loss)
    assert value(problem, "keskar", steps=60, keskar=box) == pytest.approx(expected, rel=1e-9)


def test_sam_takes_one_step_along_the_gradient():
    problem = quadratic([0.5, 0.1, 0.3])
    theta = problem.origin["w"]
    g = H @ theta
    moved = theta + 0.1 * g / g.norm()
    expected = (moved @ A @ moved - theta @ A @ theta).item()
    assert value(problem, "sam", rho_l2=0.1) == pytest.approx(expected, rel=1e-10)
    assert value(quadratic([0.0, 0.0, 0.0]), "sam") == 0


def test_average_case_is_half_the_variance_times_the_trace():
    options = SharpnessOptions(draws=400, noise=0.1)
    found = MEASURES["average_case"].compute(View(quadratic([0.0, 0.0, 0.0])), options)
    assert found.value == pytest.approx(0.01 / 2 * H.trace().item(), abs=4 * found.se)
    assert found.se < 0.1 * found.value
    assert (found.over, found.forward, found.backward) == ("draws", 401, 0)


def test_critical_sharpness_of_a_quadratic_is_the_rayleigh_quotient():
    problem = quadratic([0.5, 0.1, 0.3])
    g = H @ problem.origin["w"]
    expected = (g @ H @ g / (g @ g)).item()
    found = MEASURES["critical_sharpness"].compute(View(problem), SharpnessOptions())
    assert found.value == pytest.approx(expected, rel=1e-9)
    assert found.forward <= 7 and found.backward == 1
    assert math.isnan(value(quadratic([0.0, 0.0, 0.0]), "critical_sharpness"))


def test_relative_critical_sharpness_of_two_quadratics():
    one, two = quadratic([0.5, 0.1, 0.3]), quadratic([0.5, 0.1, 0.3])
    network = Quadratic(torch.diag(torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)),
                        one.origin["w"].clone())  # fmt: skip
    two = Problem(network, one.data, loss="squared_error")
    g1, g2 = H @ one.origin["w"], torch.tensor([2.0, 4.0, 8.0], dtype=torch.float64)
    g2 = g2 * one.origin["w"]
    view = View(one, other=two)
    found = MEASURES["critical_relative"].compute(view, SharpnessOptions())
    expected = (g2 @ H @ g2 / (g1 @ g2)).item()
    assert found.value == pytest.approx(expected, rel=1e-9)
    assert found.backward == 2


def test_critical_step_stands_within_its_error_and_on_the_first_crossing():
    def rises(eta: float) -> torch.Tensor:  # back at 0 for eta = 0.5, and again below 0 far out
        each = torch.tensor([-1.0, -1.0]) * eta + torch.tensor([2.0, 2.0]) * eta**2
        return each if eta < 3 else torch.tensor([-1.0, -1.0])

    assert critical_step(rises, 100.0, 1.0, 8)[0] == pytest.approx(4.0, rel=1e-6)

    def noisy(eta: float) -> torch.Tensor:
        curvature = torch.tensor([1.6, 2.0, 2.4], dtype=torch.float64)
        return -eta + curvature * eta**2

    found, error = critical_step(noisy, 1.0, 1.0, 8)
    # 2 / eta = 2 * mean curvature, of standard error 2 * 0.4 / sqrt(3)
    assert found == pytest.approx(4.0, rel=1e-6)
    assert error == pytest.approx(0.8 / math.sqrt(3), rel=1e-3)


@pytest.mark.parametrize("way", ["plain", "normalised"])
def test_relative_flatness_is_that_of_the_dense_hessian_of_the_last_layer(way):
    data, network = images(), mlp()
    loss = cross_entropy if way == "plain" else normalised_logits(cross_entropy)
    problem = Problem(network, data, loss=loss)
    weight = network[5].weight.detach()

    def mean_loss(w: torch.Tensor) -> torch.Tensor:
        named = {**dict(network.named_parameters()), "5.weight": w}
        return loss(functional_call(network, named, (data.pixels,)), data.labels).mean()

    dense = hessian(mean_loss)(weight)  # (C, D, C, D)
    expected = sum(
        (weight[s] @ weight[t] * dense[s, :, t].trace()).item() for s in range(3) for t in range(3)
    )
    found = MEASURES["relative_flatness"].compute(View(problem), SharpnessOptions())
    assert found.value == pytest.approx(expected, rel=1e-10)
    assert (found.forward, found.backward) == (1, 0)


def test_logit_hessian_in_closed_form_is_the_derivative():
    z = torch.randn(5, 4, dtype=torch.float64)
    y = torch.tensor([0, 1, 2, 3, 0])
    ours = logit_hessians(cross_entropy, z, y)
    theirs = logit_hessians(partial(F.cross_entropy, reduction="none"), z, y)
    assert torch.allclose(ours, theirs, atol=1e-14)


def test_last_linear_layer_is_found_or_not():
    assert last_linear(Problem(mlp(), images())) == "5"
    network = nn.Sequential(mlp(), nn.Tanh())
    problem = Problem(network, images())
    assert last_linear(problem) is None
    assert math.isnan(value(problem, "relative_flatness"))


def rescaled(network: nn.Sequential, alpha: float | torch.Tensor) -> nn.Sequential:
    """The same function: neurons of the first layer times alpha, their outputs divided by it."""
    alpha = torch.as_tensor(alpha, dtype=torch.float64)
    with torch.no_grad():
        network[1].weight *= alpha.view(-1, 1)
        network[1].bias *= alpha
        network[3].weight /= alpha
    return network


@pytest.mark.parametrize("alpha", ["16", "3", "each neuron its own"])
def test_rescaling_relu_layers_leaves_just_the_invariant_measures(alpha):
    """Sees a measure called invariant that a rescaling moves, and the other way round."""
    options = {"draws": 3, "steps": 4, "noise": 0.05, "inputs": 2, "tol": 1e-6,
               "critical_passes": 12}  # fmt: skip
    own = not alpha.isdigit()
    factor = 2.0 ** (torch.arange(8) % 5) if own else float(alpha)
    problems = [Problem(rescaled(mlp(), a), images(), PGD) for a in (1.0, factor)]
    one, two = (sharpness(problem, **options) for problem in problems)
    np.testing.assert_allclose(two["mean_loss"], one["mean_loss"], rtol=1e-12)
    for name in MEASURES:
        moved = []
        for loss in one["loss"].values:
            for way in one["logits"].values:
                a, b = (float(ds["value"].sel(measure=name, loss=loss, logits=way))
                        for ds in (one, two))  # fmt: skip
                if MEASURES[name].invariant and not (own and name in OF_WHOLE_TENSORS):
                    assert b == pytest.approx(a, rel=1e-6, abs=1e-12, nan_ok=True), name
                elif np.isnan([a, b]).all():  # the clean loss has no robust flatness
                    continue
                elif way == "plain" or "critical" not in name:  # no step raises a bounded loss
                    moved.append(abs(b - a) / abs(a))
        # every single one where the step is large; a small one may pass a loss by
        assert not moved or (min if alpha == "16" else max)(moved) > 0.01, name


def test_scaling_the_logits_changes_no_adaptive_measure_of_normalised_ones():
    found = []
    for scale in (1.0, 8.0):
        network = mlp(bias=False)
        with torch.no_grad():
            network[5].weight *= scale
        names = ["average_case_adaptive", "adaptive_l2", "adaptive_linf", "relative_flatness"]
        ds = sharpness(Problem(network, images()), names, draws=3, steps=4)
        found.append(ds["value"].sel(loss="clean"))
    one, two = found
    assert two.sel(logits="normalised").values == pytest.approx(
        one.sel(logits="normalised").values, rel=1e-6
    )
    assert (abs(two / one - 1).sel(logits="plain").values > 0.01).all()


def test_robust_flatness_attacks_anew():
    """At other weights the frozen images are no longer the worst."""
    problem = Problem(mlp(), images(), "name=pgd,eps=0.2,iterations=20")
    ds = sharpness(problem, ["robust_flatness_average"], logits=["plain"], draws=2, xi_average=1.0)
    assert math.isnan(ds["value"].sel(loss="clean").item())
    from ridgeline.landscape.sharpness.ascent import TENSORS, Ball, norms
    from ridgeline.landscape.sharpness.noise import gaussian
    from ridgeline.landscape.weights.point import add
    from ridgeline.train.data.noise import Purpose

    ball = Ball(norms(problem.origin), 1.0, TENSORS)
    rises, frozen = [], []
    for number in range(2):
        draw = ball.of_length(gaussian(problem.origin, 0, Purpose.WEIGHT_NOISE, number))
        moved = add(problem.origin, ball.move(draw))
        for name, tensor in ball.move(draw).items():
            assert tensor.norm() == pytest.approx(problem.origin[name].norm().item(), rel=1e-12)
        rises.append(problem.evaluate(moved).loss - problem.evaluate().loss)
        frozen.append(problem.frozen().evaluate(moved).loss - problem.evaluate().loss)
    assert ds["value"].sel(loss="robust").item() == pytest.approx(sum(rises) / 2, rel=1e-9)
    assert sum(frozen) < sum(rises)


def test_local_linearity_of_a_linear_loss_is_zero():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).double()

    def linear(logits, y):
        return -logits.gather(1, y[:, None])[:, 0]

    ds = sharpness(Problem(network, images(), PGD, loss=linear), ["local_linearity"],
                   logits=["plain"])  # fmt: skip
    assert ds["value"].sel(loss="clean").item() < 1e-14


def test_local_linearity_finds_the_corner_of_a_quadratic():
    """L = sum x^2 - 2 x . c departs from its plane by ||d||^2: eps^2 D in a corner."""

    class Square(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(1, dtype=torch.float64))

        def forward(self, x):
            s = self.w * x.flatten(1).square().sum(1, keepdim=True)
            return torch.cat([s, 0 * s, 0 * s], 1)

    problem = Problem(Square(), images(), PGD, loss=lambda z, y: z[:, 0])
    ds = sharpness(problem, ["local_linearity"], logits=["plain"])
    assert ds["value"].sel(loss="clean").item() == pytest.approx(16 * 0.1**2, rel=1e-9)


def test_lambda_max_error_is_over_groups():
    problem = Problem(mlp(), images())
    found = MEASURES["lambda_max"].compute(View(problem), SharpnessOptions())
    assert found.over == "10 groups of examples"
    assert 0 < found.se < found.value


def test_names_and_radii_are_checked_first():
    problem = Problem(mlp(), images())
    with pytest.raises(InputError, match="--measures"):
        sharpness(problem, ["sharp"])
    with pytest.raises(InputError, match="--measures"):
        sharpness(problem, ["sam", "sam"])
    with pytest.raises(InputError, match="--rho_l2 must be positive"):
        sharpness(problem, rho_l2=0.0)
    assert point_of(problem.network)
