"""The strength of a training run's perturbation generator by epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from torch.nn import functional as F

from ridgeline.analysis.frequency.fourier import above_half_nyquist
from ridgeline.landscape.problem import Problem
from ridgeline.models.blocks import block_inputs
from ridgeline.models.errors import InputError
from ridgeline.train.attacks import Attack
from ridgeline.train.data.examples import Images
from ridgeline.train.data.noise import Noise, Purpose
from ridgeline.train.losses import predicted
from ridgeline.train.methods.apart_generator import Generator
from ridgeline.train.options import Opt, Options
from ridgeline.train.parts.layer_inputs import reading_inputs
from ridgeline.train.precision import exact
from ridgeline.train.statistics import error_of_share, mean_and_error


@dataclass(frozen=True)
class StudyOptions(Options):
    """Further images and settings of the study."""

    # the images themselves are in the recipe
    train_size: Annotated[
        int,
        Opt("training images for the gap between own and strong attack", low=1, decides=False),
    ] = 1000
    block_noise: Annotated[
        bool,
        Opt("also the accuracy on training images under the run's own noise at block inputs"),
    ] = False
    tiles: Annotated[int, Opt("images whose perturbations are saved for the figure", low=1)] = 4
    ignore: Annotated[int, Opt("first epochs, which do not count as a collapse", low=0)] = 0
    cycle_epochs: Annotated[
        float | None,
        Opt("epochs of a learning-rate cycle; None: no table", above=0, decides=False),
    ] = None


def study(
    epochs: Mapping[int, Problem],
    reference: Problem,
    generator: Attack | Mapping[int, Generator],
    strong: Attack,
    train_images: Images,
    *,
    block_noise: bool = False,
    tiles: int = 4,
    ignore: int = 0,
    tick: Callable[[int], None] | None = None,
) -> xr.Dataset:
    """Diagnostics D1 to D4 and D6 of APART (Li et al. 2020) over a run's networks by epoch.

    `generator` is one attack, or for each epoch the run's own generator. A run's own generator uses
    its memory on `train_images`; it has no memory for the problems' images, which it never saw. It
    adds `step`, its step as a fraction of eps. With `block_noise` it also adds `noisy_train`: the
    accuracy on `train_images` with its noise at the block inputs, as in training.

    Over `epoch`, on the problems' images:

    - `transfer`: accuracy T of the fixed `reference` on the images that the generator makes for
      the network.
    - `strength` = (R - T) / (R - T_strong): 0 if the perturbations are no better than noise.
    - `clean` and `robust` accuracy (the latter under `strong`).
    - `own_train`, `strong_train`: accuracies on `train_images` under the generator and under
      `strong`. A large `gap` between them means that the generator underfits.
    - `alignment`: mean cosine of the loss gradients by the image at x and at x + U(-eps, eps).
      `alignment_block`: the same by the block inputs.
    - Of the sign of the perturbations: `autocorrelation` (lag 1; white noise 0), `high_share` (DFT
      power above half the Nyquist frequency; white noise `white_high_share`, about 3/4),
      `zero_share`.

    Scalars: accuracy of the reference under eps times random signs (`random` = R), under uniform
    noise (`random_uniform`), and under `strong` (`reference_strong` = T_strong). Every accuracy has
    its standard error `_se`. `perturbation` (epoch, tile, channel, row, column) and `image` are the
    first `tiles` examples. The results of `collapse` for `robust` ignore the first `ignore` epochs.
    """
    rows: list[dict] = []
    pictures = []
    by_epoch = generator if isinstance(generator, Mapping) else dict.fromkeys(epochs, generator)
    if block_noise and not isinstance(generator, Mapping):
        raise InputError("--block_noise is of a run's own generator, which has noise at blocks")
    for epoch, problem in epochs.items():
        look = partial(_epoch, problem, reference, by_epoch[epoch], strong, train_images, tiles,
                       block_noise, tick)  # fmt: skip
        row = dict(problem.keep(f"epoch {epoch}", look))
        pictures.append(np.asarray(row.pop("picture")))
        rows.append({name: float(value) for name, value in row.items()})
    like = next(iter(epochs.values()))
    first = next(like.images.batches(tiles, dtype=like.dtype)).x
    eps = next(iter(by_epoch.values())).eps
    level = _levels(reference, like, eps, strong)
    white = above_half_nyquist(*like.images.image_shape[1:]).double().mean().item()
    ds = xr.Dataset(
        {
            **{name: ("epoch", [row[name] for row in rows]) for name in rows[0]},
            "perturbation": (("epoch", "tile", "channel", "row", "column"), np.stack(pictures)),
            "image": (("tile", "channel", "row", "column"), first.numpy()),
            **level,
            "eps": eps,
            "white_high_share": white,
        },
        coords={"epoch": list(epochs)},
    )
    span = level["random"] - level["reference_strong"]
    ds["strength"] = (ds["random"] - ds["transfer"]) / (span if span > 0 else math.nan)
    return ds.assign(collapse(ds["robust"].values, ignore=ignore))


def _epoch(
    problem: Problem, reference: Problem, generator: Attack, strong: Attack,
    train_images: Images, tiles: int, block_noise: bool, tick: Callable[[int], None] | None,
) -> dict[str, float | Tensor]:  # fmt: skip
    """The numbers of one epoch's network, and its first perturbations as `picture`."""
    clean, own, robust = (problem.under(attack) for attack in (None, generator, strong))
    learnt = isinstance(generator, Generator)
    found = perturbations(problem, generator.forgetful() if learnt else generator)
    row = _accuracy("transfer", _hits(reference, problem, found))
    row |= _accuracy("clean", clean.evaluate(tick=tick).correct)
    row |= _accuracy("robust", robust.evaluate(tick=tick).correct)
    row |= _accuracy("own_train", own.on(train_images).evaluate(tick=tick).correct)
    row |= _accuracy("strong_train", robust.on(train_images).evaluate(tick=tick).correct)
    row["gap"] = row["own_train"] - row["strong_train"]
    row |= alignment(problem, generator.eps)
    row |= speckle(found)
    if learnt:
        row["step"] = generator.step / generator.eps
    if block_noise:
        row |= _accuracy("noisy_train", noisy_hits(problem.on(train_images), generator))
    return row | {"picture": found[:tiles]}


