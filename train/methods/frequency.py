"""Training with a penalty on the high frequencies of convolution filters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ridgeline.models.dct import DctConv2d, dct_layers, decompose, high_frequencies, plain_state
from ridgeline.models.errors import InputError
from ridgeline.train.data.examples import Batch
from ridgeline.train.data.noise import Purpose, number_of
from ridgeline.train.methods.base import Method, Setup, Step, joined
from ridgeline.train.options import Opt, Options

#: penalty -> the frequencies of a layer that it uses
PENALTIES = {
    "highest": "sum of max(i, j) N_ij over max(i, j) > K/2",
    "all": "sum of (i^2 + j^2) N_ij; K = 3 spares (0,0), larger K the block i, j <= 1",
    "decay": "hinges: no N on an anti-diagonal i + j above any N on the one before",
}


#: conditions of options: kernels in a basis; a penalty is possible; the penalty is above 0
_IN_BASIS = {"basis_filter": ()}
_REGULARISED = {"l2_reg": (), **_IN_BASIS}
_PENALISED = {**_REGULARISED, "l2_lambda": ()}


@dataclass(frozen=True)
class FrequencyOptions(Options):
    """The basis of the kernels, and the penalty on their coefficients."""

    basis_filter: Annotated[
        str | None,
        Opt("basis of the kernels; None: plain kernels and no penalty",
            choices={"WD": "synthesise them", "SD": "convolve with the basis"})
    ] = "WD"  # fmt: skip
    init_scale: Annotated[
        str,
        Opt("coefficients at the start", choices={"same": "as the plain layer", "kaiming_uniform":
            "", "kaiming_normal": "", "signal": "SD's"}, only=_IN_BASIS),
    ] = "same"  # fmt: skip
    min_kernel_size: Annotated[
        int, Opt("smallest kernel that uses the basis", low=2, only=_IN_BASIS)
    ] = 3  # fmt: skip
    l2_reg: Annotated[bool, Opt("use the penalty; False: the same network without it")] = True
    l2_lambda: Annotated[float, Opt("strength of the penalty", low=0, only=_REGULARISED)] = 0.01
    reg_depth: Annotated[
        float, Opt("penalise the first floor(N/depth)+1 layers; 1: all", above=0, only=_PENALISED)
    ] = 3.0  # fmt: skip
    reg_all_freq: Annotated[bool, Opt("penalise all frequencies by i^2 + j^2", only=_PENALISED)] = (
        False
    )
    reg_diff: Annotated[
        bool, Opt("add hinges that keep the next frequencies below (0,0)", only=_PENALISED)
    ] = False  # fmt: skip
    reg_diff_all: Annotated[
        bool, Opt("hinges between all anti-diagonals, instead of the rest", only=_PENALISED)
    ] = False  # fmt: skip

    def check(self) -> None:
        """Raise InputError for two penalties."""
        if self.reg_diff_all and (self.reg_all_freq or self.reg_diff):
            raise InputError("--reg_diff_all replaces --reg_all_freq and --reg_diff: name one")

    @property
    def penalty(self) -> str:
        """The chosen penalty, a name in PENALTIES."""
        return "decay" if self.reg_diff_all else "all" if self.reg_all_freq else "highest"


class Frequency(Method):
    """Cross-entropy + strength * penalty on the DCT coefficients (Lukasik et al. 2023).

    - `network` is a copy of the given one with `DctConv2d` layers. The first layers in module order
      have a penalty (`depth_rule`).
    - N_ij is the Frobenius norm of a layer's coefficients at frequency (i, j) over all its filters.
      It is not squared, so whole frequencies of a layer can become zero.
    - `reg_diff` adds hinges that keep (0,1), (1,0), (1,1) below (0,0).
    - Our default is what the commands of the published README run: penalty "highest", strength
      0.01, the first floor(N / 3) + 1 layers, WD layers.
    - The training loss in the metrics includes the penalty. Checkpoints have plain convolution
      weights. An attack is used only for evaluation.
    - Without a basis it is the baseline: the plain network with the cross-entropy.

    Raises InputError if the network has no convolution that the basis can represent.
    """

    options_type = FrequencyOptions
    options: FrequencyOptions

    def __init__(
        self,
        network: nn.Module,
        setup: Setup | None = None,
        options: FrequencyOptions | None = None,
    ):
        super().__init__(network, setup, options)
        given = self.options
        if given.basis_filter is None:
            self.label = "plain"  # the baseline has its own name beside the regularised run
        else:
            self.network = decompose(
                network, given.basis_filter, given.init_scale, given.min_kernel_size,
                number_of(self.setup.seed, Purpose.DCT),
            )  # fmt: skip
        self.all = dct_layers(self.network)
        count = depth_rule(len(self.all), given.reg_depth)
        self.penalised: dict[str, DctConv2d] = dict(list(self.all.items())[:count])
        self.strength = given.l2_lambda if given.l2_reg and self.all else 0.0

    def penalty(self) -> Tensor:
        """The penalty summed over the penalised layers, without its strength."""
        kind, lowest = self.options.penalty, self.options.reg_diff
        return sum(penalty(m.coefficients, kind, lowest=lowest) for m in self.penalised.values())

    def loss(self, batch: Batch, step: Step) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy of the clean batch + strength * penalty."""
        logits = self.network(batch.x)
        loss = F.cross_entropy(logits, batch.y)
        return (loss + self.strength * self.penalty() if self.strength else loss), logits

    def metrics(self, step: Step) -> dict[str, float]:
        """Strength * penalty, the number of layers with it, and N_ij of these layers."""
        with torch.no_grad():
            tables = {n: norms(m.coefficients).tolist() for n, m in self.all.items()}
            strength = self.strength * float(self.penalty())
        by_place = (
            {f"norm_{name}_{i}{j}": value for i, row in enumerate(table)
             for j, value in enumerate(row)} for name, table in tables.items()
        )  # fmt: skip
        count = len(self.penalised) if self.strength else 0
        return joined({"penalty": strength, "penalised_layers": count}, *by_place)

    def weights(self) -> dict[str, Tensor]:
        """The network with plain convolutions, which all landscape tools use."""
        return plain_state(self.network)


