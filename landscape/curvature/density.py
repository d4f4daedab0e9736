"""Spectral density and moments of an operator by stochastic Lanczos quadrature."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy  # its parts are loaded when used
import torch
import xarray as xr

from ridgeline.landscape.curvature.basis import Rows
from ridgeline.landscape.curvature.operators import Products
from ridgeline.models.errors import InputError
from ridgeline.train.data.noise import Purpose, stream
from ridgeline.train.statistics import mean_and_error, mean_and_interval


@dataclass(frozen=True)
class Quadrature:
    """Ritz `values` and `weights` (probes, steps). The weights of a probe sum to 1.

    Weights of steps that were not needed are 0. sum_i weights_i f(values_i) estimates
    tr f(H) / P. It is unbiased if f is a polynomial of degree below 2 steps. The spread over
    probes gives the error.
    """

    values: np.ndarray
    weights: np.ndarray
    size: int

    def mean(self, f) -> tuple[float, float]:
        """Estimate of tr f(H) / P and its standard error over probes (NaN for one probe)."""
        samples = (self.weights * f(self.values)).sum(1)
        return mean_and_error(samples)

    def density(self, grid: np.ndarray, sigma: float) -> np.ndarray:
        """Density (probes, grid), smoothed by Gaussians of standard deviation sigma."""
        bumps = scipy.stats.norm.pdf(grid[None, :, None], self.values[:, None, :], sigma)
        return (bumps * self.weights[:, None, :]).sum(-1)


def lanczos_quadrature(
    operator: Products, *, probes: int = 10, steps: int = 80, seed: int = 0
) -> Quadrature:
    """Lanczos from `probes` random sign vectors, reorthogonalised twice in float64.

    It stops early when the Krylov space is invariant, so no spurious eigenvalues appear. Raises
    InputError if the basis does not fit into memory. Source: Golub and Meurant 2010; Ghorbani et
    al. 2019.
    """
    size = operator.shape[0]
    if probes < 1 or steps < 1:
        raise InputError(f"density: probes and steps must be at least 1, got {probes}, {steps}")
    steps = min(steps, size)
    values, weights = np.zeros((probes, steps)), np.zeros((probes, steps))
    basis = Rows(operator, steps)
    for number in range(probes):
        signs = stream(seed, Purpose.DENSITY, number).integers(2, size=size) * 2.0 - 1
        alpha, beta = _lanczos(operator, basis, signs / np.sqrt(size), steps)
        ritz, vectors = scipy.linalg.eigh_tridiagonal(alpha, beta)
        values[number, : len(ritz)], weights[number, : len(ritz)] = ritz, vectors[0] ** 2
    return Quadrature(values, weights, size)


def _lanczos(
    operator: Products, basis: Rows, start: np.ndarray, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Diagonal and off-diagonal of the tridiagonal matrix."""
    basis[0] = torch.from_numpy(start)
    alpha, beta = [], []
    for j in range(steps):
        w = basis.own(operator.matvec(basis[j]))
        alpha.append(torch.dot(w, basis[j].double()).item())
        if j + 1 == steps:
            break
        scale = torch.linalg.vector_norm(w).item()
        w = basis.rest_of(j + 1, w)
        length = torch.linalg.vector_norm(w).item()
        if length <= 1e3 * torch.finfo(operator.dtype).eps * max(scale, 1e-300):
            break  # the space is invariant: what is left is rounding
        beta.append(length)
        basis[j + 1] = w / length
    return np.array(alpha), np.array(beta[: len(alpha) - 1])


def density_dataset(quadrature: Quadrature, points: int = 400, sigma: float | None = None):
    """Density over a grid with its 95 % band over probes, Ritz values and moments 1 to 4.

    `sigma` defaults to 1/100 of the spectrum's range. The band is Student's t interval over
    probes (NaN for one probe). The density integrates to 1.
    """
    used = quadrature.weights > 0
    low, high = quadrature.values[used].min(), quadrature.values[used].max()
    sigma = sigma or max((high - low) / 100, 1e-12 * max(abs(low), abs(high), 1e-12))
    grid = np.linspace(low - 5 * sigma, high + 5 * sigma, points)
    each = quadrature.density(grid, sigma)
    mean, band = mean_and_interval(each)
    moments = [quadrature.mean(lambda v, m=m: v**m) for m in range(1, 5)]
    return xr.Dataset(
        {
            "density": ("bin", mean, {"long_name": "spectral density"}),
            "density_band": ("bin", band, {"long_name": "half width of the 95 % band"}),
            "density_x": ("bin", grid, {"long_name": "eigenvalue"}),
            "ritz_value": (("probe", "step"), quadrature.values),
            "ritz_weight": (("probe", "step"), quadrature.weights),
            "sigma": sigma,
            "moment": ("order", [m for m, _ in moments], {"long_name": "tr H^m / P"}),
            "moment_se": ("order", [e for _, e in moments]),
            "order": np.arange(1, 5),
        }
    )
