"""Robust accuracies beside foolbox, torchattacks and pyautoattack at equal settings.

    python benchmarks/attacks.py --checkpoint fast_adversarial/pgd_madry.pth --data_dir FOLDER

The network is the MNIST one of locuslab's fast_adversarial (two strided convolutions, two linear
layers). PGD starts at the clean image, so that all contestants do the same arithmetic; APGD, FAB
and Square draw their own random numbers. Prints one row per attack; contestants that are not
installed are left out. Exit status 1 if a rival's accuracy differs from ours by more than a point;
for FMN, whose rival has no last bisection, only if ours is the higher one.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from ridgeline.train.attacks import parse_attack
from ridgeline.train.data.datasets import load_images
from ridgeline.train.evaluation import attacked

Attacked = Callable[[nn.Module, Tensor, Tensor], Tensor]
STEPS = 20


def network(path: str) -> nn.Module:
    """The network of the checkpoint, in eval mode."""
    net = nn.Sequential(
        nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Flatten(),
        nn.Linear(1568, 100), nn.ReLU(), nn.Linear(100, 10),
    )  # fmt: skip
    net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return net.eval().requires_grad_(False)


def ours(spec: str, images) -> Attacked:
    """One of our attacks, by its spec, on the images in their order."""

    def run(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        del x, y
        pairs = attacked(net, images, parse_attack(spec), batch_size=100, seed=0)
        return torch.cat([z for _, z in pairs])

    return run


def in_batches(attack: Callable[[Tensor, Tensor], Tensor]) -> Attacked:
    """An attack of others, in batches of 100."""
    return lambda net, x, y: torch.cat(
        [attack(a, b).detach() for a, b in zip(x.split(100), y.split(100), strict=True)]
    )


def by_foolbox(net: nn.Module, eps: float) -> dict[str, Attacked]:
    """PGD in both norms, and FMN cut at eps."""
    import foolbox

    model = foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
    a, step, step_2 = foolbox.attacks, 2.5 * eps / STEPS, 2.5 * L2 / STEPS
    tools = {
        "PGD": (a.LinfPGD(abs_stepsize=step, steps=STEPS, random_start=False), eps),
        "PGD l_2": (a.L2PGD(abs_stepsize=step_2, steps=STEPS, random_start=False), L2),
        "FMN": (a.LInfFMNAttack(), eps),
        "FMN l_2": (a.L2FMNAttack(), L2),
    }

    def attack(name: str) -> Attacked:
        tool, budget = tools[name]
        return in_batches(lambda x, y: tool(model, x, y, epsilons=budget)[1])

    return {name: attack(name) for name in tools}


def by_torchattacks(net: nn.Module, eps: float) -> dict[str, Attacked]:
    """PGD in both norms, APGD."""
    import torchattacks as t

    step = 2.5 * eps / STEPS
    return {
        "PGD": in_batches(t.PGD(net, eps=eps, alpha=step, steps=STEPS, random_start=False)),
        "PGD l_2": in_batches(
            t.PGDL2(net, eps=L2, alpha=2.5 * L2 / STEPS, steps=STEPS, random_start=False)
        ),
        "APGD": in_batches(t.APGD(net, eps=eps, steps=50, n_restarts=1)),
        "FGSM": in_batches(t.FGSM(net, eps=eps)),
        "Square": in_batches(t.Square(net, eps=eps, n_queries=500)),
    }


def by_pyautoattack(net: nn.Module, eps: float) -> dict[str, Attacked]:
    """APGD on both losses, targeted APGD, FAB-T."""
    from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
    from pyautoattack.fab_pt import FABAttack_PT

    own = {"norm": "Linf", "eps": eps, "seed": 0, "device": "cpu"}
    return {
        "APGD": in_batches(APGDAttack(net, n_iter=50, loss="ce", **own).perturb),
        "APGD-DLR": in_batches(APGDAttack(net, n_iter=50, loss="dlr", **own).perturb),
        "APGD-T": in_batches(APGDAttack_targeted(net, n_iter=50, **own).perturb),
        "FAB-T": in_batches(FABAttack_PT(net, n_iter=50, targeted=True, **own).perturb),
    }


L2 = 2.0
#: row -> our spec; {e} is eps
OURS = {
    "FGSM": "name=fgsm,eps={e}",
    "PGD": f"name=pgd,eps={{e}},iterations={STEPS},random_start=0,keep_best=0",
    "PGD l_2": f"name=pgd,eps={L2}/1,order=2,iterations={STEPS},random_start=0,keep_best=0",
    "margin PGD": f"name=pgd,eps={{e}},iterations={STEPS},loss_type=cw",
    "DLR PGD": f"name=pgd,eps={{e}},iterations={STEPS},loss_type=dlr",
    "APGD": "name=apgd,eps={e},iterations=50,restarts=1",
    "APGD-DLR": "name=apgd,eps={e},iterations=50,restarts=1,loss_type=dlr",
    "APGD-T": "name=apgd_t,eps={e},iterations=50",
    "FAB-T": "name=fab,eps={e},iterations=50,restarts=1,targets=9",
    "FMN": "name=fmn,eps={e}",
    "FMN l_2": f"name=fmn,eps={L2}/1,order=2",
    "Square": "name=square,eps={e},iterations=500",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--size", type=int, default=500)
    parser.add_argument("--eps", type=float, default=0.3)
    options = parser.parse_args()
    test = load_images("mnist", "test", options.data_dir)
    images = test.take(torch.arange(options.size))
    whole = next(images.batches(len(images)))
    net = network(options.checkpoint)
    rivals: dict[str, dict[str, Attacked]] = {}
    for name, make in (("foolbox", by_foolbox), ("torchattacks", by_torchattacks),
                       ("pyautoattack", by_pyautoattack)):  # fmt: skip
        try:
            rivals[name] = make(net, options.eps)
        except ImportError:
            print(f"{name} is not installed")
    clean = (net(whole.x).argmax(1) == whole.y).double().mean()
    print(f"clean accuracy {clean:.3f} on {len(images)} images, l_inf eps {options.eps}, l_2 {L2}")
    print(f"| attack | ours | {' | '.join(rivals)} |\n|---|---|" + "---|" * len(rivals))
    worst = 0.0
    for row, spec in OURS.items():
        runs = {"ours": ours(spec.format(e=f"{options.eps}/1"), images)}
        runs |= {name: attacks[row] for name, attacks in rivals.items() if row in attacks}
        cells, scores = [], []
        for name in ("ours", *rivals):
            if name not in runs:
                cells.append("")
                continue
            start = time.perf_counter()
            found = runs[name](net, whole.x, whole.y)
            seconds = time.perf_counter() - start
            scores.append(float((net(found).argmax(1) == whole.y).double().mean()))
            cells.append(f"{scores[-1]:.3f} ({seconds:.1f} s)")
        above = scores[0] - np.array(scores[1:])
        worst = max(worst, *(above if "FMN" in row else np.abs(above)), 0.0)
        print(f"| {row} | {' | '.join(cells)} |", flush=True)
    print(f"largest difference that counts: {100 * worst:.1f} points")
    return int(worst > 0.01)


if __name__ == "__main__":
    raise SystemExit(main())
