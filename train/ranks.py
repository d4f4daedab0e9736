"""Training shared by the processes of torchrun."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ridgeline.train.data.examples import Images
from ridgeline.train.data.noise import CHUNK, Purpose, number_of
from ridgeline.train.evaluation import Scores, joined
from ridgeline.train.exchange import agreed, connect, gathered, meet, processes, summed
from ridgeline.train.parts.shared_batchnorm import SharedBatchNorm


class Crew:
    """The processes that train one network together (or one process, without exchange).

    - Each process takes its share of every batch. Gradients are those of the mean over the whole
      batch: each process weights its losses by its number of examples, and gradients are summed.
    - BatchNorm's running statistics become the mean over processes, weighted by examples.
    - One message exchanges all gradients after the last backward pass.

    DistributedDataParallel is not used. Its hooks average over processes, which is wrong for shares
    of unequal size. They start at the first of several backward passes (of the attack, or of
    --accumulate). And it needs a wrapped network.
    """

    def __init__(self, network: nn.Module, device: torch.device):
        self.number, self.count = processes() if connect(device) else (0, 1)
        self.network, self.device = network, device
        self._statistics = [
            b for m in network.modules() if not isinstance(m, SharedBatchNorm)
            for n, b in m.named_buffers(recurse=False) if n in ("running_mean", "running_var")
        ]  # fmt: skip

    @property
    def alone(self) -> bool:
        """Whether there is only one process."""
        return self.count == 1

    def share(self, places: Tensor) -> Tensor:
        """The positions of a batch for this process: consecutive, of nearly equal number."""
        return places if self.alone else places.tensor_split(self.count)[self.number]

    def draw_apart(self, seed: int, done: int) -> None:
        """Give each process its own dropout masks. `done` is the number of finished examples."""
        if self.number:
            torch.manual_seed(number_of(seed, Purpose.TRAINING, self.number, done))

    def meet(self) -> None:
        """Wait until every process calls this."""
        if not self.alone:
            meet()

    def begin_epoch(self) -> None:
        """Copy the weights of the first process to all processes."""
        if not self.alone:
            agreed(list(self.network.state_dict().values()))

    def exchange(
        self, share: float, numbers: Sequence[Tensor], sums: Sequence[Tensor] = (),
        before: Sequence[Tensor] = (),
    ) -> None:  # fmt: skip
        """Sum the gradients and `numbers` over the processes, in place.

        `share` is this process's fraction of the batch. For `sums`, only the increase since
        `before` is summed.
        """
        for now, then in zip(sums, before, strict=True):
            now.sub_(then)
        for statistic in self._statistics:
            statistic.mul_(share)
        gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
        summed([*gradients, *self._statistics, *numbers, *sums])
        for now, then in zip(sums, before, strict=True):
            now.add_(then)

    def any(self, flag: bool) -> bool:
        """Whether `flag` is True in any process. Waits for the device."""
        if self.alone:
            return flag
        found = torch.tensor(float(flag), device=self.device)
        summed([found])
        return bool(found)

    def scores(
        self, evaluate: Callable[[Images], Mapping[str, Scores]], images: Images, batch_size: int
    ) -> dict[str, Scores]:
        """The result of `evaluate` for images; each process takes every n-th batch.

        Batches and chunks that share random numbers are not divided. So the scores are equal to
        those of one process, bit for bit.
        """
        runs = torch.arange(len(images)).split(math.lcm(batch_size, CHUNK))
        own = runs[self.number :: self.count]
        mine = {n: vars(s) for n, s in evaluate(images.take(torch.cat(own))).items()} if own else {}
        parts = [part for part in gathered(mine) if part]
        places = [torch.cat(runs[n :: self.count]) for n in range(len(parts))]
        order = torch.cat(places).argsort()
        return {
            name: Scores(**{k: v[order] for k, v in vars(joined([p[name] for p in parts])).items()})
            for name in parts[0]
        }
