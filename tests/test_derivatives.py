"""Second derivatives of every kind of layer against slopes of float64 gradients; the guard."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

from ridgeline.landscape.curvature import double_backward, operators
from ridgeline.landscape.curvature.double_backward import Way, ways
from ridgeline.landscape.curvature.gauss_newton import GaussNewton
from ridgeline.landscape.curvature.input_hessian import InputHessian
from ridgeline.landscape.curvature.operators import Hessian, dense
from ridgeline.landscape.curvature.total_hessian import TotalHessian
from ridgeline.landscape.problem import Problem
from ridgeline.landscape.weights.point import flatten, unflatten
from ridgeline.models import InputError
from ridgeline.train.attacks import PGD
from tests.conftest import make_images

SIDE = 5


class Layer(nn.Module):
    """A body under test; its features go through tanh and a fixed matrix to three logits."""

    def __init__(self, *modules: nn.Module, f: Callable | None = None):
        super().__init__()
        self.body = nn.ModuleList(modules) if f else nn.Sequential(*modules)
        self.f = f

    def forward(self, x):
        h = torch.tanh(self.f(x, *self.body) if self.f else self.body(x)).flatten(1)
        waves = torch.arange(3 * h.shape[1], dtype=torch.float64, device=x.device).view(-1, 3)
        return h @ (3 * torch.sin(7 * waves)).to(x.dtype)


class Attend(nn.Module):
    """Self-attention of the rows of an image with fused kernels."""

    def __init__(self, causal: bool = False):
        super().__init__()
        self.qkv, self.causal = nn.Linear(SIDE, 12), causal

    def forward(self, x):
        q, k, v = self.qkv(x[:, 0]).view(-1, SIDE, 3, 2, 2).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)


class Tied(nn.Module):
    """Two layers that share one kernel."""

    def __init__(self):
        super().__init__()
        self.a, self.b = (nn.Conv2d(1, 1, 3, padding=1) for _ in range(2))
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(torch.tanh(self.a(x)))


class Cube(torch.autograd.Function):
    """x^3 whose derivative is a constant to autograd: a wrong Hessian, but a symmetric one."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, g):
        return g * 3 * ctx.saved_tensors[0].detach() ** 2


def warped(x, place, conv):
    """A spatial transformer."""
    move = torch.eye(2, 3).to(x) + 0.1 * place(x.flatten(1)[:, :4]).view(-1, 2, 3)
    grid = F.affine_grid(move, [len(x), 2, 4, 4], align_corners=False)
    return F.grid_sample(conv(x), grid, align_corners=False)


def statistics(layer: nn.Module) -> nn.Module:
    """Running statistics that are not the initial ones."""
    layer.running_mean.normal_()
    layer.running_var.uniform_(0.5, 2)
    return layer


def conv(out: int = 2, **options) -> nn.Module:
    return nn.Conv2d(1, out, 3, **options)


def old(layer: nn.Module) -> nn.Module:
    """An old-style parametrised layer without the graph that keeps it from being copied."""
    layer.weight = layer.weight.detach()
    return layer


def orthogonal(layer: nn.Module, **options) -> nn.Module:
    """Away from the jumps that the signs of `householder` have at the initial weights."""
    layer = parametrizations.orthogonal(layer, **options)
    with torch.no_grad():
        layer.parametrizations.weight.original.mul_(1.2)
    return layer


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(4, 2, 3, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, 1)


def attended(x, m):
    z = x[:, 0, :, :4]
    return m(z, z, z, need_weights=False)[0]


