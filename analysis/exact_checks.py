"""Exact checks that every machine, device and dtype must pass: `run/selfcheck.py`.

Each check builds a small problem with a closed-form answer, runs the code of the commands, and
returns the error. Theory: Sagun et al. 2016, Ghorbani et al. 2019, Cohen et al. 2021 (edge of
stability), Marchenko and Pastur 1967.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, hessian
from torch.nn import functional as F

from ridgeline.analysis.exact_layers import LAYERS
from ridgeline.analysis.frequency.filters import filter_spectrum
from ridgeline.landscape.curvature.density import lanczos_quadrature
from ridgeline.landscape.curvature.eigenpairs import top_eigenpairs
from ridgeline.landscape.curvature.gauss_newton import GaussNewton
from ridgeline.landscape.curvature.operators import Hessian, Matrix, dense
from ridgeline.landscape.curvature.total_hessian import TotalHessian, refined
from ridgeline.landscape.problem import Problem
from ridgeline.landscape.weights.directions import random_direction
from ridgeline.landscape.weights.paths import curve, straight
from ridgeline.landscape.weights.point import add, buffers_of, flatten, point_of, unflatten
from ridgeline.train.attacks import PGD, Attack
from ridgeline.train.data.examples import Images


@dataclass(frozen=True)
class Bench:
    """The device and the dtype of the checks."""

    device: torch.device
    dtype: torch.dtype

    def problem(self, network: nn.Module, images: Images, attack: Attack | None = None, **options):
        """A problem on this device in this dtype, in batches of 7 (the last may be shorter)."""
        options = {"batch_size": 7, **options}
        return Problem(network.to(self.dtype), images, attack, device=self.device, **options)


@dataclass(frozen=True)
class Finding:
    """The result of a check: `error` is relative; up to `allowed` roundings it passes."""

    what: str
    measured: float
    expected: float
    error: float
    allowed: float

    @property
    def passed(self) -> bool:
        """Whether rounding explains the error. A NaN never passes."""
        return self.error <= self.allowed


def _data(count: int, features: int, classes: int, seed: int = 0) -> Images:
    generator = torch.Generator().manual_seed(seed)
    x = 0.3 + 0.4 * torch.rand(count, 1, 1, features, generator=generator, dtype=torch.float64)
    y = torch.randint(classes, (count,), generator=generator)
    return Images(x, y, torch.arange(count), "anchor", classes)


def _linear(features: int, classes: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(features, classes, bias=False)).double()


def _mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(10, 5), nn.Tanh(), nn.Linear(5, 4)).double()


class _Logistic(nn.Module):
    """Two-class logistic regression: logits (0, w'x)."""

    def __init__(self, w: Tensor):
        super().__init__()
        self.w = nn.Parameter(w)

    def forward(self, x: Tensor) -> Tensor:
        z = x.flatten(1) @ self.w
        return torch.stack([torch.zeros_like(z), z], dim=1)


def _compare(what: str, ours: Tensor, truth: Tensor, bench: Bench, roundings: float) -> Finding:
    ours, truth = ours.double().cpu(), truth.double().cpu()
    error = ((ours - truth).norm() / truth.norm()).item()
    sizes = ours.norm().item(), truth.norm().item()
    return Finding(what, *sizes, error, roundings * torch.finfo(bench.dtype).eps)


def quadratic(bench: Bench) -> Iterator[Finding]:
    """A known matrix: eigenvalues by Lanczos, and Lanczos quadrature with all steps."""
    values = np.concatenate([np.linspace(-1, 2, 96), [5.0, 6.0, 7.5, 9.0]])
    q = np.linalg.qr(np.random.default_rng(0).standard_normal((100, 100)))[0]
    matrix = Matrix(torch.tensor((q * values) @ q.T, dtype=bench.dtype, device=bench.device))
    top = top_eigenpairs(matrix, 4, tol=1e-8).values
    truth = torch.tensor(values[::-1][:4].copy())
    yield _compare("top eigenvalues of a quadratic", torch.tensor(top), truth, bench, 100)
    rule = lanczos_quadrature(matrix, probes=1, steps=150)
    found = torch.tensor(np.sort(rule.values[0]))
    truth = torch.tensor(np.sort(values))
    yield _compare("all eigenvalues by 100 Lanczos steps", found, truth, bench, 1e3)
    mass = rule.mean(lambda v: v**0)[0]
    yield Finding("density integrates to", mass, 1.0, abs(mass - 1), 1e-9)


def least_squares(bench: Bench) -> Iterator[Finding]:
    """Linear regression: H = (2/N) X'X, with edges near those of Marchenko and Pastur."""
    count, features = 4000, 400
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((count, features)))
    images = Images(x.view(count, 1, 1, features), torch.zeros(count, dtype=torch.int64),
                    torch.arange(count), "gauss", 1)  # fmt: skip
    problem = bench.problem(_linear(features, 1), images, loss="squared_error", batch_size=1500)
    matrix = dense(Hessian(problem))
    yield _compare("Hessian of least squares", matrix, 2 * x.T @ x / count, bench, 100)
    largest = torch.linalg.eigvalsh(matrix.double().cpu())[-1].item()
    edge = 2 * (1 + (features / count) ** 0.5) ** 2
    error = abs(largest / edge - 1)
    yield Finding("its edge, Marchenko-Pastur (1 %)", largest, edge, error, 0.01)