@exact()
def noisy_hits(problem: Problem, generator: Generator) -> Tensor:
    """Which images (N,) the network gets right with the generator's noise at pixels and blocks."""
    sites = block_inputs(problem.network) if generator.noise_scales else {}
    predict, found = problem.predict(problem.origin), []
    for batch in problem.batches():
        logits = generator.noisy(predict, sites, batch.x, batch.y, batch.index)
        found.append((predicted(logits) == batch.y).cpu())
    return torch.cat(found)


def perturbations(problem: Problem, generator: Attack) -> Tensor:
    """The generator's perturbations of the problem's images, (N, C, H, W), on the CPU."""
    pairs = problem.under(generator).adversarial()
    return torch.cat([(x - batch.x).cpu() for batch, x in pairs])


def speckle(found: Tensor) -> dict[str, float]:
    """Measures of noise in the signs of perturbations (N, C, H, W), as means over examples."""
    signs = found.sign()
    centred = signs - signs.mean((2, 3), keepdim=True)
    power = centred.square().mean().clamp_min(1e-12)
    lag = [(centred[..., 1:, :] * centred[..., :-1, :]).mean() / power,
           (centred[..., 1:] * centred[..., :-1]).mean() / power]  # fmt: skip
    spectrum = torch.fft.fft2(centred).abs().square().mean((0, 1))
    high = above_half_nyquist(*spectrum.shape)
    total = spectrum.sum()
    return {
        "autocorrelation": (sum(lag) / 2).item(),
        "high_share": (spectrum[high].sum() / total).item() if total > 0 else math.nan,
        "zero_share": (found == 0).double().mean().item(),
    }


