"""Every command on a pretended accelerator, and full precision wherever it computes."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

import ridgeline as rl
from ridgeline.analysis.cka import cka
from ridgeline.analysis.exact_checks import ANCHORS, Bench
from ridgeline.analysis.frequency.filters import map_sizes
from ridgeline.analysis.frequency.fourier import fourier_sensitivity, pass_curves
from ridgeline.landscape.curvature.measures import SpectrumOptions
from tests.commands import DEMO, MATMULS, ROOT, Precision, call, compared, run_chain
from tests.conftest import make_conv_bn, make_images, make_mlp
from tests.fake_device import DEVICE, Accelerator, OnDevice


def test_every_command_computes_on_the_device_with_the_numbers_of_the_cpu(every_result, tmp_path):
    """Sees a tensor left on the host, a CPU generator or numpy() on any command's device path."""
    reference = every_result
    run_chain(tmp_path, (Accelerator,), DEVICE)
    assert compared(reference, tmp_path, weights=(1e-3, 1e-4), numbers=(1e-2, 1e-4)) > 40


def test_the_demo_computes_on_the_device_with_the_numbers_of_the_cpu(tmp_path, monkeypatch):
    """Sees the same of the one command that is a chain of others."""
    (tmp_path / "cpu").mkdir(), (tmp_path / "device").mkdir()
    assert call(DEMO, tmp_path / "cpu").returncode == 0
    monkeypatch.setattr("ridgeline.run.shared.networks.device_of", lambda _: DEVICE)
    with Accelerator():
        done = call(DEMO, tmp_path / "device")
    assert done.returncode == 0, done.stderr
    numbers = {"weights": (1e-3, 1e-4), "numbers": (1e-2, 1e-4)}
    assert compared(tmp_path / "cpu", tmp_path / "device", **numbers) > 15


def test_no_command_rounds_to_tf32_unasked(chain_noted):
    """Sees a convolution, forward or backward, outside `exact()`; torch allows TF32 by default."""
    _, noted = chain_noted
    assert not {line.split()[0]: ops for line, ops in noted.items() if ops}
    assert torch.backends.cudnn.allow_tf32  # and the user's own setting is left alone


#: public functions that compute, and how each is called on a Problem under an attack
ENTRIES = {
    "top_eigenpairs": lambda p: rl.top_eigenpairs(p, 1, max_iter=2),
    "spectral_density": lambda p: rl.spectral_density(p, probes=2, steps=3),
    "trace": lambda p: rl.trace(p, products=4),
    "spectrum": lambda p: rl.spectrum(p, SpectrumOptions(topk=1, max_iter=2), operator="ggn"),
    "scan": lambda p: rl.scan(p, rl.random_plane(p), 3),
    "sharpness": lambda p: rl.sharpness(p, measures=["sam", "trace"], trace_products=2),
    "scattering": lambda p: rl.scattering(p, ["random"], [0.0, 0.1]),
    "fourier_sensitivity": lambda p: fourier_sensitivity(p, 0.1),
    "pass_curves": lambda p: pass_curves(p, [0.5]),
    "map_sizes": lambda _: map_sizes(MODEL),
}
MODEL = {"model_type": "lenet", "image_shape": (1, 28, 28), "width": 1, "bias": True,
         "num_classes": 10}  # fmt: skip
#: the same of functions of two networks
PAIRED = {
    "connect": lambda p, q: rl.connect(p, q, epochs=1, batch_size=4),
    "scan_curve": lambda p, q: rl.scan_curve(
        p, rl.curve("bezier", [p.origin, p.origin, q.origin]), [0, 0.5, 1], {"train": p.images}
    ),
    "align": lambda p, q: rl.align(p, q),
    "repaired": lambda p, q: repair(*(rl.Problem(plain(n), p.images) for n in (0, 1))),
    "cka": lambda p, q: cka(p, q, minibatch=4),
}


