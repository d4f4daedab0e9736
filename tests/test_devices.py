"""Every command on a pretended accelerator, and full precision wherever it computes."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
import xarray as xr

from ridgeline.train.files.checkpoint import load_checkpoint
from tests.commands import ROOT, run_chain
from tests.fake_device import DEVICE, Accelerator, OnDevice


def test_every_command_computes_on_the_device_with_the_numbers_of_the_cpu(every_result, tmp_path):
    """Sees a tensor left on the host, a CPU generator or numpy() on any command's device path."""
    reference = every_result
    run_chain(tmp_path, (Accelerator,), DEVICE)
    found = 0
    for path in sorted(reference.rglob("*")):
        other = tmp_path / path.relative_to(reference)
        if path.suffix == ".ckpt":
            a, b = load_checkpoint(path).tensors, load_checkpoint(other).tensors
            for name in a:
                torch.testing.assert_close(a[name], b[name], rtol=1e-3, atol=1e-4)
            found += 1
        elif path.suffix == ".nc":
            a, b = (xr.load_dataset(p, engine="h5netcdf") for p in (path, other))
            for name, variable in a.data_vars.items():
                if variable.dtype.kind == "f" and name != "seconds":
                    np.testing.assert_allclose(
                        b[name], variable, rtol=1e-2, atol=1e-4, err_msg=f"{path.name}: {name}"
                    )
            found += 1
    assert found > 40


def test_no_command_rounds_to_tf32_unasked(chain_noted):
    """Sees a convolution, forward or backward, outside `exact()`; torch allows TF32 by default."""
    _, noted = chain_noted
    assert not {line.split()[0]: ops for line, ops in noted.items() if ops}
    assert torch.backends.cudnn.allow_tf32  # and the user's own setting is left alone


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
