"""Radii, draws and steps of the sharpness measures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ridgeline.train.options import Opt, Options


@dataclass(frozen=True)
class SharpnessOptions(Options):
    """Radii, draws and steps of the measures. The result records every radius."""

    draws: Annotated[int, Opt("draws of weight noise; 2 or more give an error", low=1)] = 10
    steps: Annotated[int, Opt("steps of every ascent in weight space", low=1)] = 20
    trace_products: Annotated[int, Opt("products for the trace", low=2)] = 20
    tol: Annotated[float, Opt("relative residual of lambda_max", above=0, high=0.5)] = 1e-3
    max_iter: Annotated[int, Opt("restarts of the Lanczos process", low=1)] = 20
    noise: Annotated[float, Opt("standard deviation of the noise, absolute", above=0)] = 0.005
    noise_adaptive: Annotated[
        float, Opt("standard deviation of the noise, in units of each |w|", above=0)
    ] = 0.05
    rho_l2: Annotated[float, Opt("radius of the l_2 ball, and of the step of SAM", above=0)] = 0.05
    rho_linf: Annotated[float, Opt("radius of the l_inf ball", above=0)] = 1e-4
    rho_adaptive_l2: Annotated[
        float, Opt("radius of the l_2 ball in units of each |w|", above=0)
    ] = 0.5
    rho_adaptive_linf: Annotated[
        float, Opt("radius of the l_inf ball in units of each |w|", above=0)
    ] = 0.002
    keskar: Annotated[float, Opt("half width of Keskar's box, in units of |w| + 1", above=0)] = 5e-4
    xi_average: Annotated[
        float, Opt("noise of robust flatness, as a share of each tensor's norm", above=0)
    ] = 0.5
    xi_worst: Annotated[
        float, Opt("radius of the joint attack, as a share of each tensor's norm", above=0)
    ] = 0.003
    critical_passes: Annotated[
        int, Opt("forward passes along the update of critical sharpness", low=2)
    ] = 6
    inputs: Annotated[int, Opt("examples whose input Hessian is measured", low=1)] = 10
    linearity_steps: Annotated[
        int, Opt("steps of the search for the largest distance from the linearisation", low=1)
    ] = 10
