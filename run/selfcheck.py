"""Check this machine, device and dtype against exact answers. Exit status 1 if a check fails."""

from __future__ import annotations

import sys
from typing import Annotated

from ridgeline.analysis.exact_checks import ANCHORS, Bench
from ridgeline.models import unknown
from ridgeline.run.shared import networks
from ridgeline.run.shared import options as o
from ridgeline.run.shared.launch import launch
from ridgeline.train.progress import progress


def main(
    *,
    gpu: o.Gpu = None,
    precision: Annotated[str, "float32, float64, or tf32 (CUDA)"] = "float32",
) -> None:
    """Closed forms of curvature, adversarial losses, paths and attacks: pass or fail, with errors.

    `error` is relative to the exact answer. `allowed` is the error that rounding can explain.
    """
    if precision not in networks.PRECISIONS:
        raise unknown("--precision", precision, networks.PRECISIONS)
    device = networks.device_of(gpu)
    bench = Bench(device, networks.use_precision(precision, device))
    findings = []
    with progress(len(ANCHORS), "selfcheck", "anchor") as bar:
        for anchor in ANCHORS:
            findings += anchor(bench)
            bar.update()
    width = max(len(f.what) for f in findings)
    print(f"{'':{width}}  {'measured':>12} {'expected':>12} {'error':>8} {'allowed':>8}")
    for f in findings:
        print(f"{f.what:{width}}  {f.measured:12.6g} {f.expected:12.6g} {f.error:8.1e} "
              f"{f.allowed:8.1e}  {'pass' if f.passed else 'FAIL'}")  # fmt: skip
    failed = sum(not f.passed for f in findings)
    print(f"{len(findings) - failed} of {len(findings)} pass on {bench.device}, {precision}")
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    launch(main)
