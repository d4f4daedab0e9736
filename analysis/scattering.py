"""Changes of adversarial perturbations and of the adversarial gradient when the weights move.

Liu et al. 2020, section 3: under an attack the gradients are scattered. A small step of the weights
changes the perturbations a lot, and so it changes the gradient of the adversarial loss a lot.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ridgeline.analysis.line_fit import relative_line
from ridgeline.analysis.perturbation_pairs import MEASURES, compare
from ridgeline.analysis.probes import probe_directions
from ridgeline.analysis.random_signs import cosine_null, sign_null
from ridgeline.landscape.batchnorm import POLICIES, statistics_at
from ridgeline.landscape.gradient import loss_gradient
from ridgeline.landscape.problem import Problem
from ridgeline.landscape.result import stamp
from ridgeline.landscape.resume import Values
from ridgeline.landscape.weights.directions import unit
from ridgeline.landscape.weights.point import Point, add, norm
from ridgeline.models.errors import InputError, unknown
from ridgeline.train.attacks import check_budget
from ridgeline.train.data.noise import another_seed
from ridgeline.train.files.integrity import tensors_digest
from ridgeline.train.losses import unit_of
from ridgeline.train.statistics import mean_and_error

#: which perturbations are compared: (at theta, at theta + s d)
PAIRS = {
    "same_seed": "theta and the place, the same attack seed",
    "other_seed": "theta and the place, different attack seeds",
    "two_seeds": "the place alone, two attack seeds: its noise floor",
}
#: differences of gradients g(weights; images)
PARTS = {
    "total": "g(place; images of the place) - g(theta; images of theta)",
    "frozen": "g(place; images of theta) - g(theta; images of theta)",
    "moving": "g(place; images of the place) - g(place; images of theta)",
    "reseeded": "as total, the place attacked with another seed",
}


class _Found(NamedTuple):
    """The results of the attack at one Point, for every draw, on the CPU."""

    images: Tensor  # (draws, N, C, H, W)
    losses: Tensor  # (draws, N)
    gradients: Tensor  # (draws, P), of the mean loss on those images


def scattering(
    problem: Problem,
    directions: Mapping[str, Point] | Sequence[str],
    distances: Sequence[float],
    *,
    relative: bool = False,
    budgets: Sequence[float] | None = None,
    draws: int = 2,
    fit_to: float | None = None,
    batchnorm: str = "keep",
    tick: Callable[[int], None] | None = None,
) -> xr.Dataset:
    """Compare perturbations and gradients at theta + s d with those at theta, over d, eps and s.

    Examples and attack noise are the same everywhere (common random numbers). With eps = 0 there
    are no perturbations: cosines are NaN, `flipped` and `moving` are exactly 0. Examples whose loss
    is not finite have no perturbation, and every mean with them is NaN. Gradients are over these
    examples; `scatter` has no standard error. Finished parts are stored (`Problem.resuming`).

    Args:
        problem: The problem, with an attack.
        directions: Points by name, or names in DIRECTIONS; each gets unit Euclidean norm.
        distances: Euclidean distances s.
        relative: The s are fractions of ||theta||.
        budgets: Attack budgets in [0,1] units; None: the attack's own.
        draws: Number of independent attack seeds to average over; pairs of two seeds need 2.
        fit_to: Largest distance in the fit, in the unit of `distances`; None: all.
        batchnorm: keep the BatchNorm statistics, or recalibrate them at every Point.
        tick: Called with the number of examples attacked.

    Returns:
        - MEASURES over (direction, eps, distance, pair): means over examples with standard errors
          `*_se`. `left_out` counts examples without a cosine (a perturbation is 0). Pairs are in
          PAIRS; those of two seeds are NaN with one draw.
        - `floor_*` over eps: the same measures for two attack seeds at theta. `null_*`: for
          perturbations of random signs (`random_signs`); `*_sd` is the deviation of one example.
        - `scatter` over (direction, eps, distance, part): norms of PARTS. `scatter_floor` over eps:
          for two attack seeds at theta. `gradient_norm` is at theta. `gradient_cosine` compares the
          gradients at theta and at theta + s d. `loss` is the adversarial loss at theta + s d,
          `loss_at_theta` that at theta.
        - `intercept` and `slope` of `scatter` against s, with standard errors from the residuals:
          least squares of relative errors (`relative_line`) over the distances above 0. The
          intercept is the part that does not vanish for small steps.

    Raises:
        InputError: for options out of range, and for budgets above 0 without an attack.

    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    >>> images = torch.rand(4, 1, 2, 2), torch.arange(4) % 2
    >>> found = scattering(Problem(network, images, "name=fgsm,eps=0.1"), ["random"], [0.0])
    >>> found["flipped"].sel(pair="same_seed").item(), found["scatter"].sel(part="total").item()
    (0.0, 0.0)
    """
    budgets = _check(problem, distances, budgets, draws, fit_to, batchnorm)
    points = probe_directions(problem, directions, batchnorm)
    scale = norm(problem.origin) if relative else 1.0
    steps = np.array(distances, dtype=float) * scale
    clean = torch.cat([b.x.cpu() for b in problem.batches()])
    homes, rows = [], []
    for eps in budgets:
        here = problem.under(problem.attack.at(eps) if eps else None)
        home = _kept(here, f"theta, eps {eps}", problem.origin, draws, batchnorm, tick)
        homes.append(_at_home(here, home, clean, eps))
        for (name, point), step in itertools.product(points.items(), steps.tolist()):

            def look(here=here, home=home, point=point, step=step) -> Values:
                place = add(here.origin, unit(point), step)
                return _cell(here, home, place, clean, batchnorm, tick)

            rows.append(problem.keep(f"eps {eps}, {name}, distance {step}", look))
    shape = (len(budgets), len(points), len(steps))
    ds = _gathered(rows, homes, shape, problem).assign_coords(
        direction=list(points), eps=("eps", budgets, {"units": "[0,1]"}),
        distance=("distance", steps, {"long_name": "distance", "units": "Euclidean"}),
        relative_distance=("distance", steps / norm(problem.origin),
                           {"long_name": r"distance / $||\theta||$"}),
        length=("direction", [norm(p) for p in points.values()],
                {"long_name": "norm of the direction as given"}),
    )  # fmt: skip
    ds = _with_fit(ds, np.inf if fit_to is None else fit_to * scale)
    recipe = {
        **problem.recipe(), "directions": {n: tensors_digest(p) for n, p in points.items()},
        "distances": list(distances), "relative": relative, "budgets": budgets, "draws": draws,
        "fit_to": fit_to, "batchnorm": batchnorm,
    }  # fmt: skip
    return stamp(ds, "scattering", recipe)


def _check(
    problem: Problem, distances: Sequence[float], budgets: Sequence[float] | None, draws: int,
    fit_to: float | None, batchnorm: str,
) -> list[float]:  # fmt: skip
    """The budgets. Raises InputError for wrong settings."""
    _ = problem.images
    attack, s = problem.attack, np.asarray(distances, dtype=float)
    if not (
        s.ndim == 1 and s.size and np.isfinite(s).all() and s[0] >= 0 and (s[1:] > s[:-1]).all()
    ):
        raise InputError(
            f"distances must be increasing, finite and not negative, got {list(distances)}"
        )
    if draws < 1:
        raise InputError(f"draws must be at least 1, got {draws}")
    if fit_to is not None and not fit_to > 0:
        raise InputError(f"fit_to must be positive, got {fit_to:g}")
    if batchnorm not in POLICIES:
        raise unknown("batchnorm policy", batchnorm, POLICIES)
    budgets = [attack.eps if attack else 0.0] if budgets is None else [float(e) for e in budgets]
    if not budgets or len(set(budgets)) < len(budgets):
        raise InputError(f"budgets must be one or more different numbers, got {budgets}")
    if attack is None and any(budgets):
        raise InputError("budgets above 0 need a problem under an attack")
    for eps in budgets if attack else ():
        check_budget(attack, eps, "budgets")
    return budgets


def _kept(
    problem: Problem, what: str, point: Point, draws: int, batchnorm: str, tick
) -> _Found:  # fmt: skip
    def compute() -> dict[str, Tensor]:
        buffers = statistics_at(problem, point, batchnorm)
        return _attacked(problem, point, buffers, draws, tick)._asdict()

    values = problem.keep(what, compute)
    return _Found(**{name: values[name] for name in _Found._fields})


def _attacked(problem: Problem, point: Point, buffers, draws: int, tick) -> _Found:
    found = []
    for draw in range(draws):
        seeded = problem.seeded(another_seed(problem.seed, draw))
        images = torch.cat([x.cpu() for _, x in seeded.adversarial(point, buffers, tick)])
        found.append((images, *loss_gradient(problem, point, buffers, images)))
    return _Found(*(torch.stack(parts) for parts in zip(*found, strict=True)))


def _perturbations(found: _Found, clean: Tensor) -> Tensor:
    """(draws, N, C, H, W); NaN for examples whose loss is not finite."""
    finite = found.losses.isfinite()[..., None, None, None]
    return torch.where(finite, found.images - clean, torch.nan)


def _two_seeds(draws: int) -> list[tuple[int, int]]:
    return list(itertools.combinations(range(draws), 2))


def _at_home(problem: Problem, home: _Found, clean: Tensor, eps: float) -> dict[str, float]:
    """The numbers at theta itself: noise floors, the null model and the gradient."""
    deltas = _perturbations(home, clean)
    pairs = _two_seeds(len(deltas))
    row = {f"floor_{name}": v for name, v in compare(deltas, deltas, pairs).items()}
    apart = [(home.gradients[i] - home.gradients[j]).norm().item() for i, j in pairs]
    row["scatter_floor"] = float(np.mean(apart)) if apart else np.nan
    row["gradient_norm"] = home.gradients.norm(dim=1).mean().item()
    row["loss_at_theta"] = home.losses.mean().item()
    if eps:
        order = problem.attack.order
        drawn = cosine_null(clean, problem.images.index, eps, problem.seed, order)
        row |= {"null_cosine": drawn["mean"], "null_cosine_se": drawn["se"],
                "null_cosine_sd": drawn["sd"]}  # fmt: skip
        for name, (mean, spread) in sign_null(clean).items():
            row |= {f"null_{name}": mean, f"null_{name}_sd": spread}
    return row


def _cell(
    problem: Problem, home: _Found, place: Point, clean: Tensor, batchnorm: str, tick
) -> Values:  # fmt: skip
    """The numbers at one Point: by pair, by part, and scalars."""
    buffers = statistics_at(problem, place, batchnorm)
    draws = len(home.images)
    there = _attacked(problem, place, buffers, draws, tick)
    a, b = _perturbations(home, clean), _perturbations(there, clean)
    other = list(itertools.permutations(range(draws), 2))
    compared = [
        compare(a, b, [(n, n) for n in range(draws)]),
        compare(a, b, other),
        compare(b, b, _two_seeds(draws)),
    ]
    values = {
        n: torch.tensor([row[n] for row in compared], dtype=torch.float64) for n in compared[0]
    }
    at_home, at_place = home.gradients, there.gradients
    if problem.attack is None:  # the images are the same, so the numbers are the same
        crossed = at_place
    else:
        crossed = torch.stack([loss_gradient(problem, place, buffers, x)[1] for x in home.images])
    other_seed = [(at_place[j] - at_home[i]).norm() for i, j in other] or [torch.tensor(torch.nan)]
    lengths = [d.norm(dim=1).mean() for d in (at_place - at_home, crossed - at_home,
                                             at_place - crossed)]  # fmt: skip
    values["scatter"] = torch.stack([*lengths, torch.stack(other_seed).mean()])
    product = at_home.norm(dim=1) * at_place.norm(dim=1)
    values["gradient_cosine"] = ((at_home * at_place).sum(1) / product).mean()
    values["loss"], values["loss_se"] = mean_and_error(there.losses.mean(0).numpy())
    return values


def _gathered(
    cells: list[Values], homes: list[dict[str, float]], shape: tuple[int, int, int],
    problem: Problem,
) -> xr.Dataset:  # fmt: skip
    """All numbers as a labelled dataset. The cells are ordered by budget, then by direction."""
    nat = {"units": unit_of(problem.loss)}
    about = {
        **{n: {"long_name": text, "units": "1"} for n, text in MEASURES.items()},
        "scatter": {"long_name": "norm of a difference of gradients", **nat},
        "gradient_norm": {"long_name": "norm of the gradient at theta", **nat},
        "loss": {"long_name": "mean loss on the place's adversarial images", **nat},
    }
    own = {"scatter": ("part",), **dict.fromkeys(("gradient_cosine", "loss", "loss_se"), ())}
    ds = xr.Dataset(coords={"pair": list(PAIRS), "part": list(PARTS)})
    for name in cells[0]:
        extra = own.get(name, ("pair",))
        values = np.stack([np.asarray(cell[name], dtype=float) for cell in cells])
        values = values.reshape(*shape, *values.shape[1:])
        ds[name] = (("eps", "direction", "distance", *extra), values, about.get(name, {}))
    for name in dict.fromkeys(itertools.chain(*homes)):
        values = [home.get(name, np.nan) for home in homes]
        ds[name] = ("eps", values, about.get(name, {}))
    return ds.transpose("direction", "eps", "distance", "pair", "part")


def _with_fit(ds: xr.Dataset, fit_to: float) -> xr.Dataset:
    """Least-squares lines of `scatter` over the distances in (0, fit_to]."""
    steps = ds["distance"].values
    used = (steps > 0) & (steps <= fit_to)

    def fit(rows: np.ndarray) -> np.ndarray:
        return np.apply_along_axis(lambda y: relative_line(steps[used], y[used]), -1, rows)

    lines = xr.apply_ufunc(
        fit, ds["scatter"], input_core_dims=[["distance"]], output_core_dims=[["number"]]
    )
    for place, name in enumerate(("intercept", "slope", "intercept_se", "slope_se")):
        ds[name] = lines.isel(number=place, drop=True)
        ds[name].attrs = {"fitted_distances": int(used.sum())}
    ds["fit_to"] = steps[used].max(initial=0.0)
    return ds