BODIES: dict[str, Callable[[], nn.Module]] = {
    "conv": lambda: Layer(conv()),
    "conv same": lambda: Layer(conv(padding="same")),
    "conv circular": lambda: Layer(conv(padding=1, padding_mode="circular")),
    "conv stride dilation": lambda: Layer(conv(stride=2, dilation=2, padding=1)),
    "depthwise": lambda: Layer(conv(), nn.Tanh(), nn.Conv2d(2, 2, 3, groups=2)),
    "conv transposed": lambda: Layer(conv(), nn.Tanh(), nn.ConvTranspose2d(2, 1, 2, stride=2)),
    "conv1d": lambda: Layer(nn.Flatten(2), nn.Conv1d(1, 2, 5, stride=3)),
    "conv3d": lambda: Layer(nn.Conv3d(1, 2, (1, 3, 3)), f=lambda x, m: m(x[:, None])),
    "batchnorm": lambda: Layer(conv(), statistics(nn.BatchNorm2d(2))),
    "batchnorm1d": lambda: Layer(nn.Flatten(), nn.Linear(25, 2), statistics(nn.BatchNorm1d(2))),
    "instancenorm running": lambda: Layer(
        conv(), statistics(nn.InstanceNorm2d(2, affine=True, track_running_stats=True))
    ),
    "instancenorm": lambda: Layer(conv(), nn.InstanceNorm2d(2, affine=True)),
    "groupnorm": lambda: Layer(conv(), nn.GroupNorm(2, 2)),
    "layernorm": lambda: Layer(conv(), nn.LayerNorm([2, 3, 3])),
    "layernorm first": lambda: Layer(nn.LayerNorm([1, 5, 5]), nn.Conv2d(1, 1, 3)),
    "layernorm bias only": lambda: Layer(
        conv(), nn.Conv2d(1, 18, 1),
        f=lambda x, c, m: F.layer_norm(c(x).flatten(1), (18,), None, m.bias),
    ),
    "rmsnorm": lambda: Layer(conv(), nn.RMSNorm([2, 3, 3])),
    "weightnorm": lambda: Layer(parametrizations.weight_norm(conv())),
    "weightnorm linear": lambda: Layer(
        nn.Flatten(), parametrizations.weight_norm(nn.Linear(25, 2), dim=1)
    ),
    "weightnorm old": lambda: Layer(old(weight_norm(conv()))),
    "weightnorm old whole": lambda: Layer(old(weight_norm(conv(), dim=None))),
    "spectralnorm": lambda: Layer(parametrizations.spectral_norm(conv())),
    "spectralnorm old": lambda: Layer(old(spectral_norm(conv()))),
    "orthogonal": lambda: Layer(nn.Flatten(), orthogonal(nn.Linear(25, 2))),
    "orthogonal cayley": lambda: Layer(
        nn.Flatten(), nn.Linear(25, 2), orthogonal(nn.Linear(2, 2), orthogonal_map="cayley")
    ),
    "tied": lambda: Layer(Tied()),
    "multihead": lambda: Layer(nn.MultiheadAttention(4, 2, batch_first=True), f=attended),
    "encoder": lambda: Layer(encoder(), f=lambda x, m: m(x[:, 0, :, :4])),
    "attention": lambda: Layer(Attend()),
    "attention causal": lambda: Layer(Attend(causal=True)),
    "grid sample": lambda: Layer(nn.Linear(4, 6), conv(), f=warped),
    "gather": lambda: Layer(
        nn.Embedding(5, 2), f=lambda x, e: e((5 * x[:, 0, 0]).long()) * x[:, 0, 0, :, None]
    ),
    "bilinear": lambda: Layer(
        nn.Bilinear(3, 2, 2), f=lambda x, m: m(x[:, 0, 0, :3], x[:, 0, 1, :2])
    ),
    "unfold": lambda: Layer(conv(), nn.Tanh(), nn.Unfold(2)),
    "pixel shuffle": lambda: Layer(conv(4), nn.PixelShuffle(2)),
    "upsampled": lambda: Layer(
        conv(), nn.Tanh(), nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(2, 1, 3)
    ),
    "lstm": lambda: Layer(nn.LSTM(5, 2, batch_first=True), f=lambda x, m: m(x[:, 0])[0]),
    "gru": lambda: Layer(nn.GRU(5, 2, batch_first=True), f=lambda x, m: m(x[:, 0])[0]),
    "maxpool": lambda: Layer(conv(), nn.MaxPool2d(2)),
    "avgpool": lambda: Layer(conv(), nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False)),
    "adaptive avgpool": lambda: Layer(conv(), nn.AdaptiveAvgPool2d(2)),
    "adaptive maxpool": lambda: Layer(conv(), nn.AdaptiveMaxPool2d(2)),
    "cosine": lambda: Layer(conv(), f=lambda x, m: F.normalize(m(x), dim=1)),
    "unused": lambda: Layer(nn.Linear(2, 2), conv(), f=lambda x, _, c: c(x)),
}  # fmt: skip
ACTIVATIONS = (
    nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish,
    nn.Softplus, nn.Softsign, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.ReLU6, nn.Sigmoid,
    nn.LogSigmoid, nn.Tanhshrink, nn.Softshrink, nn.Hardshrink,
)  # fmt: skip
BODIES |= {a.__name__.lower(): (lambda a=a: Layer(conv(), a())) for a in ACTIVATIONS}
BODIES |= {
    "glu": lambda: Layer(conv(), nn.GLU(1)),
    "softmax": lambda: Layer(conv(), nn.Softmax(1)),
}


