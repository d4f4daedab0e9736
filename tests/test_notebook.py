"""A notebook's way in: any network, data and loss, results that carry their kind."""

from __future__ import annotations

import contextlib
import io
import json
import re
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
import torch
from pyhessian import hessian as pyhessian
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

import ridgeline as rl
from ridgeline.landscape.curvature.operators import dense
from ridgeline.landscape.weights.point import flatten, unflatten
from ridgeline.train.data.any_data import examples_of
from ridgeline.train.data.examples import Examples, Images
from tests.conftest import ROOT, make_images


class Tokens(nn.Module):
    """A token transformer: whole numbers and a mask in, logits per place (N, T, V) out."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.attend = nn.TransformerEncoderLayer(4, 2, 6, 0.1, batch_first=True)
        self.out = nn.Linear(4, 7)

    def forward(self, tokens, mask):
        """Logits (N, T, 7)."""
        z = self.attend(self.embed(tokens), src_key_padding_mask=mask)
        return self.out(z)


class TwoInputs(nn.Module):
    """An image and a row of a table in, one number out."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.norm = nn.BatchNorm2d(2)
        self.row = nn.Linear(3, 4)
        self.out = nn.Linear(2 + 4, 1)

    def forward(self, image, row):
        """Values (N, 1)."""
        seen = torch.tanh(self.norm(self.conv(image))).mean((2, 3))
        return self.out(torch.cat([seen, torch.tanh(self.row(row))], 1))


def next_token_loss(outputs, targets):
    """Mean over places of the cross-entropy: (N,)."""
    return F.cross_entropy(outputs.transpose(1, 2), targets, reduction="none").mean(1)


def huber(outputs, targets):
    """Huber's loss (N,)."""
    return F.huber_loss(outputs, targets, reduction="none").flatten(1).sum(1)


def cases():
    """Name -> network, data as a user gives them, the loss, and the mean loss as PyTorch writes."""
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(30, 5, generator=draw).double()
    values = torch.randn(30, 2, generator=draw).double()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        mlp = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 2)).double()
        tokens_net, two = Tokens().double().eval(), TwoInputs().double()
        two.norm.running_mean.normal_()
        two.norm.running_var.uniform_(0.5, 2)
    tokens = torch.randint(0, 7, (20, 6), generator=draw)
    mask = torch.zeros(20, 6, dtype=torch.bool)
    mask[::2, 4:] = True
    images = torch.rand(18, 1, 6, 6, generator=draw).double()
    table = torch.randn(18, 3, generator=draw).double()
    target = torch.randn(18, 1, generator=draw).double()
    return {
        "regression": (mlp, (rows, values), "squared_error", (rows,), {},
                       lambda o: (o - values).square().sum(1).mean()),
        "tokens": (tokens_net, ({"tokens": tokens, "mask": mask}, tokens.roll(-1, 1)),
                   next_token_loss, (), {"tokens": tokens, "mask": mask},
                   lambda o: F.cross_entropy(o.transpose(1, 2), tokens.roll(-1, 1))),
        "two inputs": (two, ((images, table), target), huber, (images, table), {},
                       lambda o: F.huber_loss(o, target)),
    }  # fmt: skip


def true_hessian(network, positional, named, mean_loss):
    """The dense Hessian by PyTorch's own derivatives, and the gradient's origin."""
    network.eval()
    origin = rl.point_of(network)
    buffers = dict(network.named_buffers())

    def loss(vector):
        state = {**buffers, **unflatten(vector, origin)}
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            return mean_loss(functional_call(network, state, positional, named))

    return torch.autograd.functional.hessian(loss, flatten(origin))


