"""A point of a loss surface: ours beside loss-landscapes, landscaper and a plain loop, in one run.

    pip install loss-landscapes==3.0.6
    pip install --no-deps landscaper==1.3.1     # and what its import asks for
    python benchmarks/scans.py lenet
    python benchmarks/scans.py resnet --images cifar10.npz
    python benchmarks/scans.py lenet --attack --images_count 200 --turns 3
    python benchmarks/scans.py resnet --images cifar10.npz --attack --images_count 64 --turns 1

Same network, images and threads; the contestants take turns, a plane of 21 x 21 points each time,
or 11 x 11 with PGD-10 at every point (--attack). A compilation falls in the first turn, which does
not count. The rivals of an attack are torchattacks, foolbox and
the reference's loop (Liu et al. 2020), which takes the gradients of the parameters too, of a copy
of the network. Prints a table, or JSON with --json.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import itertools
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator

import ridgeline as rl  # isort: skip  # before torch: waiting threads sleep, as in commands
import subjects
import torch
from torch.nn import functional as F

from ridgeline.run.shared.launch import keep_freed_pages

Scan = Callable[[], float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network", choices=("lenet", "resnet"))
    parser.add_argument("--images", default="cifar10.npz", help="an .npz, for resnet")
    parser.add_argument("--images_count", type=int)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--side", type=int, help="points along each axis of the plane")
    parser.add_argument("--attack", action="store_true")
    parser.add_argument("--warm_side", type=int, help="side of the turn to warm up, odd")
    parser.add_argument("--only", help="contestants, names separated by commas")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    for name in ("side", "warm_side"):  # the loss at the centre is compared
        value = getattr(options, name)
        if value is not None and (value < 3 or value % 2 == 0):
            parser.error(f"--{name} {value}: an odd number from 3 has a point at the centre")
    keep_freed_pages()  # for all contestants
    count = options.images_count or {"lenet": 1000, "resnet": 256}[options.network]
    if options.network == "lenet":
        problem = subjects.lenet(images=count)
    else:
        problem = subjects.resnet(options.images, epochs=1, images=count)
    side = options.side or (11 if options.attack else 21)
    kind = attacks if options.attack else surfaces
    contestants = kind(problem, side)
    if options.only:
        contestants = {name: contestants[name] for name in options.only.split(",")}
    warming = kind(problem, options.warm_side) if options.warm_side else contestants
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    losses: dict[str, float] = {}
    for turn in range(options.turns + 1):
        for name in contestants:
            scan = (contestants if turn else warming)[name]
            began = time.perf_counter()
            losses[name] = scan()
            if turn:  # the first is to warm up
                seconds[name].append((time.perf_counter() - began) / side**2)
    table = {
        name: {
            "median_ms": 1e3 * statistics.median(s),
            "min_ms": 1e3 * min(s),
            "loss": losses[name],
        }
        for name, s in seconds.items()
    }
    ours = next(iter(table.values()))["median_ms"]  # of all unless --only says otherwise
    flops = 2 * macs(problem) * len(problem.data)
    rate = gemm_rate()
    what = {
        "network": options.network, "images": count, "side": side, "turns": options.turns,
        "attack": options.attack, "threads": torch.get_num_threads(), "torch": torch.__version__,
        "processor": platform.processor() or platform.machine(), "cores": os.cpu_count(),
        "gemm_gflops": rate / 1e9, "table": table,
    }  # fmt: skip
    if not options.attack:
        what["share_of_gemm_rate"] = flops / (ours / 1e3) / rate
    if options.json:
        print(json.dumps(what, indent=1))
        return
    print(f"{options.network}, {count} images, {side} x {side} points, {options.turns} turns, "
          f"{what['threads']} threads")  # fmt: skip
    for name, row in table.items():
        print(f"{name:28s} {row['median_ms']:9.1f} ms (min {row['min_ms']:.1f})  "
              f"x {row['median_ms'] / ours:5.2f}   loss {row['loss']:.5f}")  # fmt: skip
    if not options.attack:
        print(
            f"share of the GEMM rate ({rate / 1e9:.0f} GFLOP/s): {what['share_of_gemm_rate']:.0%}"
        )


def everything(problem: rl.Problem) -> tuple[torch.Tensor, torch.Tensor]:
    """All images and labels, ready for the network."""
    batches = list(problem.batches())
    return torch.cat([b.x for b in batches]), torch.cat([b.y for b in batches])


class Mover:
    """A network of its own that is put, in place, onto the points of a plane."""

    def __init__(
        self, problem: rl.Problem, plane: rl.Plane, side: int, layout: torch.memory_format
    ):
        self.network = copy.deepcopy(problem.network).to(memory_format=layout)
        self._parameters = dict(self.network.named_parameters())
        self._knots = [{n: t.to(memory_format=layout) if t.ndim == 4 else t
                        for n, t in knot.items()} for knot in plane.knots]  # fmt: skip
        self._side = [2 * k / (side - 1) - 1 for k in range(side)]

    def __iter__(self) -> Iterator[tuple[float, float]]:
        """The coordinates, the network being there."""
        origin, first, second = self._knots
        for at in itertools.product(self._side, self._side):
            with torch.no_grad():
                for n, p in self._parameters.items():
                    torch.add(origin[n], first[n], alpha=at[0], out=p.data)
                    p.data.add_(second[n], alpha=at[1])
            yield at


def surfaces(problem: rl.Problem, side: int) -> dict[str, Scan]:
    """Name -> a scan of side x side points of a plane; returns a loss, to compare at the origin."""
    plane = rl.random_plane(problem)
    x, y = everything(problem)

    def ours() -> float:
        return float(rl.scan(problem, plane, side)["loss"][0, side // 2, side // 2])

    def in_place(layout: torch.memory_format, size: int) -> Scan:
        mover = Mover(problem, plane, side, layout)
        images = [p.contiguous(memory_format=layout) for p in x.split(size)]

        def scan() -> float:
            losses = {}
            for at in mover:
                with torch.no_grad():
                    parts = zip(images, y.split(size), strict=True)
                    total = sum(F.cross_entropy(mover.network(i), t, reduction="sum")
                                for i, t in parts)  # fmt: skip
                    losses[at] = total.item() / len(y)
            return losses[0.0, 0.0]

        return scan

    def compiled() -> float:
        found = rl.scan(problem, plane, side, compiled=True)
        return float(found["loss"][0, side // 2, side // 2])

    contestants = {"ridgeline": ours, "compiled": compiled}
    contestants["in place"] = in_place(torch.contiguous_format, problem.batch_size)
    contestants["in place, one batch"] = in_place(torch.contiguous_format, len(y))
    contestants["in place, channels-last"] = in_place(torch.channels_last, problem.batch_size)
    try:
        import loss_landscapes
        from loss_landscapes.metrics import Loss

        network, metric = copy.deepcopy(problem.network), Loss(F.cross_entropy, x, y)

        def theirs() -> float:
            with torch.no_grad():  # a kindness: it does not do so by itself
                found = loss_landscapes.random_plane(
                    network, metric, distance=1, steps=side, deepcopy_model=True
                )
            return found[side // 2, side // 2]  # near the origin

        contestants["loss-landscapes"] = theirs
    except ImportError:
        print("loss-landscapes is not installed")
    try:
        from landscaper.compute import compute_loss_landscape

        other = copy.deepcopy(problem.network)
        directions = [[torch.randn_like(p) for p in other.parameters()] for _ in range(2)]

        def scalar(model, data) -> float:
            return F.cross_entropy(model(data[0]), data[1]).item()

        def landscape() -> float:
            with (
                contextlib.redirect_stdout(io.StringIO()),
                contextlib.redirect_stderr(io.StringIO()),
            ):
                found = compute_loss_landscape(
                    other, (x, y), directions, scalar, steps=side, distance=0.1, dim=2, device="cpu"
                )
            return float(found[0][side // 2, side // 2])

        contestants["landscaper"] = landscape
    except ImportError:
        print("landscaper is not installed")
    return contestants


def attacks(problem: rl.Problem, side: int) -> dict[str, Scan]:
    """Name -> a scan with PGD-10 at every point; returns the loss at the origin."""
    x, y = everything(problem)
    eps, step = 0.1, 0.025
    if x.shape[1] == 3:
        eps, step = 8 / 255, 2 / 255
    plane = rl.random_plane(problem)
    robust = problem.under(f"name=pgd,threshold={eps},step_size={step},iter_num=10")

    def ours() -> float:
        return float(rl.scan(robust, plane, side)["loss"][0, side // 2, side // 2])

    def every_point(attack: Callable[[torch.nn.Module], torch.Tensor]) -> Scan:
        mover = Mover(problem, plane, side, torch.contiguous_format)

        def scan() -> float:
            losses = {}
            for at in mover:
                found = attack(mover.network)
                with torch.no_grad():
                    losses[at] = F.cross_entropy(mover.network(found), y).item()
            return losses[0.0, 0.0]

        return scan

    def reference(network: torch.nn.Module) -> torch.Tensor:
        """PGD of Liu et al. 2020: backward() through all parameters of a copy of the network."""
        moved = copy.deepcopy(network).requires_grad_(True)
        whole = []
        for images, labels in zip(x.split(100), y.split(100), strict=True):
            found = (images + eps * (2 * torch.rand_like(images) - 1)).clamp(0, 1)
            for _ in range(10):
                found = found.detach().requires_grad_()
                F.cross_entropy(moved(found), labels).backward()
                stepped = found.detach() + step * found.grad.sign()
                found = (images + (stepped - images).clamp(-eps, eps)).clamp(0, 1)
            whole.append(found)
        return torch.cat(whole).detach()

    contestants = {"ridgeline": ours, "reference": every_point(reference)}
    try:
        import torchattacks

        contestants["torchattacks"] = every_point(
            lambda network: torchattacks.PGD(network, eps=eps, alpha=step, steps=10)(x, y)
        )
    except ImportError:
        print("torchattacks is not installed")
    try:
        import foolbox

        def fooled(network: torch.nn.Module) -> torch.Tensor:
            model = foolbox.PyTorchModel(network, bounds=(0, 1))
            attack = foolbox.attacks.LinfPGD(abs_stepsize=step, steps=10)
            return attack(model, x, y, epsilons=eps)[1]

        contestants["foolbox"] = every_point(fooled)
    except ImportError:
        print("foolbox is not installed")
    return contestants


def macs(problem: rl.Problem) -> int:
    """Multiply-adds of one image in convolutions and linear layers."""
    total = 0

    def count(module, inputs, output) -> None:
        nonlocal total
        each = module.weight[0].numel()
        total += each * (output[0].numel() if output.ndim > 1 else 1)

    layers = [m for m in problem.network.modules() if hasattr(m, "weight") and m.weight is not None
              and m.weight.ndim in (2, 4)]  # fmt: skip
    hooks = [m.register_forward_hook(count) for m in layers]
    batch = problem.data.batch(torch.arange(1), problem.device, problem.dtype)
    with torch.no_grad():
        problem.network(batch.x)
    for hook in hooks:
        hook.remove()
    return total


def gemm_rate(size: int = 1536) -> float:
    """FLOP/s of a large float32 matrix product, the best of five."""
    a = torch.randn(size, size)
    times = []
    for _ in range(5):
        began = time.perf_counter()
        _ = a @ a
        times.append(time.perf_counter() - began)
    return 2 * size**3 / min(times)


if __name__ == "__main__":
    main()
