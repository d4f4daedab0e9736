"""What every registered model must pass; a new line in MODELS is tested by itself."""

from __future__ import annotations

import pytest
import torch

from ridgeline.landscape.curvature.operators import Hessian
from ridgeline.landscape.problem import Problem
from ridgeline.landscape.weights.paths import CURVES, curve, straight
from ridgeline.landscape.weights.point import add, point_of
from ridgeline.models import MODELS, build_model
from ridgeline.train.files.checkpoint import load_checkpoint, save_checkpoint
from tests.conftest import make_images

#: networks for any size, one of each kind, on small images
ANY = [(name, (3, 16, 16)) for name in ("wrn16", "resnet18", "resnet50", "resnet18_imagenet")]
ANY.append(("vit4", (1, 8, 8)))


@pytest.fixture(params=[*MODELS, *ANY], ids=lambda key: f"{key[0]}-{key[1][0]}x{key[1][1]}")
def subject(request):
    model_type, shape = request.param
    torch.manual_seed(0)
    network = build_model(model_type, shape, width=1, num_classes=7).double()
    return network, make_images(6, shape, classes=7)


def test_shapes_and_width(subject):
    network, images = subject
    assert network(images.pixels).shape == (6, 7)
    assert network(images.pixels).isfinite().all()


def test_checkpoint_round_trip(subject, tmp_path):
    network, images = subject
    save_checkpoint(tmp_path / "a.ckpt", network.state_dict(), {})
    expected = network.eval()(images.pixels)
    with torch.no_grad():
        for p in network.parameters():
            p.zero_()
    load_checkpoint(tmp_path / "a.ckpt").load_into(network)
    assert torch.equal(network(images.pixels), expected)


def test_hessian_is_symmetric_and_batch_size_invariant(subject):
    network, images = subject
    operator = Hessian(Problem(network, images, batch_size=6))
    v, w = torch.randn(2, operator.shape[0], dtype=torch.float64)
    hv, hw = operator.matvec(v), operator.matvec(w)
    assert torch.dot(w, hv).item() == pytest.approx(torch.dot(v, hw).item(), rel=1e-8)
    ragged = Hessian(Problem(network, images, batch_size=4)).matvec(v)
    torch.testing.assert_close(ragged, hv, rtol=1e-8, atol=1e-8 * hv.abs().max().item())


@pytest.mark.parametrize("kind", CURVES)
def test_path_ends_are_the_model(subject, kind):
    network, images = subject
    problem = Problem(network, images)
    start = point_of(network)
    end = add(start, start, 0.1)
    path = curve(kind, straight(start, end, 4))
    assert torch.equal(problem.evaluate(path(0.0)).losses, problem.evaluate().losses)
    assert torch.equal(problem.evaluate(path(1.0)).losses, problem.evaluate(end).losses)