def problem_of(body: Callable[[], nn.Module], batch_size: int = 3, dtype=torch.float64) -> Problem:
    torch.manual_seed(0)
    network = body().to(dtype).eval()
    images = make_images(3, (1, SIDE, SIDE), classes=3)
    return Problem(network, images, batch_size=batch_size)


def by_slopes(problem: Problem, step: float = 1e-5) -> torch.Tensor:
    """The Hessian (P, P) by central differences of first derivatives, all images at once."""
    x, y = problem.images.pixels, problem.images.labels
    theta = flatten(problem.origin)

    def gradient(at):
        point = {n: t.detach().requires_grad_() for n, t in unflatten(at, problem.origin).items()}
        logits = functional_call(problem.network, {**problem.buffers, **point}, (x,))
        parts = torch.autograd.grad(
            F.cross_entropy(logits, y), list(point.values()), materialize_grads=True,
            allow_unused=True,
        )  # fmt: skip
        return torch.cat([part.flatten() for part in parts])

    moves = step * torch.eye(len(theta), dtype=torch.float64)
    return torch.stack([(gradient(theta + m) - gradient(theta - m)) / (2 * step) for m in moves], 1)


@pytest.mark.parametrize("name", BODIES)
def test_every_layer_has_the_right_second_derivative_or_none(name, monkeypatch):
    """A wrong one of any layer, batch size, layout or kernel; what is not right must be refused."""
    truth = by_slopes(problem_of(BODIES[name]))
    v = torch.randn(len(truth), 4, dtype=torch.float64)
    expected = truth @ v
    for batch_size in (1, 3):
        problem = problem_of(BODIES[name], batch_size)
        operator = Hessian(problem)
        assert operator.asymmetry < 1e-10
        assert (operator.matmat(v) - expected).norm() <= 1e-6 * expected.norm()
        for way in ways(torch.device("cpu")):
            monkeypatch.setattr(operators, "ways", lambda _, way=way: (way,))
            try:
                forced = Hessian(problem)
            except InputError:
                continue
            assert (forced.matmat(v) - expected).norm() <= 1e-6 * expected.norm(), way
        monkeypatch.undo()


def cubed() -> nn.Module:
    return Layer(conv(), f=lambda x, m: Cube.apply(m(x)))


