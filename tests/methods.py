"""Every training method as its registry builds it, in the cases that the shared tests run over."""

from __future__ import annotations

import importlib
import json
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ridgeline.train.attacks import PGD
from ridgeline.train.data.augmentation import CROP_AND_FLIP
from ridgeline.train.files.checkpoint import load_checkpoint
from ridgeline.train.files.run_files import RunFiles
from ridgeline.train.loop import fit
from ridgeline.train.methods import METHODS, Method, Setup
from ridgeline.train.optimizers import parse_optimizer
from ridgeline.train.schedules import parse_schedule
from tests.conftest import ROOT, make_images

PAS = parse_schedule("name=cycle_cos,eps_min=0,eps_max=0.2,ckpt_list=0:3,max=0.1", "--s")
TRAINED = make_images(24)
SGD = parse_optimizer("name=sgd,lr=0.05,momentum=0.9")


class Staged(nn.Module):
    """The smallest network with stages: a stem, four blocks with BatchNorm, a classifier."""

    block_inputs = ("layer2.0", "layer4.0")

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 2, 3)
        for n in (1, 2, 3, 4):
            self.add_module(f"layer{n}", nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)))
        self.dropout = nn.Dropout(0.2)
        self.classifier = nn.Linear(32, 4)

    def forward(self, x):
        x = self.conv1(x)
        for n in (1, 2, 3, 4):
            x = torch.relu(self.get_submodule(f"layer{n}")(x))
        return self.classifier(self.dropout(x.flatten(1)))


def staged(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return Staged()


@dataclass(frozen=True)
class Case:
    """A method by its name in METHODS, some of its options, and a run that shows what it does."""

    method: str
    options: dict[str, Any] = field(default_factory=dict)
    epochs: int = 2
    #: kill it after every so many writes: more than one where a run is long
    every: int = 1

    def build(self, seed: int = 0, **setup: Any) -> Method:
        """The method on a small network drawn with `seed`."""
        kind = METHODS[self.method]
        surroundings = {
            "images": TRAINED, "attack": PGD(eps=0.1, iterations=1), "optimizer": SGD,
            "epochs": self.epochs, "augment": CROP_AND_FLIP, "seed": 1, "fresh": staged, **setup,
        }  # fmt: skip
        return kind.build(staged(seed), Setup(**surroundings), kind.options_type(**self.options))


_CASES = {
    "pas": Case("adversarial", {"attack_threshold_schedule": PAS}),
    "swa": Case("adversarial", {"attack_threshold_schedule": PAS, "average": "swa"}),
    "ema": Case("adversarial", {"average": "ema", "average_decay": 0.9, "average_from": 1}),
    "trades": Case("adversarial", {"objective": "trades", "awp_gamma": 0.01}),
    "apart": Case("apart", {"max_lr_alpha": 1e-4, "weight_decay_alpha": 1.0}),
    "fgsm_plus": Case("apart", {"method": "fgsm_plus", "max_lr_alpha": 1e-4}),
    "pgd": Case("apart", {"method": "pgd", "iter_num": 2}),
    "cure": Case("cure", {"ema_update_freq": 0.5, "conserve": "strict"}),
    "cure_eff": Case("cure", {"ema_update_freq": 1.0, "epochs_warmup": 1, "rev_bn": "running"}),
    "fomo": Case("fomo", {"fomo_warmup": 0, "fomo_relearn": 1, "fomo_ema_decay": 0.5,
                          "fomo_consolidate": "phase_end"}),
    "fomo_all": Case("fomo", {"fomo_warmup": 1, "fomo_relearn": 2, "fomo_rate": 0.1,
                              "fomo_consolidate": "iter_all", "awp_gamma": 0.01}, 5, 3),
    "liet": Case("liet", {"inherent_every": 1, "average_decay": 0.9, "wide": False}),
    "liet_plain": Case("liet", {"average_decay": None, "consistency": 0.0}),
    "signal": Case("frequency", {"basis_filter": "SD", "init_scale": "signal"}),
}  # fmt: skip


def cases() -> dict[str, Case]:
    """Every case; a method of the registry without one is tested with its default options."""
    tried = {case.method for case in _CASES.values()}
    return {**{name: Case(name) for name in METHODS if name not in tried}, **_CASES}


def train(method: Method, files: RunFiles | None = None, resume: dict | None = None,
          **options: Any) -> list[dict]:  # fmt: skip
    """Two batches an epoch through the one loop; the state is written after every batch."""
    chosen = {"epochs": method.setup.epochs, "batch_size": 12, "keep_epochs": (2,),
              "augment": method.setup.augment, "seed": method.setup.seed, "optimizer": SGD,
              "validation": make_images(5, seed=2), "state_seconds": -1, **options}  # fmt: skip
    return fit(method, TRAINED, make_images(5, seed=3), files=files, resume=resume, **chosen)


def content(folder: Path) -> dict[str, object]:
    """Every file: tensors of checkpoints, metrics without the seconds."""
    found: dict[str, object] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix == ".ckpt":
            read = load_checkpoint(path)
            found[path.name] = {k: v.tolist() for k, v in read.tensors.items()}, read.recipe
        elif path.suffix == ".jsonl":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            found[path.name] = [{k: v for k, v in m.items() if "seconds" not in k} for m in lines]
        elif path.suffix != ".lock":
            found[path.name] = None
    return found


def command_of(kind: type[Method]) -> Callable[..., None] | None:
    """The main of the training command that spreads this method's options, if one does."""
    for path in sorted((ROOT / "run").glob("train_*.py")):
        main = importlib.import_module(f"ridgeline.run.{path.stem}").main
        if kind.options_type in typing.get_type_hints(main).values():
            return main
    return None
