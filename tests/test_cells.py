"""What a cell of a scan holds, against closed forms; shards and workers change no bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

import ridgeline as rl
from ridgeline.analysis.cka import cka
from ridgeline.landscape.surfaces.cell import EXTRAS
from ridgeline.landscape.surfaces.shards import Shard, merged
from ridgeline.landscape.weights.point import flatten, unflatten
from ridgeline.train.losses import margins_of
from ridgeline.train.workers import in_order
from tests.conftest import make_images

ATTACK = "name=pgd,threshold=0.05,iter_num=2"


@pytest.fixture
def problem():
    images = make_images(11)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(32, 4))
    return rl.Problem(network.double(), images, batch_size=4)


def test_margin_is_the_true_logit_less_the_largest_other(problem):
    images = problem.images
    logits = problem.predict(problem.origin)(images.pixels).detach()
    expected = []
    for row, label in zip(logits.tolist(), images.labels.tolist(), strict=True):
        expected.append(row[label] - max(v for k, v in enumerate(row) if k != label))
    found = problem.evaluate()
    np.testing.assert_allclose(found.margins, expected, rtol=1e-12)
    assert found.margin == pytest.approx(np.mean(expected))
    assert ((found.margins > 0) == found.correct).all()
    ds = rl.scan(problem, rl.random_plane(problem, 1), 3)
    assert float(ds["margin"].sel(eps=0, x1=0)) == pytest.approx(np.mean(expected))
    assert margins_of(torch.ones(3, 2, 2), torch.ones(3, 2)).isnan().all()


def test_gradient_and_curvature_of_a_cell_are_those_of_dense_derivatives(problem):
    images = problem.images
    plane = rl.random_plane(problem, 1)
    ds = rl.scan(problem, plane, 3, extras=["gradient_norm", "lambda_max"])
    for x in (-1.0, 0.0, 1.0):
        point = plane(x)

        def loss(v, point=point):
            logits = functional_call(problem.network, unflatten(v, point), (images.pixels,))
            return F.cross_entropy(logits, images.labels)

        v = flatten(point).requires_grad_()
        (gradient,) = torch.autograd.grad(loss(v), v)
        cell = ds.sel(eps=0, x1=x)
        assert float(cell["gradient_norm"]) == pytest.approx(gradient.norm().item(), rel=1e-10)
        top = torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, v))[-1].item()
        assert float(cell["lambda_max"]) == pytest.approx(top, rel=1e-4)
        assert float(cell["loss"]) == pytest.approx(loss(v).item(), rel=1e-12)


def test_extras_change_no_other_number_and_are_of_the_same_images(problem):
    robust = problem.under(ATTACK)
    plane = rl.random_plane(robust, 1)
    for adversary in ("moving", "frozen", "anchored"):
        options = {"adversary": adversary, "anchor_every": 2}
        plain = rl.scan(robust, plane, 3, **options)
        more = rl.scan(robust, plane, 3, extras=EXTRAS.keys(), **options)
        np.testing.assert_allclose(more["loss"], plain["loss"], rtol=1e-12)
        assert (more["gradient_norm"] > 0).all() and more["lambda_max"].notnull().all()
    with pytest.raises(rl.InputError, match="the adversary max has no gradient"):
        rl.scan(robust, plane, 3, adversary="max", extras=["gradient_norm"])
    with pytest.raises(rl.InputError, match="unknown measure of a cell"):
        rl.scan(robust, plane, 3, extras=["lambda"])


@pytest.mark.parametrize("adversary", ["moving", "frozen", "anchored", "max"])
def test_shards_merge_to_the_bits_of_one_process(problem, adversary):
    robust = problem.under(ATTACK)
    plane = rl.random_plane(robust)
    options = {"adversary": adversary, "anchor_every": 2, "budgets": [0.0, 0.05]}
    whole = rl.scan(robust, plane, 3, **options)
    parts = [rl.scan(robust, plane, 3, shard=Shard(n, 3), **options) for n in (1, 2, 3)]
    assert sum(int(p["done"].sum()) for p in parts) == whole["done"].size
    xr.testing.assert_equal(merged(parts), whole)
    half = parts[0].copy(deep=True)  # killed, and finished by whoever has no shard
    xr.testing.assert_equal(rl.scan(robust, plane, 3, cells=half, **options), whole)


def test_numbers_do_not_depend_on_how_many_work(problem):
    robust, found = problem.under(ATTACK), []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        try:
            scores = robust.evaluate()
            images = torch.cat([x for _, x in robust.adversarial()])
        finally:
            torch.set_num_threads(1)
        found.append((scores.losses, scores.margins, images))
    for one, three in zip(*found, strict=True):
        assert torch.equal(one, three)


def test_jobs_come_back_in_order_and_an_error_stops_them():
    cpu, done = torch.device("cpu"), []
    torch.set_num_threads(3)
    try:

        def job(n):
            if n == 4:
                raise KeyError(n)
            done.append(n)
            return n, torch.get_num_threads()

        jobs = [lambda n=n: job(n) for n in range(50)]
        assert list(in_order(jobs[:4], 4, cpu)) == [(n, 1) for n in range(4)]
        with pytest.raises(KeyError):
            list(in_order(jobs, 50, cpu))
        assert len(done) < 20
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(1)


THREADS = [2, 3]


@pytest.fixture
def threads(request):
    """Torch with several threads meanwhile."""
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(1)


class WithNorm(nn.Module):
    """BatchNorm and an input that is overwritten."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.ReLU(inplace=True), nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Tanh(), nn.Flatten(),
            nn.Linear(48, 4),
        )  # fmt: skip

    def forward(self, x):
        """Logits (N, 4); x itself is changed."""
        return self.body(x.sub_(0.4))