@pytest.mark.parametrize("name", ["regression", "tokens", "two inputs"])
def test_curvature_of_any_network_is_the_dense_hessian(name):
    network, data, loss, positional, named, mean_loss = cases()[name]
    exact = true_hessian(network, positional, named, mean_loss)
    problem = rl.Problem(network, data, loss=loss, batch_size=7)
    ours = dense(rl.Hessian(problem))
    torch.testing.assert_close(ours, exact, rtol=1e-9, atol=1e-11)
    values = torch.linalg.eigvalsh(exact).flip(0)
    pairs = rl.top_eigenpairs(problem, k=3, tol=1e-8)
    np.testing.assert_allclose(pairs["eigenvalue"], values[:3], rtol=1e-8)
    np.testing.assert_allclose(
        rl.top_eigenpairs(problem, k=1, which="SA", tol=1e-8)["eigenvalue"], values[-1:], rtol=1e-6
    )
    for value, v in zip(pairs["eigenvalue"].values, rl.eigenvectors(problem, pairs), strict=True):
        torch.testing.assert_close(exact @ flatten(v), value * flatten(v), rtol=1e-5, atol=1e-6)
    found = rl.trace(problem, products=400)
    assert abs(float(found["trace"]) - exact.trace()) < 5 * float(found["trace_se"])
    density = rl.spectral_density(problem, probes=40, steps=12).sel(order=1)
    gap = float(density["moment"]) - float(exact.trace()) / len(exact)
    assert abs(gap) < 4 * float(density["moment_se"])


@pytest.mark.parametrize("name", ["regression", "tokens", "two inputs"])
def test_gauss_newton_of_any_network_is_the_dense_one(name):
    network, data, loss, positional, named, mean_loss = cases()[name]
    network.eval()
    origin, buffers = rl.point_of(network), dict(network.named_buffers())

    def outputs(vector):
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            state = {**buffers, **unflatten(vector, origin)}
            return functional_call(network, state, positional, named)

    jacobian = torch.autograd.functional.jacobian(outputs, flatten(origin)).flatten(0, -2)
    out = outputs(flatten(origin)).detach()
    inner = torch.autograd.functional.hessian(lambda o: mean_loss(o.view_as(out)), out.flatten())
    problem = rl.Problem(network, data, loss=loss, batch_size=7)
    torch.testing.assert_close(
        dense(rl.GaussNewton(problem)), jacobian.T @ inner @ jacobian, rtol=1e-9, atol=1e-11
    )
    empirical = dense(rl.GaussNewton(problem, curvature="empirical"))
    each = []
    for n in range(len(out)):
        one = problem.on(problem.data.take(torch.tensor([n])))
        each.append(flatten(rl.Hessian(one).gradient()))
    gradients = torch.stack(each)
    torch.testing.assert_close(empirical, gradients.T @ gradients / len(out), rtol=1e-9, atol=1e-11)


def test_eigenvalues_of_a_regression_equal_pyhessian():
    network, (x, y), _, *_ = cases()["regression"]
    with contextlib.redirect_stdout(io.StringIO()):
        tool = pyhessian(network, nn.MSELoss(), data=(x, y), cuda=False)
        theirs, _ = tool.eigenvalues(maxIter=2000, tol=1e-9, top_n=2)
    problem = rl.Problem(network, (x, y), loss=lambda o, t: (o - t).square().mean(1))
    ours = rl.top_eigenpairs(problem, k=2, which="LM", tol=1e-8)["eigenvalue"].values
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)


def test_pyhessian_as_estimator_takes_the_loss_of_the_problem():
    from ridgeline.landscape.curvature.measures import SpectrumOptions

    network, data, loss, *_ = cases()["regression"]
    problem = rl.Problem(network, data, loss=loss)
    wanted = SpectrumOptions(2, "LM", 1e-6, 2000, estimator="pyhessian")
    theirs = rl.spectrum(problem, wanted)["eigenvalue"].values
    ours = rl.top_eigenpairs(problem, 2, which="LM", tol=1e-8)["eigenvalue"].values
    np.testing.assert_allclose(theirs, ours, rtol=1e-3)