def test_a_layout_that_is_wrong_is_left_for_the_next(monkeypatch):
    """InstanceNorm's eval derivative in channels-last, on batches of one: seen, and avoided."""
    monkeypatch.delitem(double_backward._REPLACED, F.instance_norm)
    problem = problem_of(BODIES["instancenorm running"], batch_size=1)
    operator = Hessian(problem)
    assert operator.trust.way == Way(replaced=True, channels_last=False)
    truth = by_slopes(problem)
    assert (dense(operator) - truth).norm() < 1e-6 * truth.norm()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("name", "body"), [("asymmetric", BODIES["weightnorm"]), ("even", cubed)])
def test_what_is_wrong_in_every_way_is_refused_even_if_symmetric(name, body, dtype, monkeypatch):
    """A derivative that torch gets wrong (fused weight_norm) or cannot see (a custom Function)."""
    monkeypatch.delitem(double_backward._REPLACED, torch._weight_norm)
    with pytest.raises(InputError, match=r"no right second derivatives .* slope of the gradient"):
        Hessian(problem_of(body, dtype=dtype))


def test_gauss_newton_is_not_refused_for_a_second_derivative_it_does_not_use():
    """The guard asks of an operator what it is made of, and no more."""
    problem = problem_of(cubed)
    right = problem_of(lambda: Layer(conv(), f=lambda x, m: m(x) ** 3))
    torch.testing.assert_close(dense(GaussNewton(problem)), dense(GaussNewton(right)))


def test_an_operation_without_a_second_derivative_is_named():
    """A NotImplementedError of autograd, which is no bad input to anyone who reads it."""

    def body():
        return Layer(
            conv(),
            f=lambda x, m: torch.cdist(m(x).flatten(2), x[:, 0, :, :3].flatten(1)[:, None, :9]),
        )

    with pytest.raises(InputError, match="_cdist_backward") as refused:
        Hessian(problem_of(body))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("pixels", [0.0, 1.0, None])
def test_kinks_condemn_nothing(pixels, dtype):
    """A guard that takes a kink for an error: units, pools and clips exactly on theirs."""

    def body():
        layer = Layer(
            conv(4, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(4, 3, 1), nn.ReLU6(), nn.PReLU(init=0.0), nn.Hardtanh(-0.1, 0.1),
        )  # fmt: skip
        nn.init.zeros_(layer.body[4].bias)
        return layer

    problem = problem_of(body, dtype=dtype)
    if pixels is not None:
        problem.images.pixels.fill_(pixels)
    for operator in (Hessian(problem), GaussNewton(problem), InputHessian(problem, 0)):
        assert operator.asymmetry < 1e-3


@pytest.mark.parametrize("name", ["instancenorm running", "weightnorm", "attention", "grid sample"])
def test_second_derivatives_by_the_images(name):
    """The same kinds of error in InputHessian, and in the mixed terms of TotalHessian."""
    problem = problem_of(BODIES[name], batch_size=1)
    x, y, step = problem.images.pixels[1:2], problem.images.labels[1:2], 1e-5

    def gradient(flat):
        at = flat.view_as(x).detach().requires_grad_()
        loss = F.cross_entropy(problem.predict(problem.origin)(at), y)
        return torch.autograd.grad(loss, at)[0].flatten()

    moves = step * torch.eye(x.numel(), dtype=torch.float64)
    columns = [(gradient(x.flatten() + m) - gradient(x.flatten() - m)) / (2 * step) for m in moves]
    truth = torch.stack(columns, 1)
    operator = InputHessian(problem, 1)
    assert (dense(operator) - truth).norm() < 1e-6 * truth.norm()
    total = TotalHessian(problem.under(PGD(eps=0.05, order=2, iterations=5)))
    matrix = dense(total)
    assert (matrix - matrix.T).norm() < 1e-6 * matrix.norm()


def test_weights_that_are_not_finite_are_one_line():
    """A traceback, or an eigenvalue NaN, where the weights are NaN or infinite."""
    problem = problem_of(BODIES["conv"])
    problem.origin["body.0.weight"][0] = torch.nan
    with pytest.raises(InputError, match="NaN or infinite"):
        Hessian(problem)