def softmax(bench: Bench) -> Iterator[Finding]:
    """Softmax regression: H = (1/N) sum (diag p - pp') kron xx' = Gauss-Newton."""
    images, network = _data(23, 6, 4), _linear(6, 4)
    x = images.pixels.flatten(1)
    p = network(images.pixels).softmax(1).detach()
    middle = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    truth = torch.einsum("ncd,ni,nj->cidj", middle, x, x).reshape(24, 24) / 23
    problem = bench.problem(network, images)
    yield _compare("Hessian of softmax regression", dense(Hessian(problem)), truth, bench, 100)
    yield _compare("its Gauss-Newton matrix", dense(GaussNewton(problem)), truth, bench, 100)


def small_network(bench: Bench) -> Iterator[Finding]:
    """The dense Hessian of an MLP against torch.func, with batches of unequal size."""
    images, network = _data(23, 10, 4), _mlp()
    origin = point_of(network)

    def loss(vector: Tensor) -> Tensor:
        logits = functional_call(network, unflatten(vector, origin), (images.pixels,))
        return F.cross_entropy(logits, images.labels)

    truth = hessian(loss)(flatten(origin))
    matrix = dense(Hessian(bench.problem(_mlp(), images)))
    yield _compare("Hessian of an MLP", matrix, truth, bench, 200)
    yield _compare("its symmetry", matrix, matrix.T, bench, 200)


def layers(bench: Bench) -> Iterator[Finding]:
    """Hessians through layers against those of the same functions in elementary operations.

    PyTorch's own derivatives of the layers cannot be the reference: that of weight_norm is wrong.
    The last batch has one example.
    """
    data = _data(22, 16, 3)
    images = replace(data, pixels=data.pixels.view(22, 1, 4, 4))
    for name, (make, written) in LAYERS.items():
        torch.manual_seed(0)
        body = make()
        width = body(torch.zeros(1, 1, 4, 4)).numel()
        network = nn.Sequential(body, nn.Tanh(), nn.Flatten(), nn.Linear(width, 3)).double()
        for buffer, tensor in network.named_buffers():
            if "running" in buffer:
                tensor.uniform_(0.5, 2)
        origin, buffers = point_of(network), buffers_of(network)

        def loss(vector: Tensor, origin=origin, buffers=buffers, written=written) -> Tensor:
            p = {**buffers, **unflatten(vector, origin)}
            features = written(p, images.pixels).tanh().flatten(1)
            return F.cross_entropy(features @ p["3.weight"].T + p["3.bias"], images.labels)

        truth = hessian(loss)(flatten(origin))
        matrix = dense(Hessian(bench.problem(network, images)))
        yield _compare(f"Hessian through {name}", matrix, truth, bench, 500)


def adversarial_logistic(bench: Bench) -> Iterator[Finding]:
    """Logistic regression in a ball: softplus(-m + eps ||w||_dual) in closed form."""
    images = _data(40, 5, 2, seed=1)
    w = torch.from_numpy(np.random.default_rng(2).standard_normal(5))
    sign, eps = 2 * images.labels.double() - 1, 0.2
    for order, name in ((-1, "l_inf"), (2, "l_2")):
        attack = PGD(eps=eps, order=order, iterations=10)

        def loss(v: Tensor, order=order) -> Tensor:
            dual = v.abs().sum() if order == -1 else v.norm()
            return F.softplus(-sign * (images.pixels.flatten(1) @ v) + eps * dual).mean()

        truth = hessian(loss)(w)
        problem = bench.problem(_Logistic(w.clone()), images, attack)
        total = dense(TotalHessian(problem))
        yield _compare(f"true adversarial Hessian, {name}", total, truth, bench, 1e3)
        frozen = dense(Hessian(refined(problem)))
        if order == -1:
            yield _compare("frozen = true for l_inf", frozen, truth, bench, 1e3)
        else:
            shift = sign[:, None] * w / w.norm()
            x = images.pixels.flatten(1) - eps * shift
            s = torch.sigmoid(-sign * (images.pixels.flatten(1) @ w) + eps * w.norm())
            closed = (x * (s * (1 - s))[:, None]).T @ x / len(x)
            yield _compare("frozen Hessian, l_2", frozen, closed, bench, 1e3)
            gap = ((frozen - total).norm() / total.norm()).item()
            away = 0.0 if gap > 0.05 else 1.0
            yield Finding("frozen differs from true for l_2 by", gap, gap, away, 0.5)