@pytest.mark.parametrize("name", ["regression", "tokens", "two inputs"])
def test_a_scan_of_any_network_is_the_loss_at_every_place(name):
    network, data, loss, positional, named, mean_loss = cases()[name]
    problem = rl.Problem(network, data, loss=loss, batch_size=7)
    plane = rl.random_plane(problem, normalization="layer", one_dimensional="layer")
    surface = rl.scan(problem, plane, 3)
    assert surface["loss"].dims == ("eps", "x1", "x2")
    network.eval()
    for x1 in (-1.0, 0.0, 1.0):
        state = {**dict(network.named_buffers()), **plane(x1, 1.0)}
        with torch.no_grad():
            expected = mean_loss(functional_call(network, state, positional, named))
        found = surface["loss"].sel(eps=0, x1=x1, x2=1)
        assert float(found) == pytest.approx(float(expected), rel=1e-9)
    assert np.isnan(surface["accuracy"]).all()
    assert surface["loss"].attrs["units"] == ""


def test_batchnorm_of_a_network_with_two_inputs_is_recalibrated():
    network, data, loss, positional, *_ = cases()["two inputs"]
    problem = rl.Problem(network, data, loss=loss, batch_size=7)
    found = rl.scan(problem, rl.random_plane(problem, 1), 3, batchnorm="recalibrate")
    network.train()
    network.norm.momentum = None
    network.norm.reset_running_stats()
    with torch.no_grad():
        network(*positional)
        count = positional[0].shape[0] * 16
        network.norm.running_var *= (count - 1) / count  # ours is the variance of the batch
        network.eval()
        expected = F.huber_loss(network(*positional), data[1])
    assert float(found["loss"].sel(eps=0, x1=0)) == pytest.approx(float(expected), rel=1e-9)


def test_a_curve_between_two_networks_is_scanned_by_the_same_call():
    network, data, loss, *_, mean_loss = cases()["regression"]
    problem = rl.Problem(network, data, loss=loss)
    other = {n: t + 0.1 for n, t in problem.origin.items()}
    found = rl.scan(problem, rl.curve("bezier", [problem.origin, other, other]), 3)
    assert list(found["t"].values) == [0, 0.5, 1]
    network.load_state_dict(other)
    with torch.no_grad():
        expected = float(mean_loss(network(data[0])))
    assert float(found["loss"][0, -1]) == pytest.approx(expected)


class Rows(Dataset):
    """A map-style data set of a table."""

    def __len__(self):
        return 30

    def __getitem__(self, n):
        _, (x, y), *_ = cases()["regression"]
        return x[n], y[n]


def test_data_come_as_users_have_them():
    network, (x, y), loss, *_ = cases()["regression"]
    expected = rl.Problem(network, (x, y), loss=loss).evaluate().losses
    for data in (
        (x.numpy(), y.numpy()),
        [x, y],
        DataLoader(TensorDataset(x, y), batch_size=7),
        TensorDataset(x, y),
        Rows(),
        [(x[:11], y[:11]), (x[11:], y[11:])],
        [{"input": x, "labels": y}],
    ):
        given = rl.Problem(network, data, loss=loss)
        torch.testing.assert_close(given.evaluate().losses, expected, rtol=0, atol=0)


def test_images_with_classes_become_images():
    images = make_images(12)
    loader = DataLoader(TensorDataset(images.pixels, images.labels), batch_size=5)
    found = examples_of(loader)
    assert isinstance(found, Images)
    assert torch.equal(found.pixels, images.pixels)
    assert torch.equal(found.labels, images.labels)
    assert isinstance(examples_of((images.pixels, images.labels.float())), Examples)
    assert isinstance(examples_of((images.pixels, images.labels - 9)), Examples)


