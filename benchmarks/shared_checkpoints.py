"""Accuracies of checkpoints that others trained, beside those that are known of them.

    python benchmarks/shared_checkpoints.py DATA_FOLDER --cifar cifar10.npz

Every checkpoint of DATA_FOLDER/checkpoints is loaded as any command loads it. Clean accuracy is
that of all 10,000 test images and must equal the known one to 0.01 points; PGD-20 (l_inf, steps of
2.5 eps / 20, random start) and AutoAttack of the first 500 images: PGD within 2 points of the known
accuracy, AutoAttack never above PGD. Prints a table; the numbers stand in --out_file as they come,
and what is there already is not computed again. Exit status 1 if a number is off.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from ridgeline.analysis.statistics import wilson
from ridgeline.landscape.problem import Problem
from ridgeline.run.shared import options as o
from ridgeline.run.shared.networks import open_network
from ridgeline.train.attacks import Attack, parse_attack
from ridgeline.train.files.recipe import write_atomically

FIRST = 500
_MEAN, _CIFAR = ".485:.456:.406", ".4914:.4822:.4465"
NORMS = {
    "I": f"mean={_MEAN},std=.229:.224:.225",
    "O": f"mean={_MEAN},std=.225:.225:.225",
    "C": f"mean={_CIFAR},std=.2471:.2435:.2616",
    "C2": f"mean={_CIFAR},std=.2023:.1994:.2010",
    "S": "mean={}:{}:{},std={}:{}:{}".format(
        *(v / 255 for v in (125.3, 123, 113.9, 63, 62.1, 66.7))
    ),
    "none": None,
}


@dataclass(frozen=True)
class Row:
    """A checkpoint: its network, normalisation, and what is known of it, accuracies in percent."""

    file: str
    network: str
    norm: str
    clean: float
    #: budget as a spec writes it -> accuracy under PGD-20
    pgd: dict[str, float]
    robust: bool  # trained against attacks, or provably: AutoAttack is run too

    @property
    def grey(self) -> bool:
        """Is it a network for MNIST?"""
        return self.network.endswith(("mnist", "LeNet5"))


_F, _R = "foreign_networks:", "real_networks:ResNet20"
_C, _M = ("2/255", "8/255"), (".1", ".3")


def _pgd(budgets: tuple[str, ...], *values: float) -> dict[str, float]:
    return dict(zip(budgets, values, strict=True))


ROWS = (
    Row("pytorch_resnet_cifar10/resnet20-12fca82f.th", _R, "I", 91.73,
        _pgd(("1/255", *_C), 20.0, 1.2, 0), False),
    Row("pyhessian/resnet20.pkl", "resnet20", "C2", 92.00, {}, False),
    Row("alpha_beta_crown/resnet2b.pth", f"{_F}ResNet2b", "C", 69.25, _pgd(_C, 55.0, 18.2), True),
    Row("alpha_beta_crown/cifar_cnn_a_adv.model", f"{_F}m7_cifar", "S", 65.65,
        _pgd(_C, 49.4, 12.8), True),
    Row("alpha_beta_crown/cifar_cnn_a_mix.model", f"{_F}m7_cifar", "S", 74.17,
        _pgd(_C, 55.4, 6.4), True),
    Row("alpha_beta_crown/cifar_marabou_medium.pth", f"{_F}marabou_medium", "none", 70.21,
        _pgd(_C, 26.8, 0.8), False),
    Row("alpha_beta_crown/cifar_wide.pth", f"{_F}m7_cifar", "O", 61.61, _pgd(_C, 54.0, 25.0), True),
    Row("fast_adversarial/fgsm.pth", f"{_F}m7_mnist", "none", 98.50, _pgd(_M, 95.8, 88.8), True),
    Row("fast_adversarial/pgd_madry.pth", f"{_F}m7_mnist", "none", 98.99,
        _pgd(_M, 98.0, 89.6), True),
    Row("advertorch/mnist_lenet5_clntrained.pt", "advertorch_pair:LeNet5", "none", 98.89,
        _pgd(_M, 55.8, 0), False),
    Row("advertorch/mnist_lenet5_advtrained.pt", "advertorch_pair:LeNet5", "none", 98.64,
        _pgd(_M, 96.8, 92.4), True),
    Row("convex_adversarial/mnist.pth", f"{_F}m7_mnist", "none", 98.20, _pgd(_M, 95.8, 0), True),
)  # fmt: skip


def problem_of(row: Row, folder: Path, cifar: str) -> Problem:
    """The network of a row on all test images."""
    network = o.Network(
        dataset="mnist" if row.grey else cifar, data_dir=str(folder), model_type=row.network,
        normalize=NORMS[row.norm],
    )  # fmt: skip
    subject = open_network(str(folder / "checkpoints" / row.file), network)
    return Problem(subject.network, subject.images("test"), batch_size=100)


def scored(problem: Problem, attack: Attack | None) -> dict[str, float]:
    """Correct examples, how many there are, and the seconds it took."""
    start = time.perf_counter()
    correct = problem.under(attack).evaluate().correct
    return {"correct": int(correct.sum()), "examples": len(correct),
            "seconds": round(time.perf_counter() - start, 1)}  # fmt: skip


def tasks(row: Row) -> dict[str, str | None]:
    """What is to be computed of a row: its name, and the attack."""
    found = {"clean": None} | {
        f"PGD-20 {e}": f"name=pgd,eps={_explicit(e)},iterations=20" for e in row.pgd
    }
    if row.robust:
        found |= {f"AutoAttack {e}": f"name=autoattack,eps={_explicit(e)}" for e in row.pgd}
    return found


def _explicit(eps: str) -> str:
    return eps if "/" in eps else f"0{eps}"


def percent(found: dict[str, float]) -> float:
    """Accuracy in percent."""
    return 100 * found["correct"] / found["examples"]


def faults(row: Row, found: dict[str, dict[str, float]]) -> list[str]:
    """What is not as it should be, of the numbers that are there."""
    wrong = []
    if "clean" in found and abs(percent(found["clean"]) - row.clean) > 0.01 + 1e-9:
        wrong.append(f"{row.file}: clean {percent(found['clean']):.2f}, known {row.clean:.2f}")
    for eps, known in row.pgd.items():
        pgd, auto = found.get(f"PGD-20 {eps}"), found.get(f"AutoAttack {eps}")
        if pgd and abs(percent(pgd) - known) > 2 + 1e-9:
            wrong.append(f"{row.file}: PGD-20 at {eps} {percent(pgd):.1f}, known {known:.1f}")
        if pgd and auto and auto["correct"] > pgd["correct"]:
            wrong.append(f"{row.file}: AutoAttack at {eps} is above PGD-20")
    return wrong


def table(numbers: dict[str, dict]) -> str:
    """The Markdown table, the known accuracy in brackets behind ours."""
    lines = [
        "| checkpoint | clean | eps | PGD-20 | AutoAttack (95 % Wilson) |",
        "|---|---|---|---|---|",
    ]
    for row in ROWS:
        found = numbers.get(row.file, {})
        clean = f"{percent(found['clean']):.2f} ({row.clean:.2f})" if "clean" in found else ""
        for n, (eps, known) in enumerate(row.pgd.items() or [("", 0)]):
            pgd, auto = found.get(f"PGD-20 {eps}"), found.get(f"AutoAttack {eps}")
            cells = ["", "", eps, "", ""]
            if n == 0:
                cells[:2] = [row.file, clean]
            if pgd:
                cells[3] = f"{percent(pgd):.1f} ({known:.1f})"
            if auto:
                low, high = wilson(auto["correct"], auto["examples"])
                cells[4] = f"{percent(auto):.1f} ({100 * low:.1f} to {100 * high:.1f})"
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cost(task: tuple[Row, str, str | None]) -> tuple[bool, float]:
    """What is soon done comes first: AutoAttack is the slower the more examples stand."""
    row, name, _ = task
    return name.startswith("Auto"), row.pgd.get(name.split()[-1], 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_folder", type=Path, help="has MNIST/raw and checkpoints")
    parser.add_argument("--cifar", default="cifar10", help="cifar10, or an .npz file of it")
    parser.add_argument("--out_file", type=Path, default=Path("runs/shared_checkpoints.json"))
    options = parser.parse_args()
    out, numbers = options.out_file, {}
    if out.is_file():
        numbers = json.loads(out.read_text())
    out.parent.mkdir(parents=True, exist_ok=True)
    everything = [(row, name, spec) for row in ROWS for name, spec in tasks(row).items()]
    for row, name, spec in sorted(everything, key=_cost):
        found = numbers.setdefault(row.file, {})
        if name in found:
            continue
        problem = problem_of(row, options.data_folder, options.cifar)
        if spec is not None:
            problem = problem.on(problem.images.take(torch.arange(FIRST)))
        found[name] = scored(problem, spec and parse_attack(spec))
        write_atomically(out, lambda path: path.write_text(json.dumps(numbers, indent=1)))
        print(
            f"{row.file}, {name}: {percent(found[name]):.2f} % in {found[name]['seconds']} s",
            flush=True,
        )
    print(table(numbers))
    wrong = [fault for row in ROWS for fault in faults(row, numbers.get(row.file, {}))]
    print("\n".join(wrong) or "all as known")
    return int(bool(wrong))


if __name__ == "__main__":
    raise SystemExit(main())