def edge_of_stability(bench: Bench) -> Iterator[Finding]:
    """Full-batch gradient descent ends with lambda_max close to 2 / step (Cohen et al. 2021)."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 1, 1, 10, generator=generator)
    y = torch.randint(3, (50,), generator=generator)
    images = Images(x, y, torch.arange(50), "edge", 3)
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(10, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 3)
    ).to(bench.device, bench.dtype)  # fmt: skip
    inputs, targets = x.to(bench.device, bench.dtype), F.one_hot(y, 3).to(bench.device, bench.dtype)
    step = 0.1
    optimizer = torch.optim.SGD(network.parameters(), lr=step)
    for _ in range(3000):
        optimizer.zero_grad()
        (network(inputs) - targets).square().sum(1).mean().backward()
        optimizer.step()
    problem = bench.problem(network, images, loss="squared_error", batch_size=20)
    sharpness = float(top_eigenpairs(Hessian(problem), 1, tol=1e-3).values[0]) * step
    low, high = 1.8, 2.05
    outside = max(low - sharpness, sharpness - high, 0.0)
    yield Finding("edge of stability: step x lambda_max", sharpness, 2.0, outside, 1e-12)


def paths_and_directions(bench: Bench) -> Iterator[Finding]:
    """Curves have exact ends; random directions have the filter norms of the weights."""
    start = {n: t.to(bench.device, bench.dtype) for n, t in point_of(_mlp()).items()}
    end = add(start, start, 0.3)
    for kind in ("bezier", "poly_chain"):
        path = curve(kind, straight(start, end, 4))
        same = all(torch.equal(path(1.0)[n], end[n]) for n in end)
        yield Finding(f"end of {kind} is the end", float(same), 1.0, 1.0 - same, 0.0)
    v = random_direction(start, 0, "filter")
    weight = next(iter(start.values()))
    ours, truth = next(iter(v.values())).norm(dim=1), weight.norm(dim=1)
    yield _compare("norms of filter-normalised rows", ours, truth, bench, 10)


def perturbations(bench: Bench) -> Iterator[Finding]:
    """A budget of 0 does not change images; a PGD perturbation stays in its ball."""
    images = _data(20, 10, 4)
    problem = bench.problem(_mlp(), images)
    attack = PGD(eps=0.1, iterations=5)
    none = problem.under(attack.at(0.0)).evaluate().loss
    clean = problem.evaluate().loss
    yield Finding("loss under a budget of 0", none, clean, abs(none - clean), 0.0)
    moved = problem.under(attack).frozen().images.pixels.double()
    reach = (moved - images.pixels).abs().max().item()
    yield Finding("reach of PGD at budget 0.1", reach, 0.1, max(0.0, reach - 0.1), 1e-6)


def frequencies_and_cosines(bench: Bench) -> Iterator[Finding]:
    """A constant filter has only DC; cosines of random signs have standard deviation 1/sqrt(D)."""
    energy = filter_spectrum({"conv.weight": torch.ones(2, 1, 3, 3)})["energy"].values.squeeze()
    share = float(energy[0, 0] / energy.sum())
    yield Finding("DC share of constant filters", share, 1.0, abs(share - 1), 1e-6)
    signs = torch.randint(0, 2, (2, 2000, 3, 32, 32), generator=torch.manual_seed(0)) * 2.0 - 1
    first, second = signs.to(bench.device, bench.dtype).flatten(2)
    spread = F.cosine_similarity(first, second, dim=1).std().item()
    null = 3072**-0.5
    yield Finding("spread of null cosines (5 %)", spread, null, abs(spread / null - 1), 0.05)


#: all checks
ANCHORS: tuple[Callable[[Bench], Iterator[Finding]], ...] = (
    quadratic, least_squares, softmax, small_network, layers, adversarial_logistic,
    edge_of_stability, paths_and_directions, perturbations, frequencies_and_cosines,
)  # fmt: skip
