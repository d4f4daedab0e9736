"""Ridgeline: the loss-landscape laboratory for adversarially trained networks.

`import ridgeline as rl` gives the names in PUBLIC, each loaded when it is first used.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: public name -> the module it lives in, and the name it has there if that is another
PUBLIC = {
    "InputError": "models.errors",
    "build_model": "models",
    "add_normalization": "models",
    "load_images": "train.data.datasets",
    "load_checkpoint": "train.files.checkpoint",
    "parse_attack": "train.attacks",
    "Problem": "landscape.problem",
    "top_eigenpairs": "landscape.curvature.questions",
    "eigenvectors": "landscape.curvature.questions",
    "spectral_density": "landscape.curvature.questions",
    "trace": "landscape.curvature.questions",
    "spectrum": "landscape.curvature.questions",
    "Hessian": "landscape.curvature.operators",
    "GaussNewton": "landscape.curvature.gauss_newton",
    "align": "landscape.permutation.matching",
    "point_of": "landscape.weights.point",
    "random_direction": "landscape.weights.directions",
    "random_plane": "landscape.surfaces.planes",
    "plane": "landscape.surfaces.planes",
    "curve": "landscape.weights.paths",
    "connect": "landscape.surfaces.connect",
    "plane_through": "landscape.surfaces.planes",
    "trajectory_plane": "landscape.surfaces.planes",
    "repaired": "landscape.permutation.repair",
    "scan": "landscape.surfaces.scan",
    "scan_curve": "landscape.surfaces.curve_scan",
    "sharpness": "landscape.sharpness.battery",
    "scattering": "analysis.scattering",
    "load": "landscape.result:load_result",
    "save": "landscape.result:save_result",
    "draw": "analysis.figures",
    "export": "analysis.exports",
    "save_figure": "analysis.figures.style",
}


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module 'ridgeline' has no attribute {name!r}")
    module, _, inner = PUBLIC[name].partition(":")
    value = getattr(importlib.import_module(f"ridgeline.{module}"), inner or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *PUBLIC})


def let_threads_sleep() -> None:
    """Let OpenMP threads that wait give up the processor; a user's own setting wins.

    By default they spin, and two of them spin against each other as soon as anything else runs: an
    epoch of PGD then takes three times as long. Must be called before torch is loaded.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


@contextlib.contextmanager
def readers_may_leave() -> Iterator[None]:
    """End quietly when whoever reads the output has gone, as in `ridgeline | head`.

    The exit status is then 141, as of other programs that write into a closed pipe.
    """
    try:
        yield
        sys.stdout.flush()  # here, for Python's own flush at the end cannot be caught
    except BrokenPipeError:
        try:
            print(flush=True)  # an empty line tells whose pipe broke
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(141)
        raise  # another pipe, such as a worker's


def prepare_command() -> None:
    """What a command wants of its process, before it loads any library."""
    let_threads_sleep()
    from ridgeline.later import load_when_used

    load_when_used("xarray")


# `python run/COMMAND.py` comes here before it loads torch; a notebook's process is not touched
if Path(sys.argv[0] if sys.argv else "").resolve().parent == Path(__file__).parents[1] / "run":
    prepare_command()
