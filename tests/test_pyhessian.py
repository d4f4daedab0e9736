"""PyHessian as an outside oracle: eigenvalues on a mnist5k LeNet."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
from curvature import residuals, ridgeline
from rivals import pyhessian
from subjects import lenet


@pytest.mark.filterwarnings("ignore")
def test_top_eigenvalues_agree_and_ours_have_smaller_residuals():
    """To 2 %, with residuals at least 10 times smaller (the time: benchmarks/curvature.py)."""
    problem = lenet(width=2, images=300)
    ours, vectors = ridgeline(problem, 5)
    theirs, their_vectors = pyhessian(problem, 5)
    order = np.argsort(-theirs)
    np.testing.assert_allclose(theirs[order], ours, rtol=0.02)
    small = residuals(problem, (ours, vectors))
    large = residuals(problem, (theirs[order], their_vectors[:, order]))
    assert small.max() <= 1e-3
    assert large.max() >= 10 * small.max()