def flat(classes=4):
    """A small classifier of small images."""
    size = make_images(4).pixels[0].numel()
    return nn.Sequential(nn.Flatten(), nn.Linear(size, 5), nn.Tanh(), nn.Linear(5, classes))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (lambda n, x, y: ("net", (x, y)), "must be a torch.nn.Module, got str"),
        (lambda n, x, y: (n, 3), "cannot read data of type int"),
        (lambda n, x, y: (n, x), "cannot read data of type Tensor"),
        (lambda n, x, y: (n, (x, y[:3])), "the same number of examples"),
        (lambda n, x, y: (n, (x[:0], y[:0])), "at least one"),
        (lambda n, x, y: (n, (x * torch.nan, y)), "NaN or infinite"),
        (lambda n, x, y: (n, (x[:, :3], y)), "does not take examples of shape 3"),
        (lambda n, x, y: (n, (x, y)), "for regression pass loss='squared_error'"),
        (lambda n, x, y: (n, (x, torch.arange(30))), "the targets run from 0 to 29"),
        (lambda n, x, y: (n, [x, x, x]), "yields Tensor, not|yields"),
        (lambda n, x, y: (n, []), "yields no batch"),
        (lambda n, x, y: (n, [{"a": x}]), "under one of labels"),
        (lambda n, x, y: (n, (x, np.array(["a"] * 30))), "holds no numbers"),
    ],
)
def test_what_does_not_fit_is_refused_by_the_constructor(arguments, said):
    network, (x, y), *_ = cases()["regression"]
    with pytest.raises(rl.InputError, match=said):
        rl.Problem(*arguments(network, x, y))


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (nn.MSELoss(), "one number per example"),
        (nn.MSELoss(reduction="none"), "one number per example"),
        ("l1", "unknown loss 'l1'"),
        (lambda o, y: o.sum(1) / 0, "NaN or infinite"),
        (lambda o, y: o @ y[0, :1], "does not take outputs"),
    ],
)
def test_a_loss_that_does_not_fit_is_refused(loss, said):
    network, data, *_ = cases()["regression"]
    with pytest.raises(rl.InputError, match=said):
        rl.Problem(network, data, loss=loss)


def test_attacks_ask_for_images_and_classes():
    network, data, loss, *_ = cases()["regression"]
    problem = rl.Problem(network, data, loss=loss)
    with pytest.raises(rl.InputError, match="attacks are for images"):
        problem.under("name=pgd,threshold=0.1,iter_num=2")
    with pytest.raises(rl.InputError, match="needs images"):
        problem.images  # noqa: B018
    values = nn.Sequential(nn.Flatten(), nn.Linear(make_images(4).pixels[0].numel(), 1))
    images = rl.Problem(values, make_images(6), loss=lambda o, y: (o[:, 0] - y).square())
    with pytest.raises(rl.InputError, match="one number per image"):
        images.under("name=pgd,threshold=0.1,iter_num=2")
    with pytest.raises(rl.InputError, match="unknown attack"):
        rl.Problem(flat(4), make_images(6), "name=pdg,threshold=0.1,iter_num=2")


def test_every_repr_is_one_line_without_a_tensor():
    problem = rl.Problem(flat(4), make_images(6), "name=fgsm,threshold=0.1")
    plane = rl.random_plane(problem)
    others = [rl.Problem(n, data, loss=loss) for n, data, loss, *_ in cases().values()]
    for thing in (problem, problem.data, problem.evaluate(), plane, problem.under(None), *others,
                  rl.curve("bezier", [problem.origin] * 3), rl.Hessian(problem.under(None)),
                  others[0].data):  # fmt: skip
        assert "\n" not in repr(thing) and "tensor(" not in repr(thing), type(thing)
        assert len(repr(thing)) < 400
    assert "6 of" in repr(problem) and "FGSM" in repr(problem) and "Sequential" in repr(problem)


def test_what_python_computes_is_drawn_saved_and_loaded(tmp_path):
    problem = rl.Problem(flat(4), make_images(8))
    results = {
        "pairs": rl.top_eigenpairs(problem, 2),
        "density": rl.spectral_density(problem, probes=2, steps=6),
        "blocks": rl.top_eigenpairs(problem, 1, blocks="each"),
        "surface": rl.scan(problem, rl.random_plane(problem), 3),
        "line": rl.scan(problem, rl.random_plane(problem, 1), 3, extent=0.5),
    }
    for name, result in results.items():
        rl.draw(result).savefig(tmp_path / f"{name}.png")
        matplotlib.pyplot.close("all")
        rl.save(result, tmp_path / f"{name}.nc")
        again = rl.load(tmp_path / f"{name}.nc")
        assert again.identical(result) or again.equals(result)
        assert again.attrs["kind"] == result.attrs["kind"]
        recipe = json.loads(again.attrs["recipe"])
        assert recipe["network"] == "Sequential" and recipe["data"]["examples"] == 8
        rl.draw(again)
        matplotlib.pyplot.close("all")
    with pytest.raises(rl.InputError, match="several blocks"):
        rl.eigenvectors(problem, results["blocks"])
    with pytest.raises(rl.InputError, match="holds no eigenvectors"):
        rl.eigenvectors(problem, results["density"])
    with pytest.raises(rl.InputError, match="of another network"):
        rl.eigenvectors(rl.Problem(flat(5), make_images(8)), results["pairs"])


