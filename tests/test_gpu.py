"""Every command and the exact answers on a CUDA device, beside the CPU's numbers: `make gpu`."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ridgeline.analysis.exact_checks import ANCHORS, Bench
from ridgeline.landscape.curvature.basis import Rows
from ridgeline.landscape.curvature.compiled_hessian import CompiledHessian
from ridgeline.landscape.curvature.eigenpairs import top_eigenpairs
from ridgeline.landscape.curvature.operators import Hessian
from ridgeline.landscape.problem import Problem
from ridgeline.models import build_model
from tests.commands import CHAIN, Precision, call, compared, manifest, tiny_set
from tests.conftest import make_images

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CUDA = torch.device("cuda", 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the commands find what those before them wrote."""
    folder = tmp_path_factory.mktemp("cuda")
    tiny_set(folder)
    manifest(folder)
    return folder


@pytest.mark.parametrize("line", CHAIN, ids=lambda line: line[:60])
def test_a_command_computes_on_the_gpu_in_full_precision(line, folder, monkeypatch):
    """Sees what the pretended device does not know: kernels, generators, pinned memory."""
    monkeypatch.setattr("ridgeline.run.shared.networks.device_of", lambda _: CUDA)
    with Precision() as noted:
        done = call(line, folder)
    assert done.returncode == 0, done.stderr
    assert not noted.rounded


def test_the_numbers_are_those_of_the_cpu(folder, every_result):
    """Sees a result that depends on the device beyond rounding; comes after the commands."""
    assert compared(every_result, folder, weights=(1e-2, 1e-3), numbers=(3e-2, 1e-3)) > 40


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("anchor", ANCHORS, ids=lambda a: a.__name__)
def test_selfcheck(anchor, dtype):
    """Closed forms of curvature, losses, paths and attacks."""
    findings = list(anchor(Bench(CUDA, dtype)))
    assert findings
    assert all(f.passed for f in findings), [f for f in findings if not f.passed]


@pytest.mark.parametrize("name", ["lenet", "resnet", "preact", "vgg"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_curvature_of_convolutions_and_batchnorm(name, dtype):
    """Sees a kernel of cuDNN whose second derivative is another, and rows on the wrong device."""
    torch.manual_seed(0)
    network = build_model(name, (3, 32, 32), width=2).to(dtype)
    images = make_images(12, (3, 32, 32), 10)
    found = {}
    for device in (torch.device("cpu"), CUDA):
        operator = Hessian(Problem(network.to(device), images, batch_size=5))
        assert operator.device.type == device.type
        assert Rows(operator, 3).device.type == device.type
        found[device.type] = top_eigenpairs(operator, 3)
    cpu, cuda = found["cpu"], found["cuda"]
    assert cuda.converged.all()
    near = 1e-3 if dtype == torch.float32 else 1e-6
    np.testing.assert_allclose(cuda.values, cpu.values, rtol=near, atol=near * cpu.values.max())


def test_compiled_products_are_the_usual_ones_or_not_used():
    """Sees inductor's wrong numbers on CUDA."""
    network = build_model("resnet", (3, 32, 32), width=2).to(CUDA)
    problem = Problem(network, make_images(12, (3, 32, 32), 10), batch_size=5)
    usual, fast = Hessian(problem), CompiledHessian.of(problem)
    v = torch.randn(usual.shape[0], generator=torch.Generator().manual_seed(0))
    a, b = usual.matvec(v), fast.matvec(v)
    assert (a - b).norm() <= 1e-3 * a.norm()
