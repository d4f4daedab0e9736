"""Robust accuracies beside foolbox, torchattacks and pyautoattack at equal settings.

    python benchmarks/attacks.py DATA_FOLDER --checkpoint fast_adversarial/pgd_madry.pth --eps 0.3
    python benchmarks/attacks.py DATA_FOLDER --checkpoint alpha_beta_crown/resnet2b.pth
        --eps 2/255 --eps_l2 0.25 --cifar cifar10.npz         # on one line

The checkpoint is one of those that `shared_checkpoints.py` knows. PGD starts at the clean image, so
that all contestants do the same arithmetic; APGD, FAB and Square draw their own random numbers.
Prints one row per attack; contestants that are not installed are left out. Exit status 1 if a
rival's accuracy differs from ours by more than a point; for FMN, whose rival has no last bisection,
only if ours is the higher one. foolbox 3.3.4 never projects in its l_2 FMN (its factor is
norms / norms): "FMN l_2, projected" is the same attack with the projection that it means.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from shared_checkpoints import ROWS, problem_of
from torch import Tensor, nn

from ridgeline.train.attacks import parse_attack
from ridgeline.train.data.examples import Batch, Images
from ridgeline.train.evaluation import attacked

Attacked = Callable[[nn.Module, Tensor, Tensor], Tensor]
STEPS = 20


def ours(spec: str, images: Images) -> Attacked:
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


def by_foolbox(net: nn.Module, eps: float, eps_l2: float) -> dict[str, Attacked]:
    """PGD in both norms and on the margin, and FMN cut at eps."""
    import eagerpy
    import foolbox
    from foolbox.attacks.fast_minimum_norm import best_other_classes

    a, step, step_l2 = foolbox.attacks, 2.5 * eps / STEPS, 2.5 * eps_l2 / STEPS
    model = foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")

    class MarginPGD(a.LinfPGD):
        """PGD on the logit of the best wrong class less the label's."""

        def get_loss_fn(self, model, labels):
            def loss(inputs):
                logits, rows = model(inputs), range(len(inputs))
                return (logits[rows, best_other_classes(logits, labels)]
                        - logits[rows, labels]).sum()  # fmt: skip

            return loss

    class Projected(a.L2FMNAttack):
        """FMN that stays within its radius."""

        def project(self, x, x0, epsilon):
            way = x - x0
            norms = eagerpy.maximum(way.flatten(start=1).norms.l2(axis=-1), 1e-12)
            factor = eagerpy.minimum(1, epsilon / norms)
            return x0 + way * factor.reshape((-1,) + (1,) * (x.ndim - 1))

    options = {"steps": STEPS, "random_start": False}
    tools = {
        "PGD": (a.LinfPGD(abs_stepsize=step, **options), eps),
        "PGD l_2": (a.L2PGD(abs_stepsize=step_l2, **options), eps_l2),
        "margin PGD": (MarginPGD(abs_stepsize=step, **options), eps),
        "FMN": (a.LInfFMNAttack(), eps),
        "FMN l_2": (a.L2FMNAttack(), eps_l2),
        "FMN l_2, projected": (Projected(), eps_l2),
    }

    def attack(name: str) -> Attacked:
        tool, budget = tools[name]
        return in_batches(lambda x, y: tool(model, x, y, epsilons=budget)[1])

    return {name: attack(name) for name in tools}


def by_torchattacks(net: nn.Module, eps: float, eps_l2: float) -> dict[str, Attacked]:
    """PGD in both norms, APGD in both, FGSM and Square."""
    import torchattacks as t

    options = {"steps": STEPS, "random_start": False}
    return {
        "PGD": in_batches(t.PGD(net, eps=eps, alpha=2.5 * eps / STEPS, **options)),
        "PGD l_2": in_batches(t.PGDL2(net, eps=eps_l2, alpha=2.5 * eps_l2 / STEPS, **options)),
        "APGD": in_batches(t.APGD(net, eps=eps, steps=50, n_restarts=1)),
        "APGD l_2": in_batches(t.APGD(net, norm="L2", eps=eps_l2, steps=50, n_restarts=1)),
        "FGSM": in_batches(t.FGSM(net, eps=eps)),
        "Square": in_batches(t.Square(net, eps=eps, n_queries=500)),
    }


def by_pyautoattack(net: nn.Module, eps: float, eps_l2: float) -> dict[str, Attacked]:
    """APGD on both losses and in both norms, targeted APGD, FAB-T in both norms."""
    from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
    from pyautoattack.fab_pt import FABAttack_PT

    own = {"norm": "Linf", "eps": eps, "seed": 0, "device": "cpu", "n_iter": 50}
    l_2 = own | {"norm": "L2", "eps": eps_l2}
    return {
        "APGD": in_batches(APGDAttack(net, loss="ce", **own).perturb),
        "APGD l_2": in_batches(APGDAttack(net, loss="ce", **l_2).perturb),
        "APGD-DLR": in_batches(APGDAttack(net, loss="dlr", **own).perturb),
        "APGD-T": in_batches(APGDAttack_targeted(net, **own).perturb),
        "FAB-T": in_batches(FABAttack_PT(net, targeted=True, **own).perturb),
        "FAB-T l_2": in_batches(FABAttack_PT(net, targeted=True, **l_2).perturb),
    }