def plain(seed: int) -> nn.Module:
    """A network with a convolution and without BatchNorm."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 4)).double()


def repair(p: rl.Problem, q: rl.Problem) -> None:
    rl.repaired(p, q.origin, [p.origin, q.origin], 0.5)


@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("name", [*ENTRIES, *PAIRED])
def test_no_function_rounds_to_tf32_unasked(name, asked):
    """Sees an entry that a command does not go through, and matrix products beside convolutions.

    And one that does not heed who asks for TF32.
    """
    problem, other = (
        rl.Problem(make_conv_bn(seed), make_images(6), batch_size=4,
                   attack="name=fgsm,threshold=0.1") for seed in (0, 1)
    )  # fmt: skip
    torch.set_float32_matmul_precision("high" if asked else "highest")
    try:
        with Precision() as noted:
            (ENTRIES[name](problem) if name in ENTRIES else PAIRED[name](problem, other))
    finally:
        torch.set_float32_matmul_precision("highest")
    assert "convolution" in noted.seen and noted.seen & MATMULS
    assert noted.rounded == (noted.seen if asked else set())


def test_a_setting_that_rounds_is_noted():
    """The harness itself: without it the tests above could not fail."""
    with Precision() as noted:
        make_mlp()(make_images(3).pixels)
        make_conv_bn()(make_images(3).pixels)
    assert noted.rounded == {"convolution"}  # as torch has it by default
    torch.set_float32_matmul_precision("high")
    try:
        with Precision() as noted:
            make_mlp()(make_images(3).pixels)
    finally:
        torch.set_float32_matmul_precision("highest")
    assert noted.rounded == {"addmm"}


#: the truth of three is torch.func's, whose transforms know no pretended device; the last trains
#: for hundreds of steps, which takes minutes here
_LEFT_OUT = {"small_network", "layers", "adversarial_logistic", "edge_of_stability"}


@pytest.mark.parametrize(
    "anchor", [a for a in ANCHORS if a.__name__ not in _LEFT_OUT], ids=lambda a: a.__name__
)
def test_selfcheck_passes_on_the_device(anchor):
    """Sees the one command that tells whether a GPU computes right fail on every GPU."""
    with Accelerator():
        findings = list(anchor(Bench(DEVICE, torch.float32)))
    assert findings
    assert all(f.passed for f in findings), [f for f in findings if not f.passed]


def test_a_result_is_made_again_on_the_device(every_result, monkeypatch):
    """Sees `redo` compare numbers that never left the device."""
    monkeypatch.setattr("ridgeline.run.shared.networks.device_of", lambda _: DEVICE)
    with Accelerator():
        done = call("redo --result runs/cka2.nc --tolerance 1e-2", every_result)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_pretended_device_refuses_what_cuda_refuses():
    """The harness itself: without these refusals the test above could not fail."""
    with Accelerator():
        there = torch.ones(3, device=DEVICE)
        assert isinstance(there + 1, OnDevice)
        assert (there + torch.tensor(2.0)).tolist() == [3, 3, 3]  # scalars may come from the host
        for wrong in (
            lambda: there + torch.ones(3),
            lambda: torch.randn(3, device=DEVICE, generator=torch.Generator()),
            there.numpy,
            lambda: torch.nn.Linear(3, 2)(there),
        ):
            with pytest.raises((RuntimeError, TypeError)):
                wrong()
        layer = torch.nn.Linear(3, 2)
        before = layer.weight
        assert layer.to(DEVICE).weight is before
        assert layer(there).device == DEVICE


def test_global_generators_are_seeded_in_few_places():
    """Sees torch.manual_seed, which reseeds every CUDA device for good, come back into a tool."""
    allowed = {"train/loop.py", "train/ranks.py", "analysis/exact_checks.py"}
    using = {
        str(path.relative_to(ROOT))
        for folder in ("models", "train", "landscape", "analysis", "run")
        for path in (ROOT / folder).rglob("*.py")
        if re.search(r"torch\.manual_seed\(", path.read_text())
    }
    assert using == allowed