@exact()
def alignment(problem: Problem, eps: float) -> dict[str, float]:
    """Mean cosine of loss gradients at x and x + U(-eps, eps) (Andriushchenko and Flammarion 2020).

    `alignment`: for gradients by the image, with its standard error. `alignment_block`: for
    gradients by block inputs, mean over blocks (NaN without blocks). Examples with a zero gradient
    are left out.
    """
    try:
        sites = block_inputs(problem.network)
    except InputError:
        sites = {}
    predict = problem.predict(problem.origin)
    cosines: list[list[Tensor]] = []
    for batch in problem.batches():
        noise = eps * Noise(problem.seed, batch.index, purpose=Purpose.ALIGNMENT).uniform(batch.x)
        pairs = []
        for x in (batch.x, (batch.x + noise).clamp(0, 1)):
            x = x.detach().requires_grad_()
            inputs_of: dict[str, Tensor] = {}
            with torch.enable_grad(), reading_inputs(sites, inputs_of):
                loss = F.cross_entropy(predict(x), batch.y, reduction="sum")
                pairs.append(torch.autograd.grad(loss, [x, *inputs_of.values()]))
        cosines.append(
            [_cosines(a.flatten(1), b.flatten(1)).cpu() for a, b in zip(*pairs, strict=True)]
        )  # fmt: skip
    image, *blocks = (torch.cat(parts) for parts in zip(*cosines, strict=True))
    mean, error = mean_and_error(image)
    return {
        "alignment": mean,
        "alignment_se": error,
        "alignment_block": float(np.mean([b.mean().item() for b in blocks]))
        if blocks
        else math.nan,
    }


def _cosines(a: Tensor, b: Tensor) -> Tensor:
    """Cosines of the rows of a and b (N, D), without zero rows; NaN for rows with a NaN."""
    a, b = a.double(), b.double()
    norms = a.norm(dim=1) * b.norm(dim=1)
    return ((a * b).sum(1) / norms)[norms != 0]


def collapse(accuracy: Sequence[float], *, ignore: int = 0) -> dict[str, float]:
    """Best, last, drop and epoch of first collapse (from 1; NaN: none) of a robust accuracy.

    An epoch is a collapse if its value is below half of the best value before it. The first
    `ignore` epochs do not count as a collapse: a generator that learns is weak at the start.
    """
    values = np.asarray(accuracy, dtype=float)
    before = np.maximum.accumulate(values)
    fallen = [n for n in range(max(ignore, 1), len(values)) if values[n] < 0.5 * before[n - 1]]
    return {
        "best": float(values.max()),
        "last": float(values[-1]),
        "drop": float(values.max() - values[-1]),
        "collapse_epoch": float(fallen[0] + 1) if fallen else math.nan,
    }


def best_per_cycle(
    epochs: Sequence[int], accuracy: Sequence[float], length: float
) -> dict[int, float]:
    """Best accuracy in every cycle of `length` epochs; cycles are numbered from 1."""
    best: dict[int, float] = {}
    for epoch, value in zip(epochs, accuracy, strict=True):
        cycle = math.ceil(epoch / length)
        best[cycle] = max(best.get(cycle, -math.inf), float(value))
    return best


def cycles(result: xr.Dataset, length: float | None) -> str:
    """A line with the best robust accuracy of every cycle of `length` epochs; "" for None."""
    if length is None:
        return ""
    best = best_per_cycle(result["epoch"].values, result["robust"].values, length)
    values = ", ".join(f"{v:.3f}" for v in best.values())
    return f"best robust accuracy per cycle: {values}\n"


def _levels(reference: Problem, like: Problem, eps: float, strong: Attack) -> dict[str, float]:
    """Accuracies of the reference under two kinds of noise and under the strong attack."""
    draws = torch.cat([
        Noise(like.seed, batch.index, purpose=Purpose.RANDOM_SIGNS).uniform(batch.x).cpu()
        for batch in like.batches()
    ])  # fmt: skip
    judge = reference.on(like.images).seeded(like.seed)
    return {
        **_accuracy("random", _hits(reference, like, eps * draws.sign())),
        **_accuracy("random_uniform", _hits(reference, like, eps * draws)),
        **_accuracy("reference_strong", judge.under(strong).evaluate().correct),
    }


def _hits(judge: Problem, problem: Problem, delta: Tensor) -> Tensor:
    """Which of the problem's images (N,) `judge` gets right with delta (N, C, H, W) added."""
    predict, found, done = judge.predict(judge.origin), [], 0
    with torch.no_grad():
        for batch in problem.batches():
            part = delta[done : done + len(batch.y)].to(batch.x)
            done += len(batch.y)
            x = (batch.x + part).clamp(0, 1).to(judge.dtype)
            found.append((predicted(predict(x)) == batch.y).cpu())
    return torch.cat(found)


def _accuracy(name: str, correct: Tensor) -> dict[str, float]:
    p = correct.double().mean().item()
    return {name: p, f"{name}_se": float(error_of_share(p, len(correct)))}