_SAME = f"iterations={STEPS},random_start=0,keep_best=0"
#: row -> our spec; {e} and {l} are the budgets
OURS = {
    "FGSM": "name=fgsm,eps={e}",
    "PGD": f"name=pgd,eps={{e}},{_SAME}",
    "PGD l_2": f"name=pgd,eps={{l}},order=2,{_SAME}",
    "margin PGD": f"name=pgd,eps={{e}},{_SAME},loss_type=cw",
    "DLR PGD": f"name=pgd,eps={{e}},{_SAME},loss_type=dlr",
    "APGD": "name=apgd,eps={e},iterations=50,restarts=1",
    "APGD l_2": "name=apgd,eps={l},order=2,iterations=50,restarts=1",
    "APGD-DLR": "name=apgd,eps={e},iterations=50,restarts=1,loss_type=dlr",
    "APGD-T": "name=apgd_t,eps={e},iterations=50",
    "FAB-T": "name=fab,eps={e},iterations=50,restarts=1,targets=9",
    "FAB-T l_2": "name=fab,eps={l},order=2,iterations=50,restarts=1,targets=9",
    "FMN": "name=fmn,eps={e}",
    "FMN l_2": "name=fmn,eps={l},order=2",
    "FMN l_2, projected": "name=fmn,eps={l},order=2",
    "Square": "name=square,eps={e},iterations=500",
}


def checked(clean: Batch, found: Tensor, net: nn.Module, eps: float, order: float) -> Tensor:
    """Whether each example is classified correctly (N,), judged anew in float64.

    Raises ValueError for an image outside [0,1] or the ball: no accuracy counts then.
    """
    way = (found.double() - clean.x.double()).flatten(1)
    furthest = way.norm(p=order, dim=1).max()
    if furthest > eps + 1e-6 or found.min() < 0 or found.max() > 1:
        raise ValueError(f"an image leaves the ball of {eps}: {furthest}")
    logits = copy.deepcopy(net).double()(found.double())
    return logits.argmax(1) == clean.y


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_folder", type=Path, help="has MNIST/raw and checkpoints")
    parser.add_argument("--checkpoint", required=True, choices=[row.file for row in ROWS])
    parser.add_argument("--cifar", default="cifar10", help="cifar10, or an .npz file of it")
    parser.add_argument("--size", type=int, default=500)
    parser.add_argument("--eps", default="0.3", help="l_inf, 0.3 or 8/255")
    parser.add_argument("--eps_l2", type=float, default=2.0)
    parser.add_argument("--only", default="", help="rows, several by semicolons; all without")
    options = parser.parse_args()
    (row,) = (row for row in ROWS if row.file == options.checkpoint)
    problem = problem_of(row, options.data_folder, options.cifar)
    images = problem.images.take(torch.arange(options.size))
    whole, net = next(images.batches(len(images))), problem.network
    eps, eps_l2 = float(Fraction(options.eps)), options.eps_l2
    rivals: dict[str, dict[str, Attacked]] = {}
    for name, make in (("foolbox", by_foolbox), ("torchattacks", by_torchattacks),
                       ("pyautoattack", by_pyautoattack)):  # fmt: skip
        try:
            rivals[name] = make(net, eps, eps_l2)
        except ImportError:
            print(f"{name} is not installed")
    clean = (net(whole.x).argmax(1) == whole.y).double().mean()
    print(f"{row.file}: clean {clean:.3f}, {len(images)} images, l_inf {options.eps}, l_2 {eps_l2}")
    print(f"| attack | ours | {' | '.join(rivals)} |\n|---|---|" + "---|" * len(rivals))
    worst = 0.0
    for name in options.only.split(";") if options.only else OURS:
        spec = OURS[name].format(e=f"{eps}/1", l=f"{eps_l2}/1")
        runs = {"ours": ours(spec, images)}
        runs |= {who: attacks[name] for who, attacks in rivals.items() if name in attacks}
        cells, scores = [], []
        for who in ("ours", *rivals):
            if who not in runs:
                cells.append("")
                continue
            start = time.perf_counter()
            found = runs[who](net, whole.x, whole.y)
            seconds = time.perf_counter() - start
            budget, order = (eps_l2, 2) if "l_2" in name else (eps, math.inf)
            if who == "ours":
                right = checked(whole, found, net, budget, order)
            else:
                right = net(found).argmax(1) == whole.y
            scores.append(float(right.double().mean()))
            cells.append(f"{scores[-1]:.3f} ({seconds:.1f} s)")
        above = scores[0] - np.array(scores[1:])
        worst = max(worst, *(above if "FMN" in name else np.abs(above)), 0.0)
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    print(f"largest difference that counts: {100 * worst:.1f} points")
    return int(worst > 0.01 + 1e-9)


if __name__ == "__main__":
    raise SystemExit(main())
