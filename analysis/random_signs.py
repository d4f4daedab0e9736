"""The similarity of unrelated perturbations of the same images: independent random signs.

Clipping to [0,1] leaves only one direction to a pixel at 0 or 1. So unrelated perturbations of
images with a black background are far from orthogonal. This null model includes the clipping.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ridgeline.analysis.perturbations import similarity
from ridgeline.train.attacks.norms import INF
from ridgeline.train.data.noise import Noise, Purpose
from ridgeline.train.statistics import mean_and_error

_PAIRS = 8  # pairs drawn for every image


def sign_null(clean: Tensor) -> dict[str, tuple[float, float]]:
    """Exact mean and standard deviation under random signs: sign_cosine, flipped and zero.

    `clean` (N, C, H, W) is in [0,1]. Two perturbations of an image are independent: each pixel goes
    up or down with probability 1/2. It does not change if clipping blocks that direction (at 0 and
    1). The mean is over images. The standard deviation is that of one image, sqrt(mean variance).
    With D pixels, none blocked, mean and deviation are 0 and 1/sqrt(D) for sign_cosine, 1/2 and
    1/(2 sqrt(D)) for flipped, 0 and 0 for zero.

    >>> grey = torch.full((1, 1, 2, 2), 0.5)  # no pixel is blocked: mean 0, sd 1 / sqrt(4)
    >>> sign_null(grey)["sign_cosine"]
    (0.0, 0.5)
    """
    flat = clean.flatten(1)
    pixels = flat.shape[1]
    blocked = ((flat <= 0) | (flat >= 1)).sum(1)
    moments = [_sign_cosine(pixels - k, k) for k in blocked.tolist()]
    found = torch.tensor(moments, dtype=torch.float64)
    share = blocked.double() / pixels
    return {
        "sign_cosine": _summary(found[:, 0], found[:, 1]),
        "flipped": _summary((1 - share) / 2, (1 - share) / 4 / pixels),
        "zero": _summary(share * 3 / 4, share * 3 / 16 / pixels),
    }


def _summary(mean: Tensor, variance: Tensor) -> tuple[float, float]:
    return mean.mean().item(), variance.mean().sqrt().item()


def _sign_cosine(free: int, blocked: int) -> tuple[float, float]:
    """Mean and variance of the cosine of two independent sign vectors.

    `free` entries are +1 or -1; `blocked` entries are 0 or their only allowed sign. K and K' of the
    blocked entries are nonzero in the two vectors. Given K and K', the overlap is hypergeometric.
    So both moments are sums over K and K'. Pairs with a zero vector have no cosine and are left
    out.
    """
    count = torch.arange(blocked + 1, dtype=torch.float64)
    weight = torch.exp(
        math.lgamma(blocked + 1) - torch.lgamma(count + 1) - torch.lgamma(blocked - count + 1)
        - blocked * math.log(2)
    )  # fmt: skip
    moving = free + count
    weight, count, moving = (t[moving > 0] for t in (weight, count, moving))
    if not len(weight):
        return math.nan, math.nan
    weight = weight / weight.sum()

    def expected(values: Tensor) -> float:
        return (weight * values).sum().item()

    many = max(blocked, 1)
    mean = expected(count / moving.sqrt()) ** 2 / many
    second = free * expected(1 / moving) ** 2 + expected(count**2 / moving) ** 2 / many**2
    if blocked > 1:
        second += expected(count * (blocked - count) / moving) ** 2 / (many**2 * (many - 1))
    return mean, max(second - mean**2, 0.0)


def cosine_null(
    clean: Tensor, index: Tensor, eps: float, seed: int, order: float = INF
) -> dict[str, float]:
    """Cosine of two random-sign perturbations of an image: mean, its error, sd of one image.

    `clean` (N, C, H, W) gets random signs of l_inf or l_2 norm eps and is clipped to [0,1]. There
    are a few pairs per example, determined by seed and `index` (N,). They are drawn because pixels
    close to 0 or 1 allow no closed form. The sd is sqrt(mean variance within an image), as in
    `sign_null`.
    """
    eps = eps if order == INF else eps / math.sqrt(clean[0].numel())
    noise = Noise(seed, index, purpose=Purpose.RANDOM_SIGNS)

    def drawn(number: int) -> Tensor:
        return (clean + eps * noise.uniform(clean, number).sign()).clamp(0, 1) - clean

    cosines = [similarity(drawn(2 * n), drawn(2 * n + 1)).cosine for n in range(_PAIRS)]
    every = torch.stack(cosines)
    mean, error = mean_and_error(every.nanmean(0).numpy())
    within = (every - every.nanmean(0)).square().nanmean(0) * _PAIRS / (_PAIRS - 1)
    return {"mean": mean, "se": error, "sd": within.nanmean().sqrt().item()}