def test_a_problem_shares_its_private_network_and_touches_nothing():
    network = flat(4)
    before = {n: t.clone() for n, t in network.state_dict().items()}
    problem = rl.Problem(network, make_images(8))
    assert problem.network is not network
    for other in (problem.under("name=fgsm,threshold=0.1"), problem.on(make_images(5)),
                  problem.seeded(3)):  # fmt: skip
        assert other.network is problem.network
    double = problem.to(dtype=torch.float64)
    assert double.dtype == torch.float64 and problem.dtype == torch.float32
    assert next(problem.network.parameters()).dtype == torch.float32
    rl.top_eigenpairs(problem.under("name=fgsm,threshold=0.1"), 1)
    assert all(torch.equal(t, before[n]) for n, t in network.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in network.parameters())


def test_importing_everything_changes_no_global_state():
    code = """
import os, sys, random, warnings, logging
import numpy, torch, matplotlib
state = lambda: (matplotlib.rcParams._get("backend"), matplotlib.rcParams["font.size"],
  torch.get_default_dtype(), torch.get_float32_matmul_precision(), torch.get_num_threads(),
  torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32,
  torch.is_grad_enabled(), torch.initial_seed(), random.getstate(),
  numpy.random.get_state()[1].sum(),
  len(warnings.filters), logging.getLogger().level, len(logging.getLogger().handlers),
  torch.are_deterministic_algorithms_enabled(), dict(os.environ))
import seaborn, xarray, scipy.stats, pandas, tqdm, mlxtend
before = state()
import ridgeline as rl
for name in rl.PUBLIC:
    getattr(rl, name)
after = state()
print([n for n, (a, b) in enumerate(zip(before, after)) if a != b])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "setting",
    [
        "pass", "b.cuda.matmul.fp32_precision = 'tf32'", "b.cuda.matmul.fp32_precision = 'ieee'",
        "b.fp32_precision = 'tf32'", "b.fp32_precision = 'ieee'",
        "b.fp32_precision = 'tf32'; b.cuda.matmul.fp32_precision = 'ieee'",
        "b.cudnn.conv.fp32_precision = 'ieee'", "b.cudnn.allow_tf32 = False",
        "torch.set_float32_matmul_precision('high')",
    ],
)  # fmt: skip
def test_either_set_of_flags_of_torch_is_obeyed_and_left_alone(setting):
    """Sees a call that raises under the newer flags, rounds unasked, or changes one for good."""
    code = f"""
import torch, ridgeline as rl
from ridgeline.train import precision
b = torch.backends
def read(flag):
    try:
        return flag()
    except RuntimeError:
        return "refused"
def flags():
    return [read(f) for f in (lambda: b.fp32_precision, lambda: b.cuda.matmul.fp32_precision,
      lambda: b.cudnn.conv.fp32_precision, lambda: b.cudnn.rnn.fp32_precision,
      lambda: b.mkldnn.matmul.fp32_precision, torch.get_float32_matmul_precision,
      lambda: b.cudnn.allow_tf32, lambda: b.cuda.matmul.allow_tf32)]
{setting}
before = flags()
asked = b.cuda.matmul.fp32_precision == "tf32"
seen = []
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 2)
    def forward(self, x):
        seen.append((b.cudnn.conv.fp32_precision == "tf32", b.cudnn.rnn.fp32_precision == "tf32"))
        return self.layer(x)