def depth_rule(count: int, depth: float) -> int:
    """floor(N / depth) + 1 layers, at most N. Depth 3: a third and one more; depth 1: all.

    >>> depth_rule(9, 3), depth_rule(9, 1)
    (4, 9)
    """
    if not depth > 0:
        raise InputError(f"--reg_depth must be positive, got {depth:g}")
    return min(int(count / depth) + 1, count)


def norms(coefficients: Tensor) -> Tensor:
    """N (K, K) over (i, j): Frobenius norms over all filters. The gradient is 0 where N is 0."""
    square = coefficients.square().sum((0, 1))
    positive = square > 0
    return torch.where(positive, torch.where(positive, square, 1.0).sqrt(), 0.0)


def penalty(coefficients: Tensor, kind: str, *, lowest: bool = False) -> Tensor:
    """The penalty of one layer's coefficients (out, in / groups, K, K); kinds in PENALTIES."""
    n = norms(coefficients)
    size = n.shape[-1]
    i = torch.arange(size, device=n.device)
    largest = torch.maximum(i[:, None], i[None, :])
    if kind == "highest":
        total = (n * largest * high_frequencies(size, n.device)).sum()
    elif kind == "all":
        spared = largest < (1 if size == 3 else 2)
        total = (n * (i[:, None] ** 2 + i[None, :] ** 2) * ~spared).sum()
    else:
        diagonal = i[:, None] + i[None, :]
        total = sum(
            (n[diagonal == s][None, :] - n[diagonal == s - 1][:, None]).clamp_min(0).sum()
            for s in range(1, 2 * size - 1)
        )
    if lowest:
        total = total + sum((n[place] - n[0, 0]).clamp_min(0) for place in ((0, 1), (1, 0), (1, 1)))
    return total
