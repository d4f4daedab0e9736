"""Measures of the sharpness of a minimum, by name. Each is in its own file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ridgeline.landscape.sharpness.average_case import average_case, average_case_adaptive
from ridgeline.landscape.sharpness.critical import critical_relative, critical_sharpness
from ridgeline.landscape.sharpness.input_curvature import input_curvature
from ridgeline.landscape.sharpness.keskar import keskar
from ridgeline.landscape.sharpness.lambda_max import lambda_max
from ridgeline.landscape.sharpness.local_linearity import local_linearity
from ridgeline.landscape.sharpness.options import SharpnessOptions
from ridgeline.landscape.sharpness.relative_flatness import relative_flatness
from ridgeline.landscape.sharpness.robust_flatness import (
    robust_flatness_average,
    robust_flatness_worst,
)
from ridgeline.landscape.sharpness.sam import sam
from ridgeline.landscape.sharpness.trace import trace
from ridgeline.landscape.sharpness.view import Value, View
from ridgeline.landscape.sharpness.worst_case import (
    adaptive_l2,
    adaptive_linf,
    worst_case_l2,
    worst_case_linf,
)


@dataclass(frozen=True)
class Measure:
    """A measure, and whether it is invariant under rescaling of ReLU layers (alpha, 1/alpha).

    `robust`: it needs an attack.
    """

    compute: Callable[[View, SharpnessOptions], Value]
    invariant: bool = False
    robust: bool = False


#: name -> measure, in the order of tables
MEASURES: dict[str, Measure] = {
    "lambda_max": Measure(lambda_max),
    "trace": Measure(trace),
    "average_case": Measure(average_case),
    "average_case_adaptive": Measure(average_case_adaptive, invariant=True),
    "worst_case_l2": Measure(worst_case_l2),
    "worst_case_linf": Measure(worst_case_linf),
    "adaptive_l2": Measure(adaptive_l2, invariant=True),
    "adaptive_linf": Measure(adaptive_linf, invariant=True),
    "sam": Measure(sam),
    "keskar": Measure(keskar),
    "robust_flatness_average": Measure(robust_flatness_average, invariant=True, robust=True),
    "robust_flatness_worst": Measure(robust_flatness_worst, invariant=True, robust=True),
    "relative_flatness": Measure(relative_flatness, invariant=True),
    "critical_sharpness": Measure(critical_sharpness),
    "critical_relative": Measure(critical_relative, robust=True),
    "input_curvature": Measure(input_curvature, invariant=True),
    "local_linearity": Measure(local_linearity, invariant=True),
}