problem = rl.Problem(Net(), (torch.rand(4, 4), torch.arange(4) % 2))
rl.top_eigenpairs(problem, 1, max_iter=2)
assert (asked, asked) in seen and set(seen) <= {{(asked, asked), (False, False)}}, seen
for wanted in (True, False):
    with precision.products(wanted), precision.convolutions(wanted):
        assert (b.cuda.matmul.fp32_precision == "tf32") == wanted
        assert (b.cudnn.conv.fp32_precision == "tf32") == wanted
assert flags() == before, (before, flags())
if b.fp32_precision == "none" and before[1] == "none":
    b.fp32_precision = "tf32"  # a later wish still reaches the products
    assert b.cuda.matmul.fp32_precision == "tf32"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_whole_job_takes_no_more_than_twelve_lines(tmp_path):
    network, images = flat(4), make_images(8)
    loader = DataLoader(TensorDataset(images.pixels, images.labels), batch_size=4)
    problem = rl.Problem(network, loader)
    pairs = rl.top_eigenpairs(problem, k=2)
    density = rl.spectral_density(problem, probes=2, steps=5)
    rl.trace(problem, products=4)
    surface = rl.scan(problem, rl.random_plane(problem), 3)
    rl.draw(surface).savefig(tmp_path / "surface.pdf")
    robust = problem.under("name=pgd,threshold=8,iter_num=2,order=-1")
    higher = rl.top_eigenpairs(robust, k=2)
    assert {pairs.attrs["kind"], density.attrs["kind"], higher.attrs["kind"]} == {"hessian"}
    assert robust.evaluate().loss > problem.evaluate().loss
    assert (tmp_path / "surface.pdf").stat().st_size > 1000


def test_the_notebook_of_the_guide_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs/how_to/notebook.md").read_text()
    first, second = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    images = make_images(8)
    names = {"network": flat(4), "loader": DataLoader(TensorDataset(images.pixels, images.labels))}
    exec(first, names)
    assert names["higher"].sizes["rank"] == 5 and names["along"]["loss"].shape == (1, 21, 21)
    assert {p.name for p in tmp_path.iterdir()} == {
        "surface.pdf", "eigenvalues.pdf", "higher.nc"}  # fmt: skip
    regressor, (x, y), *_ = cases()["regression"]
    transformer, (inputs, targets), my_loss, *_ = cases()["tokens"]
    names = {"rl": rl, "regressor": regressor, "x": x, "y": y, "transformer": transformer,
             "targets": targets, "my_loss": my_loss, **inputs}  # fmt: skip
    exec(second, names)


@pytest.mark.parametrize("name", ["regression", "tokens", "two inputs"])
def test_a_curve_is_trained_between_any_two_networks(name):
    network, data, loss, *_ = cases()[name]
    problem = rl.Problem(network, data, loss=loss, batch_size=7)
    end = {n: -t if t.ndim > 1 else t for n, t in problem.origin.items()}
    options = {"epochs": 15, "batch_size": 10, "optimizer": "name=adam,lr=0.05"}
    path = rl.connect(problem, end, **options)
    line = rl.curve("poly_chain", [problem.origin, end])
    t = {"t": [0.0, 0.25, 0.5, 0.75, 1.0]}
    found, straight = (rl.scan(problem, p, t)["loss"][0] for p in (path, line))
    np.testing.assert_array_equal(found[[0, -1]], straight[[0, -1]])
    assert float(found[1:-1].mean()) < float(straight[1:-1].mean())
    again = rl.connect(problem, end, **options)
    assert all(torch.equal(a, again.knots[1][n]) for n, a in path.knots[1].items())
    for wrong, said in (({"bends": 0}, "bends must be"), ({"curve_type": "arc"}, "curve_type")):
        with pytest.raises(rl.InputError, match=said):
            rl.connect(problem, end, **wrong)
    with pytest.raises(rl.InputError, match="the other end"):
        rl.connect(problem, flat(4))