@pytest.mark.parametrize("threads", THREADS, indirect=True)
def test_hooks_and_recalibration_see_the_network_after_parallel_work(threads):
    images = make_images(23)
    network = WithNorm().double()
    problem = rl.Problem(network, images, batch_size=4)
    plane = rl.random_plane(problem, 1)
    found = []
    for number in (threads, 1):
        torch.set_num_threads(number)
        for _ in range(3):
            found.append(rl.scan(problem, plane, 5, batchnorm="recalibrate")["loss"].values)
            found.append(cka(problem, problem.under(ATTACK), minibatch=8)["mean_diagonal"].values)
    for one, other in zip(found[::2], found[2::2], strict=False):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(found[1::2], found[3::2], strict=False):
        np.testing.assert_array_equal(one, other)
    kept = rl.scan(problem, plane, 5)["loss"].values
    assert not np.allclose(kept, found[0])
    assert problem.evaluate().loss == problem.evaluate().loss


@pytest.mark.parametrize("threads", THREADS, indirect=True)
@pytest.mark.parametrize(
    "attack",
    [
        "name=apgd,threshold=0.1,iter_num=3,restarts=1",
        "name=square,threshold=0.1,iter_num=5",
        ATTACK,
    ],
)
def test_attacks_are_those_of_one_thread_and_leave_global_state_alone(threads, attack):
    robust = rl.Problem(WithNorm(), make_images(23), attack, batch_size=4)
    tf32, state = torch.backends.cudnn.allow_tf32, torch.get_rng_state()
    torch.backends.cudnn.allow_tf32 = True
    try:
        found = [robust.evaluate().losses for _ in range(3)]
        assert torch.backends.cudnn.allow_tf32 is True
    finally:
        torch.backends.cudnn.allow_tf32 = tf32
    assert torch.equal(torch.get_rng_state(), state)
    torch.set_num_threads(1)
    for losses in found:
        assert torch.equal(losses, robust.evaluate().losses)


@pytest.mark.parametrize("threads", [1, 2, 3], indirect=True)
def test_a_caller_may_predict_while_attacks_run_and_without_gradients(threads):
    robust = rl.Problem(WithNorm(), make_images(23), ATTACK, batch_size=4)
    predict, found = robust.predict(robust.origin), []
    with torch.no_grad():
        for batch, x in robust.adversarial():
            found.append((predict(x).argmax(1) == batch.y).double())
    assert torch.cat(found).mean().item() == robust.evaluate().accuracy
