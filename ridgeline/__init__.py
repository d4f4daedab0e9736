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

#: public name -> its module, and its name in that module if that differs
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
    """Make waiting OpenMP threads release the processor, unless the user has set this already.

    By default they wait actively and block other work. If another program runs, an epoch of PGD
    then takes three times as long. Must be called before torch is loaded.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


@contextlib.contextmanager
def readers_may_leave() -> Iterator[None]:
    """End without an error when the reader of the output has closed it, as in `ridgeline | head`.

    The exit status is then 141, as for other programs that write into a closed pipe.
    """
    try:
        yield
        sys.stdout.flush()  # an error of Python's own flush at exit could not be caught
    except BrokenPipeError:
        try:
            print(flush=True)  # fails if our own output is closed
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(141)
        raise  # the error came from another pipe, such as a worker's


def prepare_command() -> None:
    """Settings of a command's process, made before it loads any library."""
    let_threads_sleep()
    from ridgeline.later import load_when_used

    load_when_used("xarray")


# `python run/COMMAND.py` runs this before it loads torch; a notebook's process is not changed
if Path(sys.argv[0] if sys.argv else "").resolve().parent == Path(__file__).parents[1] / "run":
    prepare_command()