class Endless(torch.utils.data.IterableDataset):
    """A stream without a length."""

    def __iter__(self):
        _, (x, y), *_ = cases()["regression"]
        yield from zip(x, y, strict=True)


def test_a_stream_without_length_is_read():
    network, (x, y), loss, *_ = cases()["regression"]
    for data in (Endless(), DataLoader(Endless(), batch_size=7)):
        found = rl.Problem(network, data, loss=loss).evaluate().losses
        torch.testing.assert_close(found, rl.Problem(network, (x, y), loss=loss).evaluate().losses)


def test_a_matrix_smaller_than_the_steps_has_a_density():
    network, data, loss, *_ = cases()["regression"]
    problem = rl.Problem(network, data, loss=loss)
    count = sum(t.numel() for t in problem.origin.values())
    for steps in (count - 1, count, count + 30):
        density = rl.spectral_density(problem, probes=2, steps=steps)
        assert density.sizes["step"] == steps
        np.testing.assert_allclose(density["ritz_weight"].sum("step"), 1, rtol=1e-9)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda p: rl.top_eigenpairs(p, "3"), "topk must be a number"),
        (lambda p: rl.top_eigenpairs(p, 1, memory="1"), "memory must be a number"),
        (lambda p: rl.top_eigenpairs(p, 1, blocks=["a"]), "blocks must be"),
        (lambda p: rl.scan(p, "plane", 3), "needs a plane or a curve"),
        (lambda p: rl.scan(p, rl.random_plane(p), 2.5), "axes must be"),
        (lambda p: rl.scan(p, rl.random_plane(rl.Problem(flat(4), make_images(6))), 3), "another"),
        (lambda p: rl.scan(p, rl.random_plane(p, 1), {"loss": [0.0]}), "cannot be called loss"),
        (lambda p: rl.Problem(p.network, p.data, loss=lambda o, y: o.detach()[:, 0]),
         "has no gradient"),
        (lambda p: rl.trace(rl.Problem(p.network, p.data, loss=lambda o, y: torch.where(
            y[:, 0] > y[:2, 0].max(), torch.nan, 1.0) * o[:, 0])), "no curvature|not finite"),
        (lambda p: rl.plane(p, torch.ones(3)), "dict of tensors by parameter"),
        (lambda p: rl.plane(p, [p.origin]), "one by one"),
        (lambda p: rl.plane(p, {n: t * torch.nan for n, t in p.origin.items()}), "no finite"),
        (lambda p: rl.draw([p]), "draw takes a result"),
        (lambda p: rl.draw("a.nc"), "draw takes a result"),
        (lambda p: p.seeded("1"), "seed must be a whole number"),
        (lambda p: rl.Problem(p.network, p.data, loss=p.loss, device="moon"), "cannot be used"),
        (lambda p: rl.Problem(p.network, p.data, loss=lambda o, y: (o - o.mean(0)).square().sum(1)),
         "depends on the other examples"),
    ],
)  # fmt: skip
def test_what_means_nothing_is_one_line(call, said):
    network, data, loss, *_ = cases()["regression"]
    with pytest.raises(rl.InputError, match=said):
        call(rl.Problem(network, data, loss=loss))


class Value(nn.Module):
    """One number per example, (N,)."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()

    def forward(self, x):
        """Values (N,)."""
        return self.body(x)[:, 0]


def test_outputs_may_be_single_numbers():
    x, y = torch.randn(9, 3).double(), torch.randn(9).double()
    network = Value()
    problem = rl.Problem(network, (x, y), loss="squared_error")
    own = rl.Problem(network, (x, y), loss=lambda o, t: (o - t).square())
    torch.testing.assert_close(problem.evaluate().losses, own.evaluate().losses)
    each = [flatten(rl.Hessian(own.on(own.data.take(torch.tensor([n])))).gradient())
            for n in range(9)]  # fmt: skip
    gradients = torch.stack(each)
    fisher = dense(rl.GaussNewton(own, curvature="empirical"))
    torch.testing.assert_close(fisher, gradients.T @ gradients / 9, rtol=1e-9, atol=1e-12)
